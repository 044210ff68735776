import { once } from 'node:events'
import { type AddressInfo, type Socket, createServer } from 'node:net'
import type { TestContext } from 'node:test'

export interface TcpServer {
  readonly port: number
  /** `127.0.0.1:port` */
  readonly address: string
  /** How many connections the server has accepted. */
  readonly accepted: () => number
  /** How many connections are open. */
  readonly open: () => number
  /** Resolves with the first connection. */
  readonly connected: Promise<Socket>
  /** Resolves when the first connection has closed. */
  readonly closed: Promise<unknown>
}

/** Starts a TCP server on loopback that is silent by default: it accepts connections and sends nothing. */
export async function startTcpServer(
  t: TestContext,
  onConnection: (socket: Socket) => void = () => undefined,
): Promise<TcpServer> {
  const sockets = new Set<Socket>()
  let accepted = 0
  const server = createServer((socket) => {
    accepted += 1
    sockets.add(socket)
    // Without a reader the end of the connection would not be noticed.
    socket
      .on('error', () => undefined)
      .on('close', () => sockets.delete(socket))
      .resume()
    onConnection(socket)
  }).listen(0, '127.0.0.1')
  const connected = once(server, 'connection').then(([socket]) => socket as Socket)
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    port,
    address: `127.0.0.1:${port}`,
    accepted: () => accepted,
    open: () => sockets.size,
    connected,
    closed: connected.then(
      (socket) => socket.closed || new Promise((resolve) => socket.once('close', resolve)),
    ),
  }
}
