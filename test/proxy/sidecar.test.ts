import assert from 'node:assert/strict'
import { once } from 'node:events'
import { statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join as joinPath } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { WAIT_MS, offer, greet, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import {
  configFile,
  echo,
  isRefused,
  localConnect,
  nextData,
  spawnProxy,
  startApplication,
  startPair,
  startProxy,
  temporaryFolder,
} from './connect-proxy.js'

describe('a pair of sidecars', () => {
  it('carries bytes between two programs that know nothing of the mesh, and tells of it', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const { inbound, outbound, port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
    assert.equal(await inbound.metric('connections_open', { direction: 'inbound', name: 'api' }), 1)
    assert.equal(await outbound.metric('connections_open', { direction: 'upstream', name: 'api' }), 1)
    socket.end()
    assert.equal(await readAll(socket), '')
    const line = await inbound.logged(({ msg }) => msg === 'connection')
    assert.match(String(line['peer']), /^spiffe:\/\/.*\/svc\/web$/)
    assert.deepEqual(
      [line['direction'], line['sent'], line['received'], line['reason']],
      ['inbound', 5, 5, 'ended'],
    )
    assert.ok(typeof line['duration_ms'] === 'number')
    const other = await outbound.logged(({ msg }) => msg === 'connection')
    assert.match(String(other['peer']), /^spiffe:\/\/.*\/svc\/api$/)
    assert.deepEqual([other['direction'], other['name'], other['reason']], ['upstream', 'api', 'ended'])
    assert.equal(await inbound.metric('bytes_total', { way: 'received' }), 5)
    assert.equal(await inbound.metric('connections_closed_total', { reason: 'ended' }), 1)
    assert.equal(await inbound.metric('handshake_seconds_count', { outcome: 'ok' }), 1)
    assert.equal(await inbound.metric('decisions_total', { authorized: 'true' }), 1)
    assert.equal(await outbound.metric('dial_seconds_count', { upstream: 'api' }), 1)
    assert.ok((await outbound.metric('certificate_expiry_timestamp_seconds')) > Date.now() / 1_000)
    assert.equal(await outbound.metric('agent_stale_seconds'), 0)
  })

  it('is refused by an intention, before the application hears of it, and cut by one', async (t) => {
    const { agent } = await startMesh(t)
    let accepted = 0
    const application = await startApplication(t, (socket) => {
      accepted += 1
      echo(socket)
    })
    const { inbound, port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.write('x')
    await nextData(socket)
    const gone = rejection(readAll(socket))
    agent.setIntention('web', 'api', 'deny')
    assert.match((await gone).message, /ECONNRESET/)
    const line = await inbound.logged(({ msg, reason }) => msg === 'connection' && reason === 'revoked')
    assert.match(String(line['error']), /^web to api: connection revoked; denied by intention /)
    const refused = localConnect(t, port)
    assert.match((await rejection(readAll(refused))).message, /ECONNRESET/)
    assert.equal(accepted, 1)
    assert.equal(await inbound.metric('revocations_total', { basis: 'intention' }), 1)
    assert.equal(await inbound.metric('decisions_total', { authorized: 'false', basis: 'intention' }), 1)
  })

  it('agrees on a key by the groups that both were given', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const flags = { inbound: ['-ecdh-curve', 'P-384'], outbound: ['-ecdh-curve', 'X25519:P-256'] }
    const { outbound, port } = await startPair(t, agent.address, application.port, flags)
    const refused = localConnect(t, port)
    await rejection(once(refused, 'end'))
    await outbound.logged('handshake failure')
    const same = await freePort()
    const options = ['-service', 'job', '-ecdh-curve', 'P-384', '-workers', '2']
    await startProxy(t, agent.address, [...options, '-upstream', `api:127.0.0.1:${same}`])
    const socket = localConnect(t, same)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
  })

  it('is one with services that are of the mesh themselves', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('native'), greet)
    const application = await startApplication(t, (socket) => socket.end('from the application'))
    const port = await freePort()
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `native:${port}`])
    assert.equal(await readAll(localConnect(t, port)), 'hello web')
    await startPair(t, agent.address, application.port)
    assert.equal(await readAll(await join('client').dial('api')), 'from the application')
  })

  it('reaches an application and is reached through unix sockets, for this user alone', async (t) => {
    const { agent } = await startMesh(t)
    const folder = temporaryFolder(t)
    const [app, local] = [joinPath(folder, 'app.sock'), joinPath(folder, 'api.sock')]
    const { server } = await listenAt(t, app)
    assert.ok(server.listening)
    const flags = [
      '-service',
      'api',
      '-service-addr',
      app,
      '-listen',
      `127.0.0.1:${await freePort()}`,
      '-register',
    ]
    await startProxy(t, agent.address, flags)
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${local}`])
    assert.equal(statSync(local).mode & 0o777, 0o600)
    const socket = connect(local)
    t.after(() => socket.destroy())
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
  })

  it('answers after the question’s end', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, (socket) => {
      const chunks: Buffer[] = []
      socket
        .on('data', (chunk: Buffer) => chunks.push(chunk))
        .on('end', () => socket.end(Buffer.concat(chunks)))
    })
    const { port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.end('all of it')
    assert.equal(await readAll(socket), 'all of it')
  })

  it('listens after it has said all', async (t) => {
    const { agent } = await startMesh(t)
    const heard: string[] = []
    const application = await startApplication(t, (socket) => {
      socket.end('first')
      socket.on('data', (chunk: Buffer) => heard.push(chunk.toString()))
    })
    const { port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    const ended = once(socket, 'end', { signal: AbortSignal.timeout(WAIT_MS) })
    assert.equal(await nextData(socket), 'first')
    await ended
    socket.end('second')
    await until('the application has heard the rest', () => heard.join('') === 'second')
  })
})

async function listenAt(t: TestContext, path: string) {
  const { createServer } = await import('node:net')
  const server = createServer(echo).listen(path)
  await once(server, 'listening')
  t.after(() => server.close())
  return { server }
}

describe('what goes wrong around a sidecar', () => {
  it('an application that is away: the connection ends, the proxy goes on, and it is there when it is back', async (t) => {
    const { agent } = await startMesh(t)
    const applicationPort = await freePort()
    const { inbound, port } = await startPair(t, agent.address, applicationPort)
    await rejection(readAll(localConnect(t, port)))
    await inbound.logged(
      `cannot connect to the application at 127.0.0.1:${applicationPort}: connect ECONNREFUSED`,
    )
    assert.equal(await inbound.metric('connections_closed_total', { reason: 'unreachable' }), 1)
    const { createServer } = await import('node:net')
    const server = createServer((socket) => socket.end('back')).listen(applicationPort, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    assert.equal(await readAll(localConnect(t, port)), 'back')
  })

  it('an upstream without an instance, and a port that is taken, disturb no other', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const taken = await startApplication(t, echo)
    const [port, empty] = [await freePort(), await freePort()]
    const upstreams = [`api:${port}`, `missing:${empty}`, `api:${taken.port}`].flatMap((one) => [
      '-upstream',
      one,
    ])
    const ready = ['upstream is open', 'upstream is open']
    const proxy = await startProxy(t, agent.address, ['-service', 'web', ...upstreams], { ready })
    assert.equal(await readAll(localConnect(t, port)), 'hello web')
    await rejection(readAll(localConnect(t, empty)))
    await proxy.logged('dial missing: service not found')
    await proxy.logged(`upstream api: cannot listen on 127.0.0.1, port ${taken.port}`)
    const { status, text } = await proxy.admin('/ready')
    assert.equal(status, 503)
    assert.match(text, /listener of api: cannot listen on .*EADDRINUSE/)
    assert.equal(
      await proxy.metric('dial_failures_total', { upstream: 'missing', code: 'ERR_CONNECT_NO_INSTANCES' }),
      1,
    )
    // It is tried again, until it can be had.
    await taken.close()
    await until('it listens where it should', async () => (await proxy.admin('/ready')).status === 200)
    assert.equal(await readAll(localConnect(t, taken.port)), 'hello web')
  })

  it('an agent that is away at the start, and comes', async (t) => {
    const { agent } = await startMesh(t)
    agent.pause()
    const port = await freePort()
    const proxy = await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`], {
      ready: ['configuration applied'],
    })
    assert.equal((await proxy.admin('/ready')).status, 503)
    assert.equal((await proxy.admin('/health')).status, 200)
    agent.resume()
    await proxy.logged('upstream is open')
    await until('it is ready', async () => (await proxy.admin('/ready')).status === 200)
  })

  it('an agent that crashes: open connections and new ones go on', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const { inbound, port } = await startPair(t, agent.address, application.port)
    const open = localConnect(t, port)
    open.write('x')
    await nextData(open)
    agent.pause()
    open.write('y')
    assert.equal(await nextData(open), 'y')
    const fresh = localConnect(t, port)
    fresh.write('z')
    assert.equal(await nextData(fresh), 'z')
    assert.equal(inbound.hasEnded, false)
    agent.resume()
  })
})

describe('the life of a sidecar', () => {
  it('is registered while it listens, as a proxy that stands for its service', async (t) => {
    const { agent, join } = await startMesh(t)
    const application = await startApplication(t, (socket) => socket.end('x'))
    const listen = await freePort()
    const flags = [
      '-service',
      'api',
      '-service-addr',
      String(application.port),
      '-listen',
      `127.0.0.1:${listen}`,
    ]
    const proxy = await startProxy(t, agent.address, [...flags, '-register', '-register-id', 'one'])
    const registered = async () => {
      const response = await fetch(`${agent.url}/v1/agent/service/api-proxy-one`)
      return response.status === 200 ? ((await response.json()) as Record<string, unknown>) : undefined
    }
    const service = await registered()
    assert.deepEqual(
      [service?.['Kind'], service?.['Service'], service?.['Port'], service?.['Address']],
      ['connect-proxy', 'api-proxy', listen, '127.0.0.1'],
    )
    assert.equal(await readAll(await join('web').dial('api')), 'x')
    // The agent forgets it; it is made again.
    assert.equal(await proxy.stop(), 0)
    assert.equal(await registered(), undefined)
  })

  it('has the tags and the health of its application where that is registered', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const call = (path: string, body?: object): Promise<Response> =>
      fetch(`${agent.url}${path}`, { method: 'PUT', ...(body && { body: JSON.stringify(body) }) })
    const check = { CheckID: 'alive', TTL: '1h', Status: 'passing' }
    const api = { Name: 'api', Port: application.port, Tags: ['v1'], Meta: { a: 'b' }, Check: check }
    await call('/v1/agent/service/register', api)
    const { inbound } = await startPair(t, agent.address, application.port)
    assert.equal((await inbound.logged('registered'))['instance'], 'api')
    const passing = async (): Promise<{ Service: Record<string, unknown> }[]> => {
      const answer = await fetch(`${agent.url}/v1/health/connect/api?passing`)
      return (await answer.json()) as { Service: Record<string, unknown> }[]
    }
    await until('it passes', async () => (await passing()).length === 1)
    const { Tags, Meta } = (await passing())[0]!.Service
    assert.deepEqual([Tags, (Meta as Record<string, string>)['a']], [['v1'], 'b'])
    await call('/v1/agent/check/fail/alive')
    await until('it is critical with its application', async () => (await passing()).length === 0)
    await call('/v1/agent/check/pass/alive')
    await until('it passes again', async () => (await passing()).length === 1)
  })

  it('drains on SIGTERM: what is open may go on to its end, and nobody else comes in', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const { inbound, outbound, port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.write('before')
    await nextData(socket)
    for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
    await Promise.all([inbound, outbound].map((proxy) => proxy.logged('SIGTERM: draining open connections')))
    await until('nobody comes in', () => isRefused(port))
    socket.write('after')
    assert.equal(await nextData(socket), 'after')
    socket.end()
    assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
  })

  it('cuts what is open after the drain time, and ends well', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const listen = await freePort()
    const settings = {
      service: 'api',
      bind_address: '127.0.0.1',
      bind_port: listen,
      local_service_port: application.port,
      drain_timeout_ms: 100,
      register: true,
    }
    const config = configFile(t, settings)
    const inbound = await startProxy(t, agent.address, ['-config-file', config], { ready: ['registered'] })
    const port = await freePort()
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`])
    const socket = localConnect(t, port)
    socket.on('error', () => undefined)
    socket.write('x')
    await nextData(socket)
    const gone = rejection(readAll(socket))
    assert.equal(await inbound.stop('SIGINT'), 0)
    assert.match((await gone).message, /ECONNRESET/)
    assert.equal((await inbound.logged(({ msg }) => msg === 'connection'))['reason'], 'shutdown')
  })

  it('cuts at once on a second signal', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const { inbound, port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.on('error', () => undefined)
    socket.write('x')
    await nextData(socket)
    inbound.signal('SIGTERM')
    await inbound.logged('SIGTERM: draining open connections')
    assert.equal(await inbound.stop('SIGINT'), 1)
  })

  it('reads its file again on SIGHUP, and keeps what it has when that is wrong', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const config = joinPath(temporaryFolder(t), 'proxy.json')
    const [first, second] = [await freePort(), await freePort()]
    const write = (...ports: unknown[]): void => {
      const upstreams = ports.map((port) => ({ destination_name: 'api', local_bind_port: port }))
      writeFileSync(config, JSON.stringify({ service: 'web', upstreams }))
    }
    write(first)
    const proxy = await startProxy(t, agent.address, ['-config-file', config], {
      ready: ['upstream is open'],
    })
    write(first, second)
    proxy.signal('SIGHUP')
    await proxy.logged(({ msg, address }) => msg === 'upstream is open' && address === `127.0.0.1:${second}`)
    assert.equal(await readAll(localConnect(t, second)), 'hello web')
    write('many')
    proxy.signal('SIGHUP')
    await proxy.logged(
      'reload failed; keeping the current configuration: upstreams[0].local_bind_port: expected a port',
    )
    assert.equal(await readAll(localConnect(t, first)), 'hello web')
  })

  it('shows its configuration, with no token in it or in a log', async (t) => {
    const { agent } = await startMesh(t)
    const port = await freePort()
    const proxy = await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`], {
      env: { CONSUL_HTTP_TOKEN: 'secret-7' },
      ready: ['configuration applied'],
    })
    const { status, text } = await proxy.admin('/config')
    assert.equal(status, 200)
    assert.deepEqual((JSON.parse(text) as { upstreams: { bind: unknown }[] }).upstreams[0]?.bind, {
      host: '127.0.0.1',
      port,
    })
    const metrics = await proxy.admin('/metrics')
    const everything = `${text}${metrics.text}${proxy.text}${JSON.stringify(proxy.lines)}`
    assert.equal(everything.includes('secret-7'), false)
    assert.equal((await proxy.admin('/else')).status, 404)
  })

  it('says what a user has to mend, and ends', async (t) => {
    const proxy = spawnProxy(t, ['-service', 'web', '-upstream', 'db'])
    assert.equal(await proxy.ended(), 1)
    assert.equal(
      proxy.text,
      'connect-proxy: -upstream: expected NAME[.service|.query]:[HOST:]PORT[?tag=TAG&near=NODE&filter=EXPRESSION], got "db"\n',
    )
    const help = spawnProxy(t, ['-help'])
    assert.equal(await help.ended(), 0)
    assert.match(help.text, /^Usage: connect-proxy \[flags\]\n/)
    const taken = await startApplication(t, echo)
    const admin = spawnProxy(t, ['-log-json', '-service', 'web', '-admin-addr', String(taken.port)])
    assert.equal(await admin.ended(), 1)
    await admin.logged('admin address: listen EADDRINUSE')
  })

  it('logs for people unless asked for JSON', async (t) => {
    const proxy = spawnProxy(t, ['-service', 'web', '-http-addr', `127.0.0.1:${await freePort()}`])
    await until('it has logged', () => proxy.text.includes('configuration applied'), WAIT_MS)
    assert.match(
      proxy.text,
      /^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] INFO: configuration applied \{"service":"web"/m,
    )
    assert.equal(await proxy.stop(), 0)
  })
})
