import { inspect } from 'node:util'

const REDACTED = '[redacted]'

/**
 * Returns a private key as a Buffer that `inspect`, `JSON.stringify`, and string conversion do not show. Node.js keeps
 * the key in the options of a TLS server, which can be reached from each of its sockets, and `https.Agent` puts it into
 * the names of its connections. OpenSSL reads the bytes.
 */
export function secretPem(pem: string): Buffer {
  const bytes = Buffer.from(pem)
  const redacted = { value: () => REDACTED }
  return Object.defineProperties(bytes, {
    [inspect.custom]: redacted,
    toJSON: redacted,
    toString: redacted,
    toLocaleString: redacted,
  })
}
