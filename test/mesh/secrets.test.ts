import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import * as tls from 'node:tls'
import { inspect } from 'node:util'
import type { MeshSocket, Service, ServiceEvents } from '../../src/index.js'
import { type TestMesh, nextEvent, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'

const CHANNELS = ['dial', 'handshake', 'decision', 'revocation', 'rotation', 'agent-request']
const EVENTS = ['rotated', 'roots', 'denied', 'revoked', 'stale', 'rejected', 'warning'] as const

/** The objects that the library passed to the program, by name. */
type Seen = Map<string, unknown>

describe('objects that the library passes to a program', () => {
  it('print neither private keys nor tokens', async (t) => {
    const run = await startRun(t)
    await useSockets(run)
    await useHttp(run)
    await useHttp2(run)
    await useOwnTls(run)
    const secrets = await run.secrets()
    await fail(run)
    assert.ok(run.seen.size > 40, `only ${[...run.seen.keys()].join(', ')}`)
    for (const [name, value] of run.seen) {
      for (const [format, text] of Object.entries(representations(value))) {
        const leaked = secrets.find((secret) => text?.includes(secret))
        assert.equal(leaked, undefined, `${format} of ${name}`)
      }
    }
  })
})

interface Run extends TestMesh {
  readonly web: Service
  readonly api: Service
  readonly seen: Seen
  readonly secrets: () => Promise<string[]>
}

async function startRun(t: TestContext): Promise<Run> {
  const seen: Seen = new Map()
  const mesh = await startMesh(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
  const token = mesh.agent.createToken({
    services: { web: 'write', api: 'write', missing: 'write' },
    intentions: { web: 'read', api: 'read' },
  })
  mesh.agent.setIntention('web', 'api', 'allow')
  for (const name of CHANNELS) {
    const onMessage = (message: unknown): void => {
      seen.set(`a message of the channel ${name}`, message)
    }
    subscribe(`consul-connect:${name}`, onMessage)
    t.after(() => unsubscribe(`consul-connect:${name}`, onMessage))
  }
  const agent = { ...mesh.agentOptions, token }
  const [web, api] = ['web', 'api'].map((name) => {
    const service = mesh.join(name, { agent })
    seen.set(`service ${name}`, service)
    for (const event of EVENTS) {
      service.on(event, (...args: ServiceEvents[typeof event]) => seen.set(`event ${event} of ${name}`, args))
    }
    return service
  }) as [Service, Service]
  await Promise.all([web.ready(), api.ready()])
  seen.set('leaf', web.leaf).set('roots', web.roots).set('stats', web.stats())
  const secrets = async (): Promise<string[]> => {
    const keys = await Promise.all(['web', 'api'].map((name) => keyLines(mesh.agent.url, name, token)))
    // The start of a PEM key, as inspect() and as JSON print a Buffer.
    const pem = Buffer.from('-----BEGIN EC PRIVATE')
    const inspected = pem.toString('hex').replace(/../g, '$& ').trim()
    return [token, 'PRIVATE KEY', ...keys.flat(), inspected, [...pem].join(',')]
  }
  return { ...mesh, web, api, seen, secrets }
}

/** The lines of the private key of a service. */
async function keyLines(url: string, service: string, token: string): Promise<string[]> {
  const response = await fetch(`${url}/v1/agent/connect/ca/leaf/${service}`, {
    headers: { 'x-consul-token': token },
  })
  const { PrivateKeyPEM } = (await response.json()) as { PrivateKeyPEM: string }
  return PrivateKeyPEM.split('\n').filter((line) => line.length > 40)
}

async function useSockets({ web, api, seen }: Run): Promise<void> {
  const accepted = new Promise<MeshSocket>((resolve) => {
    void api
      .listen({ port: 0, host: '127.0.0.1' }, (socket) => {
        resolve(socket)
        socket.on('error', () => undefined).pipe(socket)
      })
      .then(async (listener) => {
        seen.set('listener', listener)
        seen.set('registration', await api.register({ port: portOf(listener), address: '127.0.0.1' }))
      })
  })
  await until('api is registered', async () => (await web.resolve('api').catch(() => [])).length > 0)
  seen.set('endpoints', await web.resolve('api'))
  const dialed = await web.dial('api')
  seen.set('dialed socket', dialed).set('accepted socket', await accepted)
  seen.set('peer', dialed.peer).set('decision', await api.authorize(dialed.peer))
  const stream = web.stream('api')
  stream.write('x')
  await once(stream, 'data')
  seen.set('stream', stream)
  seen.set('forward', await web.forward('api', { port: 0 }))
  dialed.destroy()
  stream.destroy()
}

async function useHttp({ web, api, seen }: Run): Promise<void> {
  const server = http.createServer((request, response) => {
    seen.set('HTTP request', request).set('HTTP response', response)
    response.end('hello')
  })
  server.on('upgrade', (_request, socket: Socket) => {
    seen.set('upgraded socket of the server', socket)
    socket.end('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n')
  })
  seen.set('HTTP server', server)
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
  const response = await web.fetch('https://api.service.consul/').catch((error: unknown) => error)
  seen.set('answer of fetch', response)
  const client = http.request({ createConnection: () => web.stream(upstream), path: '/' }).end()
  const [answer] = (await once(client, 'response')) as [http.IncomingMessage]
  seen.set('request of node:http', client).set('answer of node:http', answer.resume())
  await once(answer, 'end')
  const upgrade = http
    .request({
      createConnection: () => web.stream(upstream),
      headers: { connection: 'upgrade', upgrade: 'x' },
    })
    .end()
  const [, upgraded] = (await once(upgrade, 'upgrade')) as [unknown, Socket]
  seen.set('upgraded socket of the client', upgraded)
  upgraded.destroy()
  seen.set('agent', web.httpAgent()).set('dispatcher', web.dispatcher())
}

async function useHttp2({ web, api, seen }: Run): Promise<void> {
  const server = http2.createSecureServer({})
  server.on('stream', (stream: http2.ServerHttp2Stream) => {
    seen.set('HTTP/2 stream of the server', stream).set('HTTP/2 session of the server', stream.session)
    stream.respond()
    stream.end('hello')
  })
  seen.set('HTTP/2 server', server)
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  const address = `127.0.0.1:${portOf(listener)}`
  const socket = await web.dial({ address, service: 'api' }, { alpnProtocols: ['h2'] })
  const session = http2.connect('http://api', { createConnection: () => socket })
  const stream = session.request({ ':path': '/' }).resume()
  await once(stream, 'end')
  seen.set('HTTP/2 session of the client', session).set('HTTP/2 stream of the client', stream)
  session.destroy()
}

async function useOwnTls({ web, api, seen }: Run): Promise<void> {
  seen.set('tlsServerOptions', api.tlsServerOptions()).set('tlsClientOptions', web.tlsClientOptions('api'))
  for (const [name, server] of [
    ['tls', tls.createServer(api.tlsServerOptions(), (socket) => socket.end('hello'))],
    ['https', https.createServer(api.tlsServerOptions(), (_request, response) => response.end('hello'))],
  ] as const) {
    server.on('secureConnection', (socket: tls.TLSSocket) =>
      seen.set(`accepted socket of own ${name}`, socket),
    )
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    const options = { host: '127.0.0.1', port, ...web.tlsClientOptions('api') }
    const socket = tls.connect(options)
    await once(socket, 'secureConnect')
    seen.set(`connected socket of own ${name}`, socket).set(`own ${name} server`, server)
    if (name === 'https') {
      const agent = new https.Agent({ ...web.tlsClientOptions('api'), keepAlive: true })
      const request = https.get({ host: '127.0.0.1', port, agent })
      const [answer] = (await once(request, 'response')) as [http.IncomingMessage]
      seen.set('own https.Agent', agent).set('answer of own https', answer.resume())
      await once(answer, 'end')
      agent.destroy()
    }
    socket.destroy()
    server.close()
  }
}

async function fail({ agent, web, api, seen, join, agentOptions }: Run): Promise<void> {
  seen.set('error of a dial', await rejection(web.dial('missing', { timeoutMs: 2_000 })))
  seen.set('error of a fetch', await rejection(web.fetch('https://example.com/')))
  const stranger = join('stranger', { agent: { ...agentOptions, token: 'no-such-token' } })
  seen.set('error of ready', await rejection(stranger.ready({ timeoutMs: 250 })))
  const open = await web.dial('api')
  const broken = rejection(once(open, 'close'))
  const revoked = nextEvent(api, 'revoked')
  agent.setIntention('web', 'api', 'deny')
  await revoked
  seen.set('error of a revoked connection', await broken)
  agent.rotateCa()
  await until('the CA is rotated', () => web.roots?.pems.length === 2)
  await agent.stop()
  seen.set('error of a register', await rejection(web.register({ port: 1 })))
  await web.close()
  seen.set('error of a closed service', await rejection(web.dial('api')))
}

/** A value in the formats of programs and loggers. */
function representations(value: unknown): Record<string, string | undefined> {
  const all = { depth: Infinity, maxArrayLength: Infinity, maxStringLength: Infinity }
  const texts: Record<string, string | undefined> = {
    inspect: inspect(value, all),
    JSON: toJson(value),
    string: toText(value),
  }
  try {
    texts['structuredClone'] = inspect(structuredClone(value), all)
  } catch {
    // Most of these objects cannot be cloned.
  }
  return texts
}

/** Like `JSON.stringify`, but omits repeated objects, as loggers do. */
function toJson(value: unknown): string | undefined {
  const seen = new Set<unknown>()
  return JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === 'bigint') return String(item)
    if (typeof item !== 'object' || item === null) return item
    if (seen.has(item)) return undefined
    seen.add(item)
    return item
  })
}

function toText(value: unknown): string {
  return value instanceof Error
    ? `${String(value)} ${value.stack ?? ''} ${String(value.cause)}`
    : String(value)
}
