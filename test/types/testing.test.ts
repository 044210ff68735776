// Type tests of consul-connect/testing. The compiler checks them; nothing runs.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type { AgentOptions } from '../../src/index.js'
import { type AgentRequest, type Json, TestAgent, TestCa, extension } from '../../src/testing/index.js'
import { compiled } from './compiled.js'

describe('types: TestAgent', () => {
  it('is created by start() only', () => {
    compiled(() => [
      TestAgent.start(),
      TestAgent.start({ port: 0, host: '127.0.0.1', datacenter: 'dc2' }),
      TestAgent.start({ socketPath: '/run/agent.sock', dns: {}, tls: { key: 'PEM', cert: 'PEM' } }),
      TestAgent.start({ acl: { enabled: true, defaultPolicy: 'deny' }, version: '1.15' }),
      TestAgent.start({ leafTtlMs: 60_000, shuffle: false, connect: false, defaultPolicy: 'deny' }),
      // @ts-expect-error -- unknown key
      TestAgent.start({ dataCenter: 'dc2' }),
      // @ts-expect-error -- a version is a string
      TestAgent.start({ version: 1.15 }),
      // @ts-expect-error -- `enabled` is missing
      TestAgent.start({ acl: {} }),
    ])
    compiled(() => {
      // @ts-expect-error -- a constructor could not wait until the agent listens
      new TestAgent({})
    })
  })

  it('has a read-only address that fits the options of a service', () => {
    expectTypeOf<{ address: TestAgent['address'] }>().toExtend<AgentOptions>()
    expectTypeOf<TestAgent>().toExtend<AsyncDisposable>()
    compiled((agent: TestAgent) => {
      // @ts-expect-error -- read-only
      agent.address = '127.0.0.1:8500'
    })
  })

  it('changes services, intentions, tokens, and queries in the spelling of the Consul API', () => {
    compiled((agent: TestAgent) => {
      agent.setIntention('web', '*', 'deny')
      agent.deleteIntention('web', '*')
      agent.registerService({ Name: 'api', Port: 1, Tags: ['blue'], Connect: { Native: true } })
      agent.createQuery({ Name: 'q', Service: { Service: 'api', Failover: { NearestN: 1 } } })
      agent.createToken({ services: { web: 'write' }, intentions: { web: 'deny' } })
      agent.issueLeaf('web', { isCa: true, keyUsage: null, notAfter: new Date() })
      // @ts-expect-error -- expects 'allow' or 'deny'
      agent.setIntention('web', 'api', true)
      // @ts-expect-error -- the key is `Name`
      agent.registerService({ name: 'api' })
      // @ts-expect-error -- expects 'read', 'write', or 'deny'
      agent.createToken({ services: { web: 'all' } })
      // @ts-expect-error -- unknown key usage
      agent.issueLeaf('web', { keyUsage: ['signing'] })
    })
  })

  it('rotates the CA, restarts, and injects faults', () => {
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
      // @ts-expect-error -- unknown key
      agent.fault('/v1/agent', { delay: 1 })
    })
  })
})

describe('types: TestCa', () => {
  it('is created by create() only, and issues certificates', () => {
    compiled((ca: TestCa) => [
      ca.issue({ uris: [], extraExtensions: [extension.basicConstraints(true)], version: 1 }),
      // @ts-expect-error -- serial numbers are bigints
      ca.issue({ serial: 1 }),
      // @ts-expect-error -- expects version 1 or 3
      ca.issue({ version: 2 }),
    ])
    compiled(() => {
      // @ts-expect-error -- create() generates the key
      new TestCa({})
    })
  })

  it('is read-only', () => {
    compiled((ca: TestCa) => {
      // @ts-expect-error -- read-only
      ca.rootPem = 'PEM'
      // @ts-expect-error -- read-only
      ca.trustDomain = 'x.consul'
    })
  })
})
