import './consul-binary.js'
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import {
  type IncomingHttpHeaders,
  connect as connectHttp2,
  createServer as createHttp2Server,
} from 'node:http2'
import { type AddressInfo, type Server, connect } from 'node:net'
import { resolve } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { text } from 'node:stream/consumers'
import { peer } from '../../src/index.js'
import { stopChild } from '../consul/child-process.js'
import { startConsul } from '../consul/real-agent.js'
import {
  ROTATION_MS,
  agentPut,
  instances,
  intend,
  joiner,
  register,
  rotateCa,
  until,
} from '../consul/service-mesh.js'
import { freePort } from '../fixtures/free-ports.js'
import { offer, portOf, readAll } from '../fixtures/mesh.js'
import { plainServer } from '../fixtures/plain-server.js'
import { startProxy } from '../proxy/connect-proxy.js'
import { behindEnvoy } from './behind-envoy.js'
import { skip } from './envoy.js'

const sdkPeer = resolve('test/peers/bin/sdk-peer')

/** Connects to a local port, sends a text, and returns the answer; an empty one if the connection is cut. */
async function exchange(port: number, message = 'x'): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  socket.end(message)
  return readAll(socket).catch(() => '')
}

/** Starts an application that answers with its name and what it receives. */
function startEcho(t: TestContext, name: string): Promise<number> {
  return plainServer(t, (socket) => {
    socket.write(`${name} `)
    socket.pipe(socket)
  })
}

async function startHttp(t: TestContext): Promise<number> {
  const server = createServer((request, response) => response.end(`http ${request.url}`))
  t.after(() => {
    server.closeAllConnections()
  })
  return listening(t, server)
}

async function listening(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
  })
  return (server.address() as AddressInfo).port
}

describe('Envoy and this library', { skip }, () => {
  it('connect in both directions, and enforce intentions', async (t) => {
    const consul = await startConsul(t, { grpc: true })
    const join = joiner(t, consul)
    for (const Name of ['native-http', 'envoy-http']) {
      await agentPut(consul, '/v1/config', { Kind: 'service-defaults', Name, Protocol: 'http' })
    }
    await offer(join('native-tcp'), (socket) => socket.end(`native ${socket.peer.service}`))
    const nativeHttp = join('native-http')
    const served = await nativeHttp.serve(
      createServer((request, response) => response.end(`${peer(request.socket)?.service} ${request.url}`)),
      { port: 0, host: '127.0.0.1' },
    )
    await nativeHttp.register({ port: portOf(served), address: '127.0.0.1' })
    const sidecarApp = await startEcho(t, 'sidecar')
    const sidecarListen = `127.0.0.1:${await freePort()}`
    await startProxy(t, consul.address, [
      ...['-service', 'sidecar-tcp', '-service-addr', `127.0.0.1:${sidecarApp}`],
      ...['-listen', sidecarListen, '-register'],
    ])
    await behindEnvoy(t, consul, 'envoy-tcp', { port: await startEcho(t, 'envoy') })
    await behindEnvoy(t, consul, 'envoy-http', { port: await startHttp(t) })
    const upstreams = ['native-tcp', 'native-http', 'sidecar-tcp', 'envoy-tcp']
    const { ports } = await behindEnvoy(t, consul, 'web', { upstreams })
    const [toNative = 0, toNativeHttp = 0, toSidecar = 0, toEnvoy = 0] = ports
    const ownSidecarPort = await freePort()
    await startProxy(t, consul.address, ['-service', 'web', '-upstream', `envoy-tcp:${ownSidecarPort}`])
    for (const name of [...upstreams, 'envoy-http'])
      await until(`${name} is known`, async () => (await instances(consul, name)) > 0)
    const web = join('web')

    const dialEnvoy = async (): Promise<string> => {
      const socket = await web.dial('envoy-tcp')
      assert.equal(socket.peer.service, 'envoy-tcp')
      socket.end('hello')
      return readAll(socket)
    }
    const ways: Record<string, { service: string; ask: () => Promise<string>; answer: string }> = {
      'an Envoy client to listen': {
        service: 'native-tcp',
        ask: () => exchange(toNative),
        answer: 'native web',
      },
      'an Envoy client to serve': {
        service: 'native-http',
        ask: async () => {
          const response = await fetch(`http://127.0.0.1:${toNativeHttp}/path`)
          return response.ok ? response.text() : ''
        },
        answer: 'web /path',
      },
      'an Envoy client to our sidecar': {
        service: 'sidecar-tcp',
        ask: () => exchange(toSidecar, 'hello'),
        answer: 'sidecar hello',
      },
      'an Envoy client to Envoy': {
        service: 'envoy-tcp',
        ask: () => exchange(toEnvoy, 'hello'),
        answer: 'envoy hello',
      },
      'dial to Envoy': { service: 'envoy-tcp', ask: dialEnvoy, answer: 'envoy hello' },
      'our sidecar to Envoy': {
        service: 'envoy-tcp',
        ask: () => exchange(ownSidecarPort, 'hello'),
        answer: 'envoy hello',
      },
      'fetch to Envoy': {
        service: 'envoy-http',
        ask: async () => {
          const response = await web.fetch('https://envoy-http.service.consul/path')
          return response.ok ? response.text() : ''
        },
        answer: 'http /path',
      },
    }
    for (const [way, { service, ask, answer }] of Object.entries(ways)) {
      await t.test(way, async () => {
        await until('the peer answers', async () => (await ask()) === answer)
        await intend(consul, 'deny', 'web', service)
        await until('the peer denies', async () => (await ask().catch(() => '')) === '')
        await intend(consul, 'allow', 'web', service)
        await until('the peer allows', async () => (await ask().catch(() => '')) === answer)
      })
    }

    await t.test('and no connection fails while the CA is rotated', async (t) => {
      const counts = { ours: 0, envoy: 0 }
      const failures: string[] = []
      const serials = async (): Promise<string[]> => {
        const socket = await web.dial('envoy-tcp')
        socket.destroy()
        return [web.leaf?.serialNumber ?? '', socket.peer.serialNumber]
      }
      const before = await serials()
      let isOver = false
      const load = async (
        way: keyof typeof counts,
        ask: () => Promise<string>,
        answer: string,
      ): Promise<void> => {
        while (!isOver) {
          const got = await ask().catch(String)
          counts[way] += 1
          if (got !== answer) failures.push(`${way}: ${got}`)
        }
      }
      const loads = [
        load('ours', dialEnvoy, 'envoy hello'),
        load('envoy', () => exchange(toNative), 'native web'),
      ]
      await rotateCa(consul)
      const areNew = async (): Promise<boolean> =>
        (await serials()).every((serial, i) => serial !== before[i])
      await until('both ends have new certificates', areNew, ROTATION_MS)
      isOver = true
      await Promise.all(loads)
      t.diagnostic(JSON.stringify(counts))
      assert.deepEqual(failures, [])
    })
  })

  it('let our sidecar decide the requests of an Envoy client', async (t) => {
    const consul = await startConsul(t, { grpc: true })
    const upstreams = ['app-http', 'app-grpc']
    const grpc = createHttp2Server((request, response) => response.end(`grpc ${request.url}`))
    const applications = [await startHttp(t), await listening(t, grpc)]
    for (const [i, Name] of upstreams.entries()) {
      const Permissions = [
        { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
        { Action: 'allow', HTTP: { PathPrefix: '/' } },
      ]
      const Protocol = Name.replace('app-', '')
      await agentPut(consul, '/v1/config', { Kind: 'service-defaults', Name, Protocol })
      const Sources = [{ Name: 'web', Permissions }]
      await agentPut(consul, '/v1/config', { Kind: 'service-intentions', Name, Sources })
      const flags = ['-service', Name, '-service-addr', `127.0.0.1:${applications[i]}`, '-register']
      await startProxy(t, consul.address, [...flags, '-listen', `127.0.0.1:${await freePort()}`])
    }
    const { ports } = await behindEnvoy(t, consul, 'web', { upstreams })
    const [toHttp = 0, toGrpc = 0] = ports
    const askHttp = async (path: string): Promise<string> => {
      const response = await fetch(`http://127.0.0.1:${toHttp}${path}`)
      return `${response.status} ${await response.text()}`
    }
    await until('the application answers', async () => (await askHttp('/x').catch(String)) === '200 http /x')
    assert.equal(await askHttp('/admin/x'), '403 request denied by the service mesh\n')
    const session = connectHttp2(`http://127.0.0.1:${toGrpc}`).on('error', () => undefined)
    t.after(() => {
      session.destroy()
    })
    const askGrpc = async (path: string): Promise<[unknown, unknown, string]> => {
      const stream = session.request({ ':path': path, ':method': 'POST', 'content-type': 'application/grpc' })
      stream.end()
      const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders]
      return [headers[':status'], headers['grpc-status'], await readAll(stream)]
    }
    await until('the application answers', async () => (await askGrpc('/api/X'))[2] === 'grpc /api/X')
    assert.deepEqual(await askGrpc('/admin/X'), [200, '7', ''])
  })
})

describe('The Go SDK and this library', { skip }, () => {
  it('connect in both directions, and enforce intentions', async (t) => {
    const consul = await startConsul(t)
    const join = joiner(t, consul)
    const web = join('web')
    const start = (...args: string[]): { stdout: Promise<string>; ready: Promise<unknown> } => {
      const child = spawn(sdkPeer, args, { env: { ...process.env, CONSUL_HTTP_ADDR: consul.address } })
      t.after(() => stopChild(child))
      return { stdout: text(child.stdout), ready: once(child.stdout, 'data') }
    }
    const port = await freePort()
    const { ready } = start('serve', 'sdk', `127.0.0.1:${port}`)
    await ready
    await register(consul, { Name: 'sdk', Address: '127.0.0.1', Port: port, Connect: { Native: true } })
    await offer(join('native'), (socket) => socket.pipe(socket))

    await t.test('dial to the SDK', async () => {
      const ask = async (): Promise<string> => {
        const socket = await web.dial('sdk')
        socket.end('text')
        return readAll(socket)
      }
      const answer = await until('the SDK answers', ask)
      assert.match(answer, /^hello spiffe:.*\/svc\/web\ntext$/)
      await intend(consul, 'deny', 'web', 'sdk')
      await until('the SDK denies', async () => (await ask().catch(() => 'denied')) === 'denied')
    })
    await t.test('the SDK to listen', async () => {
      const ask = (): Promise<string> => start('call', 'go-client', 'native', 'text').stdout
      await until('the service answers', async () => (await ask()) === 'ready\ntext')
      await intend(consul, 'deny', 'go-client', 'native')
      await until('the service denies', async () => !(await ask()).includes('text'))
    })
  })
})
