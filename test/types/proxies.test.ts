// Types of what somebody uses who writes a proxy; the compiler is who checks them.
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  ConsulApi,
  type AgentExchange,
  type AgentOptions,
  type MeshSocket,
  type MeshStream,
  type QueryTarget,
  type ReadyOptions,
  type Service,
  type ServiceTarget,
  consul,
} from '../../src/index.js'
import {
  type AgentRelay,
  type DialLocalOptions,
  type LocalAddress,
  PROXY_CONFIG_KEYS,
  type ProxyConfig,
  type ProxyConfigOptions,
  ProxyConfigSource,
  type ProxyListener,
  type ProxyProblem,
  type ProxySelector,
  type ProxyUpstream,
  type PumpResult,
  type RelayOptions,
  dialLocal,
  parseProxyConfig,
  proxyConfig,
  pump,
  relayAgent,
} from '../../src/proxy.js'
import { compiled } from './compiled.js'

describe('proxyConfig()', () => {
  it('takes the id of a proxy, or of the instance that it stands for', () => {
    expectTypeOf(proxyConfig).parameter(0).toEqualTypeOf<ProxySelector>()
    expectTypeOf(proxyConfig).parameter(1).toEqualTypeOf<ProxyConfigOptions | undefined>()
    expectTypeOf(proxyConfig).returns.toEqualTypeOf<ProxyConfigSource>()
    compiled(() => [
      proxyConfig({ proxyId: 'web-1-proxy' }),
      proxyConfig({ sidecarFor: 'web-1' }, { agent: { address: 'unix:///run/agent.sock' } }),
      // @ts-expect-error -- an id of which of the two
      proxyConfig('web-1'),
      // @ts-expect-error -- neither of the two
      proxyConfig({}),
      // @ts-expect-error -- a misspelt key
      proxyConfig({ sidecarfor: 'web-1' }),
      // @ts-expect-error -- how the agent is reached is in its own place
      proxyConfig({ proxyId: 'web-1-proxy' }, { address: '127.0.0.1:8500' }),
    ])
  })

  it('is live: the last good one, and the next', () => {
    expectTypeOf<ProxyConfigSource['current']>().toEqualTypeOf<ProxyConfig | undefined>()
    expectTypeOf<ProxyConfigSource['proxyId']>().toEqualTypeOf<string | undefined>()
    expectTypeOf<ProxyConfigSource['ready']>().toEqualTypeOf<(o?: ReadyOptions) => Promise<ProxyConfig>>()
    expectTypeOf<ProxyConfigSource['lastError']>().toEqualTypeOf<Error | undefined>()
    expectTypeOf<ProxyConfigSource['refresh']>().toEqualTypeOf<() => void>()
    expectTypeOf<ProxyConfigSource['close']>().toEqualTypeOf<() => Promise<void>>()
    expectTypeOf<ProxyConfigSource>().toExtend<AsyncDisposable>()
    compiled((source: ProxyConfigSource, config: ProxyConfig, given: object) => {
      if (given instanceof ProxyConfigSource) expectTypeOf(given).toEqualTypeOf<ProxyConfigSource>()
      // @ts-expect-error -- read-only
      source.current = config
    })
  })
})

describe('a proxy configuration', () => {
  it('is parsed from anything', () => {
    expectTypeOf(parseProxyConfig).toEqualTypeOf<(given: unknown) => ProxyConfig>()
    expectTypeOf(PROXY_CONFIG_KEYS).toEqualTypeOf<readonly string[]>()
  })

  it('has nothing left to default', () => {
    expectTypeOf<ProxyConfig>().toEqualTypeOf<{
      readonly service: string
      readonly namespace: string | undefined
      readonly partition: string | undefined
      readonly listener: ProxyListener | undefined
      readonly upstreams: readonly ProxyUpstream[]
      readonly drainTimeoutMs: number
      readonly warnings: readonly string[]
      readonly problems: readonly ProxyProblem[]
    }>()
    expectTypeOf<ProxyProblem>().toEqualTypeOf<{
      readonly place: string
      readonly message: string
      readonly effect: string
    }>()
    expectTypeOf<ProxyUpstream>().toEqualTypeOf<{
      readonly target: ServiceTarget | QueryTarget
      readonly bind: LocalAddress
      readonly connectTimeoutMs: number
      readonly idleTimeoutMs: number | undefined
    }>()
    expectTypeOf<ProxyListener['application']>().toEqualTypeOf<LocalAddress>()
    expectTypeOf<ProxyListener['maxConnections']>().toEqualTypeOf<number | undefined>()
  })

  it('goes into the verbs as it is', () => {
    compiled((web: Service, { listener, upstreams }: ProxyConfig) => [
      ...upstreams.map(({ target, bind }) => web.forward(target, bind)),
      listener && web.listen({ host: listener.host, port: listener.port }, () => undefined),
      listener && dialLocal(listener.application, { timeoutMs: listener.connectTimeoutMs }),
    ])
  })
})

describe('dialLocal() and pump()', () => {
  it('connect to an application by TCP or a unix socket', () => {
    expectTypeOf(dialLocal).parameter(0).toEqualTypeOf<LocalAddress>()
    expectTypeOf(dialLocal).parameter(1).toEqualTypeOf<DialLocalOptions | undefined>()
    expectTypeOf(dialLocal).returns.toEqualTypeOf<Promise<Socket>>()
    compiled((signal: AbortSignal) => [
      dialLocal({ host: '127.0.0.1', port: 8080 }, { signal, timeoutMs: 1 }),
      dialLocal({ path: '/run/app.sock' }),
      // @ts-expect-error -- a port has a host
      dialLocal({ port: 8080 }),
      // @ts-expect-error -- a port is a number
      dialLocal({ host: '127.0.0.1', port: '8080' }),
      // @ts-expect-error -- an address has parts
      dialLocal('127.0.0.1:8080'),
      // @ts-expect-error -- a bound has a name
      dialLocal({ path: '/run/app.sock' }, 1_000),
    ])
  })

  it('move bytes between any two streams', () => {
    expectTypeOf(pump).returns.toEqualTypeOf<Promise<PumpResult>>()
    expectTypeOf<Readable>().not.toExtend<Parameters<typeof pump>[0]>()
    expectTypeOf<PumpResult>().toEqualTypeOf<{ readonly sent: number; readonly received: number }>()
    compiled((a: MeshSocket, b: Socket, c: MeshStream) => [
      pump(a, b),
      pump(b, c, { idleTimeoutMs: 1 }),
      pump(b, c, { idleTimeoutMs: undefined }),
      // @ts-expect-error -- between two
      pump(a),
      // @ts-expect-error -- a bound has a name
      pump(a, b, 1_000),
    ])
  })
})

describe("the agent's API", () => {
  it('is reached as a service reaches it', () => {
    expectTypeOf(consul).parameter(0).toEqualTypeOf<AgentOptions | undefined>()
    expectTypeOf(consul).returns.toEqualTypeOf<ConsulApi>()
    expectTypeOf<ConsulApi['address']>().toBeString()
    expectTypeOf<ConsulApi>().toExtend<AsyncDisposable>()
    expectTypeOf<ConsulApi['close']>().toEqualTypeOf<() => Promise<void>>()
    compiled((given: object) => {
      if (given instanceof ConsulApi) expectTypeOf(given).toEqualTypeOf<ConsulApi>()
    })
  })

  it('answers what nobody has checked', () => {
    expectTypeOf<ConsulApi['request']>().returns.resolves.toBeUnknown()
    expectTypeOf<ConsulApi['exchange']>().returns.resolves.toEqualTypeOf<AgentExchange>()
    expectTypeOf<AgentExchange['headers']['x-consul-index']>().toEqualTypeOf<string | string[] | undefined>()
    compiled((api: ConsulApi, signal: AbortSignal) => [
      api.request({ path: '/v1/agent/services' }),
      api.request({ path: '/v1/kv/a', method: 'PUT', body: { any: ['thing'] }, token: 'secret', signal }),
      api.exchange({ path: '/v1/kv/a', query: { recurse: true, index: 1, tag: ['a'], dc: undefined } }),
      // @ts-expect-error -- a path has a name
      api.request('/v1/agent/services'),
      // @ts-expect-error -- no such method in this API
      api.request({ path: '/v1/kv/a', method: 'PATCH' }),
      // @ts-expect-error -- a misspelt key
      api.request({ path: '/v1/kv/a', queries: {} }),
      // @ts-expect-error -- a query is by name
      api.request({ path: '/v1/kv/a', query: '?recurse' }),
    ])
  })

  it('is relayed through a unix socket', () => {
    expectTypeOf(relayAgent).toEqualTypeOf<(options: RelayOptions) => Promise<AgentRelay>>()
    expectTypeOf<AgentRelay['address']>().toBeString()
    expectTypeOf<AgentRelay>().toExtend<AsyncDisposable>()
    compiled((relay: AgentRelay) => {
      const options: AgentOptions = { address: relay.address }
      // @ts-expect-error -- read-only
      relay.address = 'unix:///elsewhere'
      return [
        relayAgent({ path: '/run/agent.sock', agent: options }),
        // @ts-expect-error -- somewhere it must be
        relayAgent(),
        // @ts-expect-error -- a path has a name
        relayAgent('/run/agent.sock'),
        // @ts-expect-error -- never a port: it has no token of its own
        relayAgent({ port: 8500 }),
      ]
    })
  })
})
