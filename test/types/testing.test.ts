// Types of consul-connect/testing; the compiler is who checks them.
import type { X509Certificate } from 'node:crypto'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type { AgentOptions } from '../../src/index.js'
import {
  type AgentRequest,
  type AgentVersion,
  type DnsQuery,
  type IssueOptions,
  type IssuedCertificate,
  type Json,
  TestAgent,
  type TestAgentOptions,
  TestCa,
  type TestCaOptions,
  type TokenRules,
  extension,
} from '../../src/testing/index.js'
import { compiled } from './compiled.js'

describe('TestAgent', () => {
  it('is started, and not made', () => {
    expectTypeOf(TestAgent.start.bind(TestAgent)).returns.toEqualTypeOf<Promise<TestAgent>>()
    expectTypeOf<TestAgentOptions['version']>().toEqualTypeOf<AgentVersion | undefined>()
    compiled(() => [
      TestAgent.start(),
      TestAgent.start({
        port: 0,
        host: '127.0.0.1',
        datacenter: 'dc2',
        nodeName: 'n',
        trustDomain: 'x.consul',
      }),
      TestAgent.start({ socketPath: '/run/agent.sock', dns: {}, tls: { key: 'PEM', cert: 'PEM' } }),
      TestAgent.start({ acl: { enabled: true, defaultPolicy: 'deny' }, version: '1.15' }),
      TestAgent.start({ leafTtlMs: 60_000, shuffle: false, connect: false, defaultPolicy: 'deny' }),
      // @ts-expect-error -- a port has a name
      TestAgent.start(8500),
      // @ts-expect-error -- a port is a number
      TestAgent.start({ port: '8500' }),
      // @ts-expect-error -- a misspelt key
      TestAgent.start({ dataCenter: 'dc2' }),
      // @ts-expect-error -- versions are the text that they are known by
      TestAgent.start({ version: 1.15 }),
      // @ts-expect-error -- whether they are on is said
      TestAgent.start({ acl: {} }),
    ])
    compiled(() => {
      // @ts-expect-error -- it listens before anybody has it
      new TestAgent({})
    })
  })

  it('says where it is, in the form that a service takes', () => {
    expectTypeOf<TestAgent['address']>().toBeString()
    expectTypeOf<TestAgent['url']>().toBeString()
    expectTypeOf<TestAgent['trustDomain']>().toBeString()
    expectTypeOf<TestAgent['dnsAddress']>().toEqualTypeOf<string | undefined>()
    expectTypeOf<TestAgent['managementToken']>().toEqualTypeOf<string | undefined>()
    expectTypeOf<TestAgent['ca']>().toEqualTypeOf<TestCa>()
    expectTypeOf<{ address: TestAgent['address'] }>().toExtend<AgentOptions>()
    compiled((agent: TestAgent) => {
      // @ts-expect-error -- read-only
      agent.address = '127.0.0.1:8500'
    })
  })

  it('ends by close, and at the end of a block', () => {
    expectTypeOf<TestAgent['close']>().toEqualTypeOf<() => Promise<void>>()
    expectTypeOf<TestAgent>().toExtend<AsyncDisposable>()
  })

  it('knows services, intentions, tokens and queries', () => {
    expectTypeOf<TestAgent['createToken']>().toEqualTypeOf<(rules: TokenRules) => string>()
    expectTypeOf<TestAgent['createQuery']>().returns.toBeString()
    expectTypeOf<TestAgent['issueLeaf']>().returns.toEqualTypeOf<IssuedCertificate>()
    compiled((agent: TestAgent) => {
      agent.setIntention('web', '*', 'deny')
      agent.deleteIntention('web', '*')
      agent.registerService({ Name: 'api', Port: 1, Tags: ['blue'], Connect: { Native: true } })
      agent.createQuery({ Name: 'q', Service: { Service: 'api', Failover: { NearestN: 1 } } })
      agent.createToken({ services: { web: 'write' }, intentions: { web: 'deny' } })
      agent.issueLeaf('web', { isCa: true, keyUsage: null, notAfter: new Date() })
      // @ts-expect-error -- one or the other
      agent.setIntention('web', 'api', true)
      // @ts-expect-error -- allow or deny
      agent.setIntention('web', 'api')
      // @ts-expect-error -- Consul's own spelling
      agent.registerService({ name: 'api' })
      // @ts-expect-error -- a port is a number
      agent.registerService({ Name: 'api', Port: '1' })
      // @ts-expect-error -- no such right
      agent.createToken({ services: { web: 'all' } })
      // @ts-expect-error -- no such bit
      agent.issueLeaf('web', { keyUsage: ['signing'] })
    })
  })

  it('rotates, pauses and fails as it is told', () => {
    expectTypeOf<TestAgent['fault']>().returns.toEqualTypeOf<() => void>()
    compiled((agent: TestAgent, signal: AbortSignal) => {
      agent.rotateCa()
      agent.rotateCa({ crossSign: false })
      void agent.restart({ forget: true })
      agent.fault('/v1/agent', { status: 500, times: 1 })
      agent.fault(/^GET /, { body: '<html>', delayMs: 1, headers: { age: '1' } })
      agent.fault(
        (request) => {
          expectTypeOf(request).toEqualTypeOf<AgentRequest>()
          return request.query.has('index')
        },
        {
          transform: (json) => {
            expectTypeOf(json).toEqualTypeOf<Json>()
            return [json]
          },
        },
      )
      void agent.waitForRequests('/v1/agent', 2, { signal })
      void agent.waitForBlocked(/leaf/)
      // @ts-expect-error -- true of what
      agent.rotateCa(false)
      // @ts-expect-error -- true of what
      void agent.restart(true)
      // @ts-expect-error -- what to answer
      agent.fault('/v1/agent')
      // @ts-expect-error -- a status has a name
      agent.fault('/v1/agent', 500)
      // @ts-expect-error -- a misspelt key
      agent.fault('/v1/agent', { delay: 1 })
      // @ts-expect-error -- how many
      void agent.waitForRequests('/v1/agent')
    })
  })

  it('counts what it was asked', () => {
    expectTypeOf<TestAgent['requestCount']>().returns.toBeNumber()
    expectTypeOf<TestAgent['dnsQueryCount']>().returns.toBeNumber()
    compiled((agent: TestAgent) => agent.dnsQueryCount((query: DnsQuery) => query.transport === 'udp'))
  })
})

describe('TestCa', () => {
  it('is created, and issues', () => {
    expectTypeOf(TestCa.create.bind(TestCa)).toEqualTypeOf<(options?: TestCaOptions) => TestCa>()
    expectTypeOf<TestCa['issue']>().toEqualTypeOf<(options?: IssueOptions) => IssuedCertificate>()
    expectTypeOf<TestCa['intermediate']>().returns.toEqualTypeOf<TestCa>()
    expectTypeOf<TestCa['crossSign']>().toEqualTypeOf<(other: TestCa) => string>()
    expectTypeOf<TestCa['certificate']>().toEqualTypeOf<X509Certificate>()
    expectTypeOf<TestCa['rootPem']>().toBeString()
    expectTypeOf<TestCa['privateKeyPem']>().toBeString()
    expectTypeOf<TestCa['nextSerial']>().toBeBigInt()
    expectTypeOf<IssuedCertificate>().toEqualTypeOf<{
      certificatePem: string
      chainPem: string
      privateKeyPem: string
      certificate: X509Certificate
    }>()
    compiled((ca: TestCa) => [
      ca.issue({ uris: [], extraExtensions: [extension.basicConstraints(true)], version: 1 }),
      // @ts-expect-error -- a service has a name
      ca.issue('web'),
      // @ts-expect-error -- serial numbers are larger than numbers
      ca.issue({ serial: 1 }),
      // @ts-expect-error -- there is no version 2 here
      ca.issue({ version: 2 }),
      // @ts-expect-error -- milliseconds are no date
      ca.issue({ notAfter: Date.now() }),
    ])
    compiled(() => {
      // @ts-expect-error -- it has a key before anybody has it
      new TestCa({})
    })
  })

  it('does not change', () => {
    compiled((ca: TestCa) => {
      // @ts-expect-error -- read-only
      ca.rootPem = 'PEM'
      // @ts-expect-error -- read-only
      ca.trustDomain = 'x.consul'
    })
  })
})
