// Type tests of consul-connect/proxy and of the client of the agent. The compiler checks them; nothing runs.
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  ConsulApi,
  type AgentOptions,
  type MeshSocket,
  type MeshStream,
  type Service,
} from '../../src/index.js'
import {
  type AgentRelay,
  type ProxyConfig,
  ProxyConfigSource,
  dialLocal,
  proxyConfig,
  pump,
  relayAgent,
} from '../../src/proxy.js'
import { compiled } from './compiled.js'

describe('types: proxyConfig()', () => {
  it('accepts the id of a proxy or of the instance behind it', () => {
    compiled(() => [
      proxyConfig({ proxyId: 'web-1-proxy' }),
      proxyConfig({ sidecarFor: 'web-1' }, { agent: { address: 'unix:///run/agent.sock' } }),
      // @ts-expect-error -- the kind of the id is missing
      proxyConfig('web-1'),
      // @ts-expect-error -- the id is missing
      proxyConfig({}),
      // @ts-expect-error -- unknown key
      proxyConfig({ sidecarfor: 'web-1' }),
      // @ts-expect-error -- the address belongs in `agent`
      proxyConfig({ proxyId: 'web-1-proxy' }, { address: '127.0.0.1:8500' }),
    ])
  })

  it('returns a source with a read-only current configuration', () => {
    expectTypeOf<ProxyConfigSource>().toExtend<AsyncDisposable>()
    compiled((source: ProxyConfigSource, config: ProxyConfig, given: object) => {
      if (given instanceof ProxyConfigSource) expectTypeOf(given).toEqualTypeOf<ProxyConfigSource>()
      // @ts-expect-error -- read-only
      source.current = config
    })
  })

  it('returns values that fit the methods of a Service', () => {
    compiled((web: Service, { listener, upstreams }: ProxyConfig) => [
      ...upstreams.map(({ destination, bind }) => web.forward(destination, bind)),
      listener && web.listen({ host: listener.host, port: listener.port }, () => undefined),
      listener && dialLocal(listener.application, { timeoutMs: listener.connectTimeoutMs }),
    ])
  })
})

describe('types: dialLocal() and pump()', () => {
  it('connect to an application by TCP or Unix socket', () => {
    compiled((signal: AbortSignal) => [
      dialLocal({ host: '127.0.0.1', port: 8080 }, { signal, timeoutMs: 1 }),
      dialLocal({ path: '/run/app.sock' }),
      // @ts-expect-error -- the host is missing
      dialLocal({ port: 8080 }),
      // @ts-expect-error -- an address is an object
      dialLocal('127.0.0.1:8080'),
    ])
  })

  it('move bytes between any two duplex streams', () => {
    expectTypeOf<Readable>().not.toExtend<Parameters<typeof pump>[0]>()
    compiled((a: MeshSocket, b: Socket, c: MeshStream) => [
      pump(a, b),
      pump(b, c, { idleTimeoutMs: 1 }),
      pump(b, c, { idleTimeoutMs: undefined }),
    ])
  })
})

describe('types: the client of the agent', () => {
  it('is disposable, and a class for instanceof', () => {
    expectTypeOf<ConsulApi>().toExtend<AsyncDisposable>()
    compiled((given: object) => {
      if (given instanceof ConsulApi) expectTypeOf(given).toEqualTypeOf<ConsulApi>()
    })
  })

  it('returns answers that a caller must check', () => {
    expectTypeOf<ConsulApi['request']>().returns.resolves.toBeUnknown()
    compiled((api: ConsulApi, signal: AbortSignal) => [
      api.request({ path: '/v1/agent/services' }),
      api.request({ path: '/v1/kv/a', method: 'PUT', body: { any: ['thing'] }, token: 'secret', signal }),
      api.exchange({ path: '/v1/kv/a', query: { recurse: true, index: 1, tag: ['a'], dc: undefined } }),
      // @ts-expect-error -- the request must be an object
      api.request('/v1/agent/services'),
      // @ts-expect-error -- the Consul API has no PATCH
      api.request({ path: '/v1/kv/a', method: 'PATCH' }),
      // @ts-expect-error -- unknown key
      api.request({ path: '/v1/kv/a', queries: {} }),
    ])
  })

  it('is relayed through a Unix socket only', () => {
    expectTypeOf<AgentRelay>().toExtend<AsyncDisposable>()
    compiled((relay: AgentRelay) => {
      const options: AgentOptions = { address: relay.address }
      // @ts-expect-error -- read-only
      relay.address = 'unix:///elsewhere'
      return [
        relayAgent({ path: '/run/agent.sock', agent: options }),
        // @ts-expect-error -- a port has no file permissions to protect the token
        relayAgent({ port: 8500 }),
      ]
    })
  })
})
