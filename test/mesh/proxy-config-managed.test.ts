import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { type ProxyConfigSource, proxyConfig } from '../../src/proxy.js'
import type { TestAgent } from '../../src/testing/index.js'
import { rejection } from '../fixtures/mesh.js'
import { startManagedAgent } from './managed-agent.js'
import { nextOf, setUpProxySource } from './proxy-source.js'

const ID = 'web-proxy'

interface Setup {
  readonly agent: TestAgent
  /** Opens a source at the agent of Consul 1.2. */
  readonly open: () => ProxyConfigSource
  /** Opens a source at the embedded agent, whose registrations that agent shows. */
  readonly openCurrent: () => ProxyConfigSource
}

async function start(t: TestContext): Promise<Setup> {
  const { agent, open: openCurrent } = await setUpProxySource(t, { proxyId: ID })
  const address = await startManagedAgent(t, agent)
  const open = (): ProxyConfigSource => {
    const source = proxyConfig({ proxyId: ID }, { agent: { address, env: {} } })
    t.after(() => source.close())
    return source
  }
  return { agent, open, openCurrent }
}

function register(agent: TestAgent, fields: object): void {
  agent.registerService({ Name: ID, Kind: 'connect-proxy', Port: 8443, ...fields })
}

describe('proxyConfig with an agent like that of Consul 1.2', () => {
  it('reads the configuration of the agent and follows its changes', async (t) => {
    const { agent, open } = await start(t)
    agent.registerService({ Name: 'web', Port: 8080 })
    register(agent, { Proxy: { DestinationServiceName: 'web' } })
    const source = open()
    const { service, listener, upstreams } = await source.ready()
    assert.equal(service, 'web')
    assert.deepEqual([listener?.host, listener?.port], ['0.0.0.0', 8443])
    assert.deepEqual(listener?.application, { host: '127.0.0.1', port: 8080 })
    assert.deepEqual(upstreams, [])
    await agent.waitForBlocked(`/v1/agent/service/${ID}`)
    const changed = nextOf(source, 'changed')
    register(agent, {
      Address: '127.0.0.1',
      Proxy: {
        destination_service_name: 'web',
        upstreams: [{ destination_name: 'db', local_bind_port: 5432, config: { connect_timeout_ms: 50 } }],
      },
    })
    const config = await changed
    assert.equal(config.listener?.host, '127.0.0.1')
    assert.deepEqual(
      config.upstreams.map(({ destination, bind, connectTimeoutMs }) => [
        destination,
        bind,
        connectTimeoutMs,
      ]),
      [
        [
          { service: 'db', datacenter: undefined, namespace: undefined, partition: undefined },
          { host: '127.0.0.1', port: 5432 },
          50,
        ],
      ],
    )
    assert.deepEqual(config.warnings, [])
  })

  it('reads the same configuration as from the endpoint of later versions', async (t) => {
    const { agent, open, openCurrent } = await start(t)
    register(agent, {
      Address: '127.0.0.1',
      Proxy: {
        DestinationServiceName: 'web',
        LocalServiceAddress: '127.0.0.1',
        LocalServicePort: 8080,
        Config: { bind_port: 9443, handshake_timeout_ms: 100 },
        Upstreams: [
          {
            DestinationName: 'near',
            DestinationType: 'prepared_query',
            Datacenter: 'dc1',
            LocalBindPort: 5432,
          },
        ],
      },
    })
    const before = await open().ready()
    assert.deepEqual(await openCurrent().ready(), before)
    assert.equal(before.listener?.port, 9443)
  })

  it('reports an unknown id', async (t) => {
    const { open } = await start(t)
    assert.equal((await rejection(open().ready())).code, 'ERR_CONNECT_AGENT_NOT_FOUND')
  })
})
