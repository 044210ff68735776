// node-forge's published types know the whole alone, and not its parts.
declare module 'node-forge/lib/asn1.js' {
  import forge from 'node-forge'
  export default forge.asn1
}
