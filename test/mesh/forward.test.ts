import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { tmpdir } from 'node:os'
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
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'

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

/** Answers everything that was said with the same, once all was said. */
async function echoWhole(socket: MeshSocket): Promise<void> {
  const chunks: Buffer[] = []
  // Otherwise a stream that was read to its end is destroyed.
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  socket.end(Buffer.concat(chunks))
}

describe('a forward', () => {
  it('is a port of the loopback, and speaks as the service that opened it', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const forward = await join('web').forward('api', { port: 0 })
    assert.equal((forward.address() as AddressInfo).address, '127.0.0.1')
    assert.equal(await readAll(local(forward)), 'hello web')
  })

  it('lets one side end and be answered still, and copies every byte', async (t) => {
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

  it('may be a unix socket, which is for its user alone', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const folder = mkdtempSync(joinPath(tmpdir(), 'consul-connect-'))
    t.after(() => {
      rmSync(folder, { recursive: true })
    })
    const path = joinPath(folder, 'api.sock')
    const forward = await join('web').forward('api', { path })
    assert.equal(forward.address(), path)
    assert.equal(statSync(path).mode & 0o777, 0o600)
    assert.equal(await readAll(local(forward)), 'hello web')
    await forward.close()
    assert.throws(() => statSync(path), { code: 'ENOENT' })
  })

  it('resets a connection that it cannot take to the upstream, and says why', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const forward = await web.forward('nobody', { port: 0 })
    const warned = new Promise<Error>((resolve) => web.once('warning', resolve))
    const error = await rejection(readAll(local(forward)))
    assert.equal(error.code, 'ECONNRESET')
    const warning = await warned
    assert.ok(warning instanceof DialError)
    assert.equal(warning.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(warning.reason, 'unknown')
  })

  it('tells an upstream that denies us from one with nothing to say', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    agent.setIntention('web', 'api', 'deny')
    const web = join('web')
    for (const speak of [false, true]) {
      const forward = await web.forward('api', { port: 0 })
      const warned = new Promise<Error & { code?: string }>((resolve) => web.once('warning', resolve))
      const socket = local(forward)
      if (speak) socket.write('hello?')
      assert.equal((await rejection(readAll(socket))).code, 'ECONNRESET')
      assert.equal((await warned).code, 'ERR_CONNECT_REJECTED')
    }
  })

  it('goes on leading where it led when it was opened', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const upstream = { service: 'api' }
    const forward = await join('web').forward(upstream, { port: 0 })
    upstream.service = 'other'
    assert.equal(await readAll(local(forward)), 'hello web')
  })

  it('sees a reset of the local side while it dials', async (t) => {
    const { join } = await startMesh(t)
    let asked: ((signal: AbortSignal) => void) | undefined
    const dialling = new Promise<AbortSignal>((resolve) => (asked = resolve))
    const never = new Promise<never>(() => undefined)
    const slow: Resolver = {
      name: 'slow',
      resolve: ({ signal }) => {
        asked?.(signal)
        return never
      },
    }
    const forward = await join('web').forward(slow, { port: 0 })
    const socket = local(forward)
    const signal = await dialling
    const aborted = once(signal, 'abort')
    socket.resetAndDestroy()
    await aborted
  })

  it('that is destroyed stops dialling', async (t) => {
    const { join } = await startMesh(t)
    let asked: ((signal: AbortSignal) => void) | undefined
    const dialling = new Promise<AbortSignal>((resolve) => (asked = resolve))
    const never = new Promise<never>(() => undefined)
    const slow: Resolver = {
      name: 'slow',
      resolve: ({ signal }) => {
        asked?.(signal)
        return never
      },
    }
    const forward = await join('web').forward(slow, { port: 0 })
    const socket = local(forward)
    const broken = once(socket, 'error')
    const signal = await dialling
    forward.destroy()
    await once(signal, 'abort')
    await broken
    assert.equal(forward.connections, 0)
  })

  it('cuts a connection on which nothing moves for too long', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const forward = await join('web').forward('api', { port: 0, idleTimeoutMs: 50 })
    const socket = local(forward)
    await once(socket, 'data')
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNRESET')
  })

  it('drains on close, and cuts what has not ended in time', async (t) => {
    const { join } = await startMesh(t)
    const held: MeshSocket[] = []
    await offer(join('api'), (socket) => {
      held.push(socket)
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
    held[0]?.end('y')
    first.end()
    await closing
    const cut = once(second, 'error')
    await hasty.close({ drainTimeoutMs: 1 })
    assert.equal(((await cut)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    assert.deepEqual([patient.connections, hasty.connections], [0, 0])
    assert.deepEqual([patient.address(), hasty.address()], [null, null])
    await patient.close()
  })

  it('may be closed in less time than a close before has given', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const forward = await join('web').forward('api', { port: 0 })
    const socket = local(forward)
    await once(socket, 'data')
    const patient = forward.close({ drainTimeoutMs: 2 ** 40 })
    const cut = once(socket, 'error')
    await forward.close({ drainTimeoutMs: 1 })
    assert.equal(((await cut)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    await patient
  })

  it('tells of each connection: who it was taken to, how much went each way, and how it ended', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, echoWhole)
    const address = `127.0.0.1:${portOf(listener)}`
    const forward = await join('web').forward({ address, service: 'api' }, { port: 0 })
    const told: string[] = []
    forward.on('accepted', ({ peer, dialMs, sent }) =>
      told.push(`accepted ${peer?.service} ${dialMs} ${sent}`),
    )
    forward.on('dialled', ({ peer, remote }) => told.push(`dialled ${peer?.service} ${remote}`))
    const ended = new Promise<ForwardConnection>((resolve) => forward.once('ended', resolve))
    const socket = local(forward)
    socket.end('hello')
    assert.equal(await readAll(socket), 'hello')
    const { sent, received, dialMs, durationMs, error } = await ended
    assert.deepEqual(told, ['accepted undefined undefined 0', `dialled api ${address}`])
    assert.deepEqual([sent, received, error], [5, 5, undefined])
    assert.ok(dialMs !== undefined && dialMs > 0 && dialMs <= durationMs)
  })

  it('tells of a connection that could not be taken to the upstream', async (t) => {
    const { join } = await startMesh(t)
    const forward = await join('web').forward('nobody', { port: 0 })
    const ended = new Promise<ForwardConnection>((resolve) => forward.once('ended', resolve))
    const socket = local(forward)
    socket.on('error', () => undefined)
    const { error, dialMs, peer } = await ended
    assert.equal((error as DialError).code, 'ERR_CONNECT_NO_INSTANCES')
    assert.deepEqual([dialMs, peer], [undefined, undefined])
  })

  it('goes with its service', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), (socket) => socket.write('x'))
    const web = join('web')
    const forward = await web.forward('api', { port: 0 })
    const socket = local(forward)
    await once(socket, 'data')
    const broken = once(socket, 'error')
    web.destroy()
    assert.equal(((await broken)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    await web.close()
    assert.equal(forward.address(), null)
    assert.equal((await rejection(web.forward('api', { port: 0 }))).code, 'ERR_CONNECT_CLOSED')
  })

  it('says which address it cannot have', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const taken = await web.forward('api', { port: 0 })
    const error = await rejection(web.forward('api', { port: portTo(taken) }))
    assert.ok(error instanceof ConnectError)
    assert.equal(error.code, 'ERR_CONNECT_LISTEN')
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1, port ${portTo(taken)}.*EADDRINUSE`))
  })

  for (const [what, options] of [
    ['neither a port nor a path', {}],
    ['both', { port: 1, path: '/tmp/x' }],
    ['a port that is none', { port: 65536 }],
    ['an unknown option', { port: 0, bind: '0.0.0.0' }],
    ['an idle time of nothing', { port: 0, idleTimeoutMs: 0 }],
  ] as const) {
    it(`takes no options with ${what}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('web').forward('api', options as never))).code, 'ERR_CONNECT_OPTION')
    })
  }

  it('comes and goes a hundred times while others carry on', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const echo = (socket: MeshSocket): unknown => socket.pipe(socket)
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, echo)
    await api.register({ port: portOf(listener), address: '127.0.0.1' })
    const web = join('web')
    const steady = await web.forward('api', { port: 0 })
    const socket = local(steady)
    const bytes = randomBytes(4_000_000)
    let received = 0
    const all = new Promise<void>((resolve) => {
      socket.on('data', (chunk: Buffer) => {
        assert.equal(chunk.equals(bytes.subarray(received, received + chunk.length)), true)
        received += chunk.length
        if (received === bytes.length) resolve()
      })
    })
    for (let i = 0; i < 100; i += 1) {
      const forward = await web.forward('api', { port: 0 })
      socket.write(bytes.subarray(i * 40_000, (i + 1) * 40_000))
      const other = local(forward)
      other.write(`${i}`)
      assert.equal(String((await once(other, 'data'))[0]), `${i}`)
      other.end()
      await forward.close()
    }
    await all
    socket.end()
    await steady.close()
    assert.equal(listener.connections, 0)
  })
})
