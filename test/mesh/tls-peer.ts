// TLS peers without the library, so that a test chooses their certificates and their behavior.
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { type TLSSocket, type TlsOptions, createServer } from 'node:tls'

export interface TlsPeerOptions {
  readonly cert: string
  readonly key: string
  readonly ca: string
  /** Checks the chain only: certificates of the mesh contain no host names. */
  readonly checkServerIdentity: () => undefined
}

/** Options of `tls.connect` and `tls.createServer` with this leaf, which trust this CA. */
export function tlsOptions(
  { chainPem, privateKeyPem }: { readonly chainPem: string; readonly privateKeyPem: string },
  { rootPem }: { readonly rootPem: string },
): TlsPeerOptions {
  return { cert: chainPem, key: privateKeyPem, ca: rootPem, checkServerIdentity: () => undefined }
}

export interface TlsServer {
  readonly port: number
  /** `127.0.0.1:port` */
  readonly address: string
  /** How many TCP connections the server has accepted. */
  readonly accepted: () => number
}

/** Starts a TLS server on loopback. */
export async function startTlsServer(
  t: TestContext,
  options: TlsOptions,
  handler: (socket: TLSSocket) => void = (socket) => socket.end('hello'),
): Promise<TlsServer> {
  let accepted = 0
  const server = createServer(options, (socket) => {
    socket.on('error', () => undefined)
    handler(socket)
  })
  server.on('connection', () => (accepted += 1)).on('tlsClientError', () => undefined)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  return { port, address: `127.0.0.1:${port}`, accepted: () => accepted }
}
