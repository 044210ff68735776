// Type tests: other libraries accept what the adapters return. The compiler checks them; nothing runs.
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import type * as net from 'node:net'
import type { Duplex } from 'node:stream'
import { describe, it } from 'node:test'
import * as tls from 'node:tls'
import axios from 'axios'
import got from 'got'
import { expectTypeOf } from 'expect-type'
import * as mysql from 'mysql2'
import * as mysqlPromise from 'mysql2/promise'
import pg from 'pg'
import * as undici from 'undici'
import { WebSocket, WebSocketServer } from 'ws'
import type { ConnectionInjector, MeshSocket, MeshStream, Service } from '../../src/index.js'
import { compiled } from './compiled.js'

describe('types: HTTP clients', () => {
  it('of Node.js accept the agent for either scheme', () => {
    compiled((web: Service) => [
      http.request({ agent: web.httpAgent() }),
      http.get('http://api.service.consul/', { agent: web.httpAgent() }),
      https.request({ agent: web.httpAgent() }),
      https.get('https://api.service.consul/', { agent: web.httpAgent({ dialTimeoutMs: 1 }) }),
    ])
  })

  it('of Node.js accept a socket or a stream', () => {
    compiled((socket: MeshSocket, stream: MeshStream) => [
      http.request({ createConnection: () => socket }),
      http.request({ createConnection: () => stream }),
      http2.connect('http://api/', { createConnection: () => socket }),
      http2.connect('http://api/', { createConnection: () => stream }),
      tls.connect({ socket }),
    ])
  })

  it('of undici accept the dispatcher', () => {
    compiled((web: Service) => [
      undici.request('https://api.service.consul/', { dispatcher: web.dispatcher() }),
      undici.fetch('https://api.service.consul/', { dispatcher: web.dispatcher() }),
      web.dispatcher().compose(undici.interceptors.retry(), undici.interceptors.redirect()),
    ])
    compiled((web: Service) => {
      undici.setGlobalDispatcher(web.dispatcher())
    })
  })

  it('with an option for fetch accept that of the service', () => {
    compiled((web: Service, sdk: (options: { fetch?: typeof globalThis.fetch }) => void) => {
      const { fetch } = web
      sdk({ fetch })
      sdk(web)
    })
  })

  it('of axios accept the agent or fetch', () => {
    compiled((web: Service) => [
      axios.create({ httpAgent: web.httpAgent(), httpsAgent: web.httpAgent() }),
      axios.get('https://api.service.consul/', { httpsAgent: web.httpAgent() }),
      axios.create({ adapter: 'fetch', env: { fetch: web.fetch } }),
    ])
  })

  it('of got accept the agent for each scheme', () => {
    compiled((web: Service) => got.extend({ agent: { http: web.httpAgent(), https: web.httpAgent() } }))
  })

  it('of ws accept the agent, a socket, or a stream', () => {
    compiled((web: Service, socket: MeshSocket, stream: MeshStream) => [
      new WebSocket('wss://api.service.consul/', { agent: web.httpAgent() }),
      new WebSocket('wss://api.service.consul/', ['chat'], { agent: web.httpAgent() }),
      new WebSocket('ws://api/', { createConnection: () => socket }),
      new WebSocket('ws://api/', { createConnection: () => stream }),
    ])
  })
})

describe('types: database clients', () => {
  it('of pg accept a stream', () => {
    compiled((web: Service) => [
      new pg.Pool({ stream: () => web.stream('postgres') }),
      new pg.Client({ stream: () => web.stream('postgres') }),
      // @ts-expect-error -- pg expects a socket, not a promise of one
      new pg.Pool({ stream: () => web.dial('postgres') }),
    ])
  })

  it('of mysql2 accept a stream', () => {
    compiled((web: Service) => [
      mysql.createPool({ stream: () => web.stream('mysql') }),
      mysql.createConnection({ stream: web.stream('mysql') }),
      mysqlPromise.createPool({ stream: () => web.stream('mysql') }),
    ])
  })
})

describe('types: serve()', () => {
  it('accepts the servers of Node.js', () => {
    compiled((api: Service, server: http.Server) => [
      api.serve(http.createServer(), { port: 8443 }),
      api.serve(https.createServer(), { port: 8443 }),
      api.serve(http2.createServer(), { port: 8443, revoke: true }),
      api.serve(http2.createSecureServer({ allowHTTP1: true }), { path: '/run/api.sock' }),
      new WebSocketServer({ server }),
      // @ts-expect-error -- the address is missing
      api.serve(server),
    ])
  })

  it('accepts the connection injector of a gRPC server', () => {
    // As @grpc/grpc-js declares it.
    interface GrpcInjector {
      injectConnection(connection: Duplex): void
      drain(graceTimeMs: number): void
      destroy(): void
    }
    expectTypeOf<GrpcInjector>().toExtend<ConnectionInjector>()
    compiled((api: Service, injector: GrpcInjector, half: Omit<GrpcInjector, 'drain'>) => [
      api.serve(injector, { port: 8443 }),
      // @ts-expect-error -- without drain(), connections cannot end in order
      api.serve(half, { port: 8443 }),
    ])
  })

  it('rejects an application or a port in place of a server', () => {
    compiled((api: Service, application: http.RequestListener) => [
      api.serve(http.createServer(application), { port: 8443 }),
      // @ts-expect-error -- an application is not a server
      api.serve(application, { port: 8443 }),
      // @ts-expect-error -- a port is not a server
      api.serve(8080, { port: 8443 }),
    ])
  })
})

describe('types: TLS options of a Service', () => {
  it('are accepted by the servers of Node.js', () => {
    compiled((api: Service, handle: http.RequestListener) => [
      tls.createServer(api.tlsServerOptions()),
      tls.createServer({ ...api.tlsServerOptions(), ALPNProtocols: ['x'] }, (socket) =>
        api.verifyPeer(socket),
      ),
      https.createServer(api.tlsServerOptions(), handle),
      http2.createSecureServer({ ...api.tlsServerOptions(), allowHTTP1: true }),
      tls.createSecureContext(api.tlsServerOptions()),
    ])
    compiled((api: Service, server: tls.Server) => {
      api.on('rotated', () => {
        server.setSecureContext(api.tlsServerOptions())
      })
    })
  })

  it('are accepted by the clients of Node.js and undici', () => {
    compiled((web: Service) => [
      tls.connect({ host: '10.0.0.7', port: 8443, ...web.tlsClientOptions('api') }),
      tls.connect(8443, '10.0.0.7', web.tlsClientOptions('api')),
      https.request('https://10.0.0.7:8443/', web.tlsClientOptions('api')),
      new https.Agent(web.tlsClientOptions('api')),
      http2.connect('https://10.0.0.7:8443/', web.tlsClientOptions('api')),
      new undici.Agent({ connect: web.tlsClientOptions('api') }),
    ])
    // A connection without TLS has no verified peer.
    expectTypeOf<net.Socket>().not.toExtend<Parameters<Service['verifyPeer']>[0]>()
  })
})
