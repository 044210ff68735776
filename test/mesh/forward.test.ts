import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { join as joinPath } from 'node:path'
import { describe, it } from 'node:test'
import {
  ConnectError,
  DialError,
  type Forward,
  type ForwardConnection,
  type MeshSocket,
  type Resolver,
} from '../../src/index.js'
import { greet, nextEvent, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'

function portTo(forward: Forward): number {
  return (forward.address() as AddressInfo).port
}

function local(forward: Forward): Socket {
  const address = forward.address()
  assert.ok(address !== null)
  return typeof address === 'string'
    ? connect({ path: address, allowHalfOpen: true })
    : connect({ port: address.port, host: address.address, allowHalfOpen: true })
}

/** Reads everything, and then sends it back. */
async function echoWhole(socket: MeshSocket): Promise<void> {
  const chunks: Buffer[] = []
  // By default the iterator destroys the socket at its end.
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  socket.end(Buffer.concat(chunks))
}

describe('a forward', () => {
  it('listens on loopback and dials as its service', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const forward = await join('web').forward('api', { port: 0 })
    assert.equal((forward.address() as AddressInfo).address, '127.0.0.1')
    assert.equal(await readAll(local(forward)), 'hello web')
  })

  it('copies every byte, also after one side has ended', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, echoWhole)
    const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
    const forward = await join('web').forward(upstream, { port: 0 })
    const bytes = randomBytes(3_000_000)
    const socket = local(forward)
    socket.end(bytes)
    const answer: Buffer[] = []
    for await (const chunk of socket) answer.push(chunk as Buffer)
    assert.equal(Buffer.concat(answer).equals(bytes), true)
  })

  it('can listen on a unix socket, which only its user can open', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const path = joinPath(temporaryFolder(t), 'api.sock')
    const forward = await join('web').forward('api', { path })
    assert.equal(forward.address(), path)
    assert.equal(statSync(path).mode & 0o777, 0o600)
    assert.equal(await readAll(local(forward)), 'hello web')
    await forward.close()
    assert.throws(() => statSync(path), { code: 'ENOENT' })
  })

  it('resets connections when its dial fails, and reports the error', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const forward = await web.forward('missing', { port: 0 })
    const warned = nextEvent(web, 'warning')
    const ended = new Promise<ForwardConnection>((resolve) => forward.once('ended', resolve))
    const error = await rejection(readAll(local(forward)))
    assert.equal(error.code, 'ECONNRESET')
    const [warning] = await warned
    assert.ok(warning instanceof DialError)
    assert.equal(warning.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(warning.reason, 'unknown')
    const { error: reported, dialMs, peer } = await ended
    assert.equal((reported as DialError).code, 'ERR_CONNECT_NO_INSTANCES')
    assert.deepEqual([dialMs, peer], [undefined, undefined])
  })

  it('resets connections that the upstream denies, and reports the error', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    agent.setIntention('web', 'api', 'deny')
    const web = join('web')
    for (const hasSent of [false, true]) {
      const forward = await web.forward('api', { port: 0 })
      const warned = nextEvent(web, 'warning')
      const socket = local(forward)
      if (hasSent) socket.write('hello?')
      assert.equal((await rejection(readAll(socket))).code, 'ECONNRESET')
      assert.equal(((await warned)[0] as { code?: string }).code, 'ERR_CONNECT_REJECTED')
    }
  })

  it('copies its upstream when it is opened', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const upstream = { service: 'api' }
    const forward = await join('web').forward(upstream, { port: 0 })
    upstream.service = 'other'
    assert.equal(await readAll(local(forward)), 'hello web')
  })

  for (const end of ['the local connection is reset', 'the forward is destroyed'] as const) {
    it(`aborts its dial when ${end}`, async (t) => {
      const { join } = await startMesh(t)
      let signal: AbortSignal | undefined
      const pending: Resolver = {
        name: 'pending',
        resolve: (options) => {
          ;({ signal } = options)
          return new Promise<never>(() => undefined)
        },
      }
      const forward = await join('web').forward(pending, { port: 0 })
      const socket = local(forward)
      const closed = new Promise((resolve) => socket.on('error', () => undefined).on('close', resolve))
      const aborted = once(await until('the dial has begun', () => signal), 'abort')
      if (end === 'the forward is destroyed') forward.destroy()
      else socket.resetAndDestroy()
      await Promise.all([aborted, closed])
      if (end === 'the forward is destroyed') assert.equal(forward.connections, 0)
    })
  }

  it('resets idle connections after idleTimeoutMs', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const forward = await join('web').forward('api', { port: 0, idleTimeoutMs: 50 })
    const socket = local(forward)
    await once(socket, 'data')
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNRESET')
  })

  it('drains on close, and resets connections after the drain timeout', async (t) => {
    const { join } = await startMesh(t)
    const accepted: MeshSocket[] = []
    await offer(join('api'), (socket) => {
      accepted.push(socket)
      socket.write('x')
    })
    const web = join('web')
    const [patient, hasty] = [await web.forward('api', { port: 0 }), await web.forward('api', { port: 0 })]
    const port = portTo(patient)
    const first = local(patient)
    await once(first, 'data')
    const second = local(hasty)
    await once(second, 'data')
    assert.deepEqual([patient.connections, hasty.connections], [1, 1])
    const closing = patient.close()
    assert.equal((await rejection(once(connect(port, '127.0.0.1'), 'connect'))).code, 'ECONNREFUSED')
    accepted[0]?.end('y')
    first.end()
    await closing
    const reset = once(second, 'error')
    await hasty.close({ drainTimeoutMs: 1 })
    assert.equal(((await reset)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    assert.deepEqual([patient.connections, hasty.connections], [0, 0])
    assert.deepEqual([patient.address(), hasty.address()], [null, null])
    await patient.close()
  })

  it('respects the shorter drain timeout of a second close', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const forward = await join('web').forward('api', { port: 0 })
    const socket = local(forward)
    await once(socket, 'data')
    const patient = forward.close({ drainTimeoutMs: 2 ** 40 })
    const reset = once(socket, 'error')
    await forward.close({ drainTimeoutMs: 1 })
    assert.equal(((await reset)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    await patient
  })

  it('reports the peer, the byte counts, and the end of each connection', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, echoWhole)
    const address = `127.0.0.1:${portOf(listener)}`
    const forward = await join('web').forward({ address, service: 'api' }, { port: 0 })
    const events: string[] = []
    forward.on('accepted', ({ peer, dialMs, sent }) =>
      events.push(`accepted ${peer?.service} ${dialMs} ${sent}`),
    )
    forward.on('dialed', ({ peer, remote }) => events.push(`dialed ${peer?.service} ${remote}`))
    const ended = new Promise<ForwardConnection>((resolve) => forward.once('ended', resolve))
    const socket = local(forward)
    socket.end('hello')
    assert.equal(await readAll(socket), 'hello')
    const { sent, received, dialMs, durationMs, error } = await ended
    assert.deepEqual(events, ['accepted undefined undefined 0', `dialed api ${address}`])
    assert.deepEqual([sent, received, error], [5, 5, undefined])
    assert.ok(dialMs !== undefined && dialMs > 0 && dialMs <= durationMs)
  })

  it('ends with its service', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const web = join('web')
    const forward = await web.forward('api', { port: 0 })
    const socket = local(forward)
    await once(socket, 'data')
    const reset = once(socket, 'error')
    web.destroy()
    assert.equal(((await reset)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    await web.close()
    assert.equal(forward.address(), null)
    assert.equal((await rejection(web.forward('api', { port: 0 }))).code, 'ERR_CONNECT_CLOSED')
  })

  it('names the address that it cannot bind', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const taken = await web.forward('api', { port: 0 })
    const error = await rejection(web.forward('api', { port: portTo(taken) }))
    assert.ok(error instanceof ConnectError)
    assert.equal(error.code, 'ERR_CONNECT_LISTEN')
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1, port ${portTo(taken)}.*EADDRINUSE`))
  })

  for (const [fault, options] of [
    ['neither a port nor a path', {}],
    ['both a port and a path', { port: 1, path: '/tmp/x' }],
    ['a port above 65535', { port: 65536 }],
    ['an unknown option', { port: 0, bind: '0.0.0.0' }],
    ['an idle timeout of 0', { port: 0, idleTimeoutMs: 0 }],
  ] as const) {
    it(`rejects options with ${fault}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('web').forward('api', options as never))).code, 'ERR_CONNECT_OPTION')
    })
  }
})
