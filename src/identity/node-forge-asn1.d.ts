// The published types of node-forge lack its parts.
declare module 'node-forge/lib/asn1.js' {
  import forge from 'node-forge'
  export default forge.asn1
}
