import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { TLSSocket } from 'node:tls'
import type { Generation } from '../../src/identity/identity-store.js'
import { type HandshakeFault, Handshakes } from '../../src/transport/inbound/handshakes.js'

describe('Handshakes', () => {
  it('forgets a handshake that ends after its peer has reset the connection', async (t) => {
    const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [accepted] = (await once(server, 'connection')) as [Socket]
    accepted.on('error', () => undefined)
    const pending = new Handshakes(
      { count: 10, timeoutMs: 60_000 },
      { fault: () => undefined, empty: () => undefined },
    )
    pending.begin(accepted, {} as Generation)
    const socket = new TLSSocket(accepted, { isServer: true })
    t.after(() => socket.on('error', () => undefined).destroy())
    client.resetAndDestroy()
    await once(client, 'close')
    assert.equal(socket.remoteAddress, undefined)
    assert.notEqual(pending.end(socket), undefined)
    assert.equal(pending.size, 0)
  })

  it('ends a handshake that takes too long before its first message is complete', async (t) => {
    const server = createServer().listen(0, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => undefined)
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const faults: HandshakeFault[] = []
    const begin = performance.now()
    const empty = new Promise<void>((resolve) => {
      const on = { fault: (_: Socket, fault: HandshakeFault) => faults.push(fault), empty: resolve }
      new Handshakes({ count: 10, timeoutMs: 150 }, on).begin(accepted, {} as Generation)
    })
    client.write(Buffer.from([22, 3, 1, 2, 0, 1]))
    await Promise.all([empty, once(client, 'close')])
    assert.ok(performance.now() - begin >= 150)
    assert.deepEqual(faults.map(Object.keys), [['durationMs']])
  })

  it('tracks every handshake of a Unix socket, and reports none that sent no byte', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'consul-connect-'))
    t.after(() => {
      rmSync(folder, { recursive: true })
    })
    const path = join(folder, 'socket')
    const accepted: Socket[] = []
    const server = createServer((socket) => accepted.push(socket)).listen(path)
    t.after(() => server.close())
    await once(server, 'listening')
    const faults: HandshakeFault[] = []
    const clients = [connect(path), connect(path)]
    const empty = new Promise<void>((resolve) => {
      const on = { fault: (_: Socket, fault: HandshakeFault) => faults.push(fault), empty: resolve }
      const pending = new Handshakes({ count: 10, timeoutMs: 100 }, on)
      server.on('connection', (socket) => {
        pending.begin(socket, {} as Generation)
      })
    })
    const closed = clients.map((client) => once(client, 'close'))
    await Promise.all([empty, ...closed])
    assert.deepEqual([accepted.length, faults], [2, []])
  })
})
