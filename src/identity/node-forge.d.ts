// node-forge takes these options since 1.3.2; its published types know only the older boolean.
export {}

declare module 'node-forge' {
  namespace asn1 {
    function fromDer(
      bytes: Bytes,
      options: { strict: boolean; parseAllBytes: boolean; decodeBitStrings: boolean; maxDepth: number },
    ): asn1.Asn1
  }
}
