// Options of node-forge 1.3.2 and later; its published types have only the older boolean.
export {}

declare module 'node-forge' {
  namespace asn1 {
    function fromDer(
      bytes: Bytes,
      options: { strict: boolean; parseAllBytes: boolean; decodeBitStrings: boolean; maxDepth: number },
    ): asn1.Asn1
  }
}
