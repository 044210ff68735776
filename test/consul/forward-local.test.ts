import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { test } from 'node:test'
import {
  DialError,
  type Forward,
  type Listener,
  type MeshSocket,
  type NoInstancesReason,
  type Service,
} from '../../src/index.js'
import { offer } from '../fixtures/mesh.js'
import { proxyInbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { type Exchange, echo, exchange, plainConnect, plainEcho } from './service-echo.js'
import { WAIT_MS, agentJson, instances, joiner, register, until } from './service-mesh.js'

/** Around the sizes of a TLS record and of a pipe's buffer, and beyond any socket's. */
const SIZES = [1, 16_384, 16_385, 65_537, 1 << 20, 8 << 20]
const MANY = 100

test('a service behind the built-in proxy, as a local port', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  const application = await plainEcho(t)
  await proxyInbound(t, consul, 'svc', application.port)
  await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)

  await t.test('byte for byte', async () => {
    const forward = await web.forward('svc', { port: 0 })
    for (const size of SIZES) assertWhole(await exchange(await plainConnect(portOf(forward)), size), size)
    await forward.close()
  })

  await t.test('many at once', async () => {
    const forward = await web.forward('svc', { port: 0 })
    const all = Array.from({ length: 32 }, async () => exchange(await plainConnect(portOf(forward)), 65_537))
    for (const each of await Promise.all(all)) assertWhole(each, 65_537)
    await forward.close()
  })

  await t.test('on the loopback, unless something else is said', async () => {
    const forward = await web.forward('svc', { port: 0 })
    assert.equal((forward.address() as AddressInfo).address, '127.0.0.1')
    await forward.close()
  })

  await t.test('by a prepared query', async () => {
    const query = { Name: 'to-svc', Service: { Service: 'svc' } }
    await agentJson(consul, '/v1/query', { method: 'POST', body: JSON.stringify(query) })
    const forward = await web.forward({ query: 'to-svc' }, { port: 0 })
    assertWhole(await exchange(await plainConnect(portOf(forward)), 65_537), 65_537)
    await forward.close()
  })

  await t.test('as a unix socket, for this user alone', async () => {
    const folder = await mkdtemp(joinPath(tmpdir(), 'consul-connect-'))
    try {
      const path = joinPath(folder, 'svc.sock')
      const forward = await web.forward('svc', { path })
      assert.equal(forward.address(), path)
      const { mode } = await stat(path)
      assert.equal(mode & 0o777, 0o600)
      for (const size of SIZES) {
        const socket = connect(path)
        await once(socket, 'connect', { signal: AbortSignal.timeout(WAIT_MS) })
        assertWhole(await exchange(socket, size), size)
      }
      await forward.close()
      assert.deepEqual(await readdir(folder), [])
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  await t.test('a hundred that come and go, while traffic flows through others', async (t) => {
    const before = listening()
    const lasting = await Promise.all([1, 2, 3].map(() => web.forward('svc', { port: 0 })))
    const ending = new AbortController()
    const flows = lasting.map(async (forward) => {
      let exchanges = 0
      for (; !ending.signal.aborted; exchanges += 1) {
        assertWhole(await exchange(await plainConnect(portOf(forward)), 1 << 18), 1 << 18)
      }
      return exchanges
    })
    const ports: number[] = []
    const work = Array.from({ length: 4 }, async () => {
      for (let i = 0; i < MANY / 4; i += 1) {
        const forward = await web.forward('svc', { port: 0 })
        ports.push(portOf(forward))
        assertWhole(await exchange(await plainConnect(portOf(forward)), 16_385), 16_385)
        await forward.close()
        assert.equal(forward.address(), null)
      }
    })
    await Promise.all(work)
    ending.abort()
    const exchanges = await Promise.all(flows)
    t.diagnostic(JSON.stringify({ forwards: ports.length, exchanges }))
    assert.ok(exchanges.every((count) => count > 0))
    await Promise.all(lasting.map((forward) => forward.close()))
    assert.equal(listening(), before)
    for (const port of ports) assert.equal(await refusal(port), 'ECONNREFUSED')
  })

  await t.test('one that is closed lets what is open end, and takes nothing new', async () => {
    const forward = await web.forward('svc', { port: 0 })
    const port = portOf(forward)
    const open = await plainConnect(port)
    await until('it is taken', () => forward.connections === 1)
    const closing = forward.close()
    assert.equal(await refusal(port), 'ECONNREFUSED')
    assertWhole(await exchange(open, 65_537), 65_537)
    await closing
    assert.equal(forward.connections, 0)
  })
})

test('a service of our own, as a local port', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  await t.test('answers after the caller has said everything', async () => {
    const api = join('counting')
    await offerHalfOpen(api, answerAtTheEnd)
    const forward = await web.forward('counting', { port: 0 })
    for (const size of SIZES) {
      const socket = connect({ port: portOf(forward), host: '127.0.0.1', allowHalfOpen: true })
      const payload = randomBytes(size)
      socket.end(payload)
      const answer = await readWhole(socket)
      assert.equal(answer.subarray(0, 64).toString(), sha256(payload), `${size} bytes`)
      assert.equal(sha256(answer.subarray(64)), sha256(payload), `${size} bytes back`)
    }
    await forward.close()
  })

  await t.test('is told the end that comes first from the other side', async () => {
    const api = join('greeting')
    const heard: Promise<string>[] = []
    await offerHalfOpen(api, (socket) => {
      socket.end('hello')
      heard.push(readWhole(socket).then(String))
    })
    const forward = await web.forward('greeting', { port: 0 })
    const socket = connect({ port: portOf(forward), host: '127.0.0.1', allowHalfOpen: true })
    assert.equal(String(await readWhole(socket)), 'hello')
    socket.end('and good-bye')
    assert.equal(await heard[0], 'and good-bye')
    await forward.close()
  })

  await t.test('lets go of a connection whose caller has hung up', async () => {
    await offer(join('plain'), echo)
    const forward = await web.forward('plain', { port: 0 })
    assertWhole(await exchange(await plainConnect(portOf(forward)), 1_000), 1_000)
    await until('it is gone', () => forward.connections === 0, 5_000).finally(() => {
      forward.destroy()
    })
  })

  await t.test('nobody yet: connections are reset, warnings say why, and later it works', async () => {
    const warnings: Error[] = []
    web.on('warning', (error) => warnings.push(error))
    const warned = (reason: NoInstancesReason): boolean =>
      warnings.some((error) => error instanceof DialError && error.reason === reason)
    const forward = await web.forward('later', { port: 0 })
    for (let i = 0; i < 20; i += 1) assert.equal(await endOf(forward), 'ECONNRESET')
    assert.ok(warned('unknown'))
    // However often somebody tries, there is no flood of them.
    assert.ok(warnings.length <= 2, `${warnings.length} warnings`)
    await register(consul, { Name: 'later', ID: 'not-in-the-mesh', Port: 1 })
    await until('there is another reason', async () => {
      assert.equal(await endOf(forward), 'ECONNRESET')
      return warned('not-connect')
    })
    await offer(join('later'), echo)
    await until('it is there', async () => {
      assertWhole(await exchange(await plainConnect(portOf(forward)), 1_000), 1_000)
      return true
    })
    forward.destroy()
  })

  /** How a connection ends that cannot be taken to the upstream. */
  async function endOf(forward: Forward): Promise<string | undefined> {
    const socket = connect(portOf(forward), '127.0.0.1')
    socket.write('for nobody')
    const [error] = (await once(socket, 'error', { signal: AbortSignal.timeout(WAIT_MS) })) as [
      NodeJS.ErrnoException,
    ]
    return error.code
  }
})

async function offerHalfOpen(service: Service, handler: (socket: MeshSocket) => unknown): Promise<void> {
  const listener = await service.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, handler)
  await service.register({ port: portOf(listener), address: '127.0.0.1' })
}

/** Hears everything, and then answers with its hash and all of it. */
async function answerAtTheEnd(socket: MeshSocket): Promise<void> {
  const heard = await readWhole(socket)
  socket.write(sha256(heard))
  socket.end(heard)
}

/** Everything until the end, which leaves the other direction open. */
async function readWhole(socket: Socket | MeshSocket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(socket, 'end', { signal: AbortSignal.timeout(WAIT_MS) })
  return Buffer.concat(chunks)
}

function portOf(door: Forward | Listener): number {
  return (door.address() as AddressInfo).port
}

/** How a connection to a port that nobody listens on ends. */
async function refusal(port: number): Promise<string | undefined> {
  const socket = connect(port, '127.0.0.1')
  const signal = AbortSignal.timeout(WAIT_MS)
  return Promise.race([
    once(socket, 'error', { signal }).then(([error]) => (error as NodeJS.ErrnoException).code),
    // A promise that loses must not be one that nobody hears.
    once(socket, 'connect', { signal }).then(
      () => 'connected',
      () => undefined,
    ),
  ])
}

/** How many listening sockets this process has. */
function listening(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'TCPServerWrap').length
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function assertWhole({ sent, told, received }: Exchange, size: number): void {
  assert.deepEqual({ told, received }, { told: sent, received: sent }, `${size} bytes`)
}
