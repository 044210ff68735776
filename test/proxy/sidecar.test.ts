import assert from 'node:assert/strict'
import { once } from 'node:events'
import { statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join as joinPath } from 'node:path'
import { describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { WAIT_MS, offer, greet, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import {
  configFile,
  connectEcho,
  echo,
  expectEcho,
  isRefused,
  localConnect,
  nextData,
  spawnProxy,
  startApplication,
  startEchoPair,
  startPair,
  startProxy,
  temporaryFolder,
} from './connect-proxy.js'

describe('a pair of sidecars', () => {
  it('connects two programs without TLS, and reports the connection in logs and metrics', async (t) => {
    const { inbound, outbound, port } = await startEchoPair(t)
    const socket = await connectEcho(t, port)
    assert.equal(await inbound.metric('connections_open', { direction: 'inbound', name: 'api' }), 1)
    assert.equal(await outbound.metric('connections_open', { direction: 'upstream', name: 'api' }), 1)
    socket.end()
    assert.equal(await readAll(socket), '')
    const { peer, ...line } = await inbound.logged(({ msg }) => msg === 'connection')
    assert.match(String(peer), /^spiffe:\/\/.*\/svc\/web$/)
    assert.deepEqual(
      [line['direction'], line['sent'], line['received'], line['reason'], typeof line['duration_ms']],
      ['inbound', 5, 5, 'ended', 'number'],
    )
    const upstreamLine = await outbound.logged(({ msg }) => msg === 'connection')
    assert.match(String(upstreamLine['peer']), /^spiffe:\/\/.*\/svc\/api$/)
    assert.deepEqual(
      [upstreamLine['direction'], upstreamLine['name'], upstreamLine['reason']],
      ['upstream', 'api', 'ended'],
    )
    assert.equal(await inbound.metric('bytes_total', { way: 'received' }), 5)
    assert.equal(await inbound.metric('connections_closed_total', { reason: 'ended' }), 1)
    assert.equal(await inbound.metric('handshake_seconds_count', { outcome: 'ok' }), 1)
    assert.equal(await inbound.metric('decisions_total', { authorized: 'true' }), 1)
    assert.equal(await outbound.metric('dial_seconds_count', { upstream: 'api' }), 1)
    assert.ok((await outbound.metric('certificate_expiry_timestamp_seconds')) > Date.now() / 1_000)
    assert.equal(await outbound.metric('agent_stale_seconds'), 0)
  })

  it('enforces a new deny intention on open connections, and on new ones before the application', async (t) => {
    const { agent } = await startMesh(t)
    let accepted = 0
    const application = await startApplication(t, (socket) => {
      accepted += 1
      echo(socket)
    })
    const { inbound, port } = await startPair(t, agent.address, application.port)
    const socket = await connectEcho(t, port)
    const revoked = rejection(readAll(socket))
    agent.setIntention('web', 'api', 'deny')
    assert.match((await revoked).message, /ECONNRESET/)
    const line = await inbound.logged(({ msg, reason }) => msg === 'connection' && reason === 'revoked')
    assert.match(String(line['error']), /^web to api: connection revoked; denied by intention /)
    assert.match((await rejection(readAll(localConnect(t, port)))).message, /ECONNRESET/)
    assert.equal(accepted, 1)
    assert.equal(await inbound.metric('revocations_total', { basis: 'intention' }), 1)
    assert.equal(await inbound.metric('decisions_total', { authorized: 'false', basis: 'intention' }), 1)
  })

  it('uses only key exchange groups in -ecdh-curve', async (t) => {
    const { agent, outbound, port } = await startEchoPair(t, {
      inbound: ['-ecdh-curve', 'P-384'],
      outbound: ['-ecdh-curve', 'X25519:P-256'],
    })
    await rejection(once(localConnect(t, port), 'end'))
    await outbound.logged('handshake failure')
    const common = await freePort()
    const flags = ['-service', 'job', '-ecdh-curve', 'P-384', '-workers', '2']
    await startProxy(t, agent.address, [...flags, '-upstream', `api:127.0.0.1:${common}`])
    await connectEcho(t, common)
  })

  it('supports Unix sockets on both sides, accessible to the user of the proxy only', async (t) => {
    const { agent } = await startMesh(t)
    const folder = temporaryFolder(t)
    const [app, local] = [joinPath(folder, 'app.sock'), joinPath(folder, 'api.sock')]
    const server = createServer(echo).listen(app)
    t.after(() => server.close())
    await once(server, 'listening')
    const listen = `127.0.0.1:${await freePort()}`
    const flags = ['-service', 'api', '-service-addr', app, '-listen', listen, '-register']
    await startProxy(t, agent.address, flags)
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${local}`])
    assert.equal(statSync(local).mode & 0o777, 0o600)
    const socket = connect(local)
    t.after(() => socket.destroy())
    await expectEcho(socket)
  })

  it('passes on the end of a request before the answer', async (t) => {
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

  it('carries requests after the end of the answer', async (t) => {
    const { agent } = await startMesh(t)
    let received = ''
    const application = await startApplication(t, (socket) => {
      socket.end('first')
      socket.on('data', (chunk: Buffer) => (received += chunk.toString()))
    })
    const { port } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    const ended = once(socket, 'end', { signal: AbortSignal.timeout(WAIT_MS) })
    assert.equal(await nextData(socket), 'first')
    await ended
    socket.end('second')
    await until('the application has received the rest', () => received === 'second')
  })
})

describe('failures around a sidecar', () => {
  it('connections end while the application is down, and work when it is back', async (t) => {
    const { agent } = await startMesh(t)
    const applicationPort = await freePort()
    const { inbound, port } = await startPair(t, agent.address, applicationPort)
    await rejection(readAll(localConnect(t, port)))
    await inbound.logged(
      `cannot connect to the application at 127.0.0.1:${applicationPort}: connect ECONNREFUSED`,
    )
    assert.equal(await inbound.metric('connections_closed_total', { reason: 'unreachable' }), 1)
    const server = createServer((socket) => socket.end('back')).listen(applicationPort, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    assert.equal(await readAll(localConnect(t, port)), 'back')
  })

  it('an upstream without instances and an occupied port do not affect other upstreams', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const occupied = await startApplication(t, echo)
    const [port, empty] = [await freePort(), await freePort()]
    const targets = [`api:${port}`, `missing:${empty}`, `api:${occupied.port}`]
    const flags = ['-service', 'web', ...targets.flatMap((target) => ['-upstream', target])]
    const ready = ['upstream is open', 'upstream is open']
    const proxy = await startProxy(t, agent.address, flags, { ready })
    assert.equal(await readAll(localConnect(t, port)), 'hello web')
    await rejection(readAll(localConnect(t, empty)))
    await proxy.logged('dial missing: service not found')
    await proxy.logged(`upstream api: cannot listen on 127.0.0.1, port ${occupied.port}`)
    const { status, text } = await proxy.admin('/ready')
    assert.equal(status, 503)
    assert.match(text, /listener of api: cannot listen on .*EADDRINUSE/)
    assert.equal(
      await proxy.metric('dial_failures_total', { upstream: 'missing', code: 'ERR_CONNECT_NO_INSTANCES' }),
      1,
    )
    await occupied.close()
    await until('the proxy has the port', async () => (await proxy.admin('/ready')).status === 200)
    assert.equal(await readAll(localConnect(t, occupied.port)), 'hello web')
  })

  it('starts before the agent, and becomes ready when the agent is reachable', async (t) => {
    const { agent } = await startMesh(t)
    agent.pause()
    const flags = ['-service', 'web', '-upstream', `api:${await freePort()}`]
    const proxy = await startProxy(t, agent.address, flags, { ready: ['configuration applied'] })
    assert.equal((await proxy.admin('/ready')).status, 503)
    assert.equal((await proxy.admin('/health')).status, 200)
    agent.resume()
    await proxy.logged('upstream is open')
    await until('the proxy is ready', async () => (await proxy.admin('/ready')).status === 200)
  })

  it('open and new connections work without the agent', async (t) => {
    const { agent, inbound, port } = await startEchoPair(t)
    const open = await connectEcho(t, port)
    agent.pause()
    await expectEcho(open)
    await connectEcho(t, port)
    assert.equal(inbound.hasEnded, false)
    agent.resume()
  })
})

describe('the lifetime of a sidecar', () => {
  it('-register registers a proxy for the service until the sidecar ends', async (t) => {
    const { agent, join } = await startMesh(t)
    const application = await startApplication(t, (socket) => socket.end('x'))
    const listen = await freePort()
    const proxy = await startProxy(t, agent.address, [
      ...['-service', 'api', '-service-addr', String(application.port), '-listen', `127.0.0.1:${listen}`],
      ...['-register', '-register-id', 'one'],
    ])
    const registration = () => fetch(`${agent.url}/v1/agent/service/api-proxy-one`)
    const { Kind, Service, Port, Address } = (await (await registration()).json()) as Record<string, unknown>
    assert.deepEqual([Kind, Service, Port, Address], ['connect-proxy', 'api-proxy', listen, '127.0.0.1'])
    assert.equal(await readAll(await join('web').dial('api')), 'x')
    assert.equal(await proxy.stop(), 0)
    assert.equal((await registration()).status, 404)
  })

  it('-register copies tags, metadata, and health from a registered application', async (t) => {
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
    await until('the proxy passes', async () => (await passing()).length === 1)
    const { Tags, Meta } = (await passing())[0]!.Service
    assert.deepEqual([Tags, (Meta as Record<string, string>)['a']], [['v1'], 'b'])
    await call('/v1/agent/check/fail/alive')
    await until('the proxy fails', async () => (await passing()).length === 0)
    await call('/v1/agent/check/pass/alive')
    await until('the proxy passes again', async () => (await passing()).length === 1)
  })

  it('drains on SIGTERM: keeps open connections, and refuses new ones', async (t) => {
    const { inbound, outbound, port } = await startEchoPair(t)
    const socket = await connectEcho(t, port)
    for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
    await Promise.all([inbound, outbound].map((proxy) => proxy.logged('SIGTERM: draining open connections')))
    await until('new connections are refused', () => isRefused(port))
    await expectEcho(socket)
    socket.end()
    assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
  })

  it('resets connections after drain_timeout_ms, and exits with code 0', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const settings = {
      service: 'api',
      bind_address: '127.0.0.1',
      bind_port: await freePort(),
      local_service_port: application.port,
      drain_timeout_ms: 100,
      register: true,
    }
    const config = configFile(t, settings)
    const inbound = await startProxy(t, agent.address, ['-config-file', config], { ready: ['registered'] })
    const port = await freePort()
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`])
    const reset = rejection(readAll(await connectEcho(t, port)))
    assert.equal(await inbound.stop('SIGINT'), 0)
    assert.match((await reset).message, /ECONNRESET/)
    assert.equal((await inbound.logged(({ msg }) => msg === 'connection'))['reason'], 'shutdown')
  })

  it('ends at once on a second signal, with code 1', async (t) => {
    const { inbound, port } = await startEchoPair(t)
    await connectEcho(t, port)
    inbound.signal('SIGTERM')
    await inbound.logged('SIGTERM: draining open connections')
    assert.equal(await inbound.stop('SIGINT'), 1)
  })

  it('reloads its file on SIGHUP, and keeps the current configuration when the file is invalid', async (t) => {
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

  it('serves its configuration, and shows the token nowhere', async (t) => {
    const { agent } = await startMesh(t)
    const port = await freePort()
    const proxy = await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`], {
      env: { CONSUL_HTTP_TOKEN: 'secret-7' },
      ready: ['configuration applied'],
    })
    const { status, text } = await proxy.admin('/config')
    assert.equal(status, 200)
    const { upstreams } = JSON.parse(text) as { upstreams: { bind: unknown }[] }
    assert.deepEqual(upstreams[0]?.bind, { host: '127.0.0.1', port })
    const metrics = await proxy.admin('/metrics')
    const everything = `${text}${metrics.text}${proxy.text}${JSON.stringify(proxy.lines)}`
    assert.equal(everything.includes('secret-7'), false)
    assert.equal((await proxy.admin('/else')).status, 404)
  })

  it('does not start without its admin address', async (t) => {
    const { port } = await startApplication(t, echo)
    const proxy = spawnProxy(t, ['-log-json', '-service', 'web', '-admin-addr', String(port)])
    assert.equal(await proxy.ended(), 1)
    await proxy.logged('admin address: listen EADDRINUSE')
  })

  it('logs text by default', async (t) => {
    const proxy = spawnProxy(t, ['-service', 'web', '-http-addr', `127.0.0.1:${await freePort()}`])
    await until('the configuration is applied', () => proxy.text.includes('configuration applied'))
    assert.match(
      proxy.text,
      /^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] INFO: configuration applied \{"service":"web"/m,
    )
    assert.equal(await proxy.stop(), 0)
  })
})
