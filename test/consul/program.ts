// A service in a separate process. Executes the commands of its parent over IPC, and reports its events.
// Usage: `program.ts <name> <agent address>`.
import type { AddressInfo } from 'node:net'
import { type MeshSocket, service } from '../../src/index.js'
import { readAll } from '../fixtures/mesh.js'

export type Command =
  | { readonly id: number; readonly call: 'offer' }
  | { readonly id: number; readonly call: 'dial'; readonly upstream: string; readonly message: string }
  | { readonly id: number; readonly call: 'close' }

export interface DialResult {
  /** The SPIFFE ID of the peer. */
  readonly peer: string
  readonly answer: string
}

export type Report =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } }
  | { readonly event: 'handled'; readonly peer: string }
  | { readonly event: 'denied'; readonly peer: string; readonly reason: string; readonly message: string }
  | { readonly event: 'warning'; readonly message: string }

const [name = '', address = ''] = process.argv.slice(2)
const self = service(name, { agent: { address, env: {} } })

self.on('denied', ({ peer, reason, message }) => {
  report({ event: 'denied', peer: peer.spiffeId, reason, message })
})
self.on('warning', ({ message }) => {
  report({ event: 'warning', message })
})
// The parent process has exited.
process.once('disconnect', () => {
  self.destroy()
})
process.on('message', (command: Command) => {
  void run(command).then(
    (result) => {
      report({ id: command.id, result })
      if (command.call === 'close') process.disconnect()
    },
    (error: unknown) => {
      const { code = '', message } = error as Error & { code?: string }
      report({ id: command.id, error: { code, message } })
    },
  )
})

function report(message: Report): void {
  process.send?.(message)
}

function run(command: Command): Promise<unknown> {
  switch (command.call) {
    case 'offer':
      return offer()
    case 'dial':
      return dial(command.upstream, command.message)
    case 'close':
      return self.close()
  }
}

async function offer(): Promise<number> {
  const listener = await self.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    report({ event: 'handled', peer: socket.peer.spiffeId })
    socket.once('data', (message: Buffer) =>
      socket.end(`${name} received ${message.toString()} from ${socket.peer.spiffeId}`),
    )
  })
  const { port } = listener.address() as AddressInfo
  await self.register({ port, address: '127.0.0.1' })
  return port
}

async function dial(upstream: string, message: string): Promise<DialResult> {
  const socket: MeshSocket = await self.dial(upstream)
  socket.write(message)
  return { peer: socket.peer.spiffeId, answer: await readAll(socket) }
}
