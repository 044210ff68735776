import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, it } from 'node:test'
import { AgentError } from '../../src/index.js'
import { type ProxySelector, proxyConfig } from '../../src/proxy.js'
import type { TestAgent } from '../../src/testing/index.js'
import { rejection } from '../fixtures/mesh.js'
import { nextOf, setUpProxySource } from './proxy-source.js'

const ID = 'web-1-proxy'

interface Registered {
  readonly id?: string
  readonly port?: number
  readonly config?: object
  readonly upstreams?: readonly object[]
}

async function put(agent: TestAgent, path: string, body: object): Promise<void> {
  const response = await fetch(`${agent.url}${path}`, { method: 'PUT', body: JSON.stringify(body) })
  assert.equal(response.status, 200, await response.text())
}

/** Registers a proxy of the instance `web-1`. */
function register(
  agent: TestAgent,
  { id = ID, port = 8443, config, upstreams }: Registered = {},
): Promise<void> {
  return put(agent, '/v1/agent/service/register', {
    Kind: 'connect-proxy',
    ID: id,
    Name: 'web-proxy',
    Port: port,
    Proxy: {
      DestinationServiceName: 'web',
      DestinationServiceID: 'web-1',
      LocalServiceAddress: '127.0.0.1',
      LocalServicePort: 8080,
      ...(config && { Config: config }),
      ...(upstreams && { Upstreams: upstreams }),
    },
  })
}

describe('proxyConfig', () => {
  it('reads the registration and follows its changes', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    await register(agent)
    const source = open()
    const first = await source.ready()
    assert.equal(source.proxyId, ID)
    assert.equal(first.service, 'web')
    assert.deepEqual([first.listener?.host, first.listener?.port], ['0.0.0.0', 8443])
    assert.deepEqual(first.listener?.application, { host: '127.0.0.1', port: 8080 })
    const changed = nextOf(source, 'changed')
    await register(agent, { upstreams: [{ DestinationName: 'db', LocalBindPort: 5432 }] })
    const { upstreams } = await changed
    assert.deepEqual(upstreams[0]?.bind, { host: '127.0.0.1', port: 5432 })
    assert.equal(source.current?.upstreams.length, 1)
  })

  it('prefers the opaque configuration to the fields of the registration', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    await register(agent, {
      config: { bind_address: '127.0.0.1', bind_port: 9443, local_service_address: '127.0.0.1:9000' },
    })
    const { listener } = await open().ready()
    assert.deepEqual([listener?.host, listener?.port], ['127.0.0.1', 9443])
    assert.deepEqual(listener?.application, { host: '127.0.0.1', port: 9000 })
  })

  it('reads upstreams in the opaque configuration, as in Consul 1.2', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    await register(agent, { config: { upstreams: [{ destination_name: 'db', local_bind_port: 5432 }] } })
    const { upstreams } = await open().ready()
    assert.deepEqual(
      upstreams.map(({ bind }) => bind),
      [{ host: '127.0.0.1', port: 5432 }],
    )
  })

  it('keeps the last good configuration while the registration is invalid', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    await register(agent)
    const source = open()
    await source.ready()
    const warning = nextOf(source, 'warning')
    await register(agent, { config: { upstreams: 'db' } })
    const { message } = await warning
    assert.match(message, /^upstreams: expected a list, got the string "db"$/)
    assert.equal(source.lastError?.message, message)
    assert.equal(source.current?.listener?.port, 8443)
    const changed = nextOf(source, 'changed')
    await register(agent, { port: 9443 })
    assert.equal((await changed).listener?.port, 9443)
    assert.equal(source.lastError, undefined)
  })

  it('applies the valid settings of a change and reports the invalid ones', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    await register(agent)
    const source = open()
    await source.ready()
    const changed = nextOf(source, 'changed')
    await register(agent, { config: { bind_port: 'many', drain_timeout_ms: '5000' } })
    const { listener, drainTimeoutMs, problems } = await changed
    assert.deepEqual([listener?.port, drainTimeoutMs], [8443, 5_000])
    assert.deepEqual(problems, [
      {
        place: 'bind_port',
        message: 'expected a port from 0 to 65535, got the string "many"',
        effect: 'the public listener keeps its last configuration',
      },
    ])
    assert.equal(source.lastError, undefined)
  })

  it('reports that an instance has no proxy, or several', async (t) => {
    const { agent, open } = await setUpProxySource(t, { sidecarFor: 'web-1' })
    const none = await rejection(open().ready())
    assert.equal(none.code, 'ERR_CONNECT_PROXY')
    assert.match(none.message, /instance web-1 on this agent, found none: register one/)
    await register(agent)
    await register(agent, { id: 'other', port: 8444 })
    const several = await rejection(open().ready())
    assert.match(several.message, /found several: other, web-1-proxy: select one by its ID$/)
  })

  it('reports an unknown id, and reads it once it is registered', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    const source = open()
    const error = await rejection(source.ready())
    assert.ok(error instanceof AgentError)
    assert.equal(error.code, 'ERR_CONNECT_AGENT_NOT_FOUND')
    const changed = nextOf(source, 'changed')
    await register(agent)
    assert.equal((await changed).service, 'web')
  })

  it('reports that an id belongs to an ordinary service', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: 'web-1' })
    await put(agent, '/v1/agent/service/register', { ID: 'web-1', Name: 'web', Port: 8080 })
    const error = await rejection(open().ready())
    assert.equal(error.code, 'ERR_CONNECT_PROXY')
    assert.match(error.message, /expected web-1 to be registered as a proxy .*, found an ordinary service$/)
  })

  it('follows a sidecar that is registered again under another id', async (t) => {
    const { agent, open } = await setUpProxySource(t, { sidecarFor: 'web-1' })
    await register(agent)
    const source = open()
    await source.ready()
    assert.equal(source.proxyId, ID)
    const changed = nextOf(source, 'changed')
    await put(agent, `/v1/agent/service/deregister/${ID}`, {})
    await register(agent, { id: 'web-1-other', port: 9443 })
    assert.equal((await changed).listener?.port, 9443)
    assert.equal(source.proxyId, 'web-1-other')
  })

  it('fails ready() when it is closed', async (t) => {
    const { agent, open } = await setUpProxySource(t, { proxyId: ID })
    agent.pause()
    const source = open()
    const waiting = rejection(source.ready())
    await source.close()
    assert.equal((await waiting).code, 'ERR_CONNECT_CLOSED')
    agent.resume()
  })

  it('rejects a selector with neither or both keys', () => {
    const message = /^selector: expected either proxyId or sidecarFor, got (neither|both)$/
    assert.throws(() => proxyConfig({} as ProxySelector), { message })
    assert.throws(() => proxyConfig({ proxyId: 'a', sidecarFor: 'b' }), { message })
    assert.throws(() => proxyConfig({ proxyId: '' }), {
      message: /^selector.proxyId: expected a non-empty string/,
    })
  })
})

describe('proxyConfig with an agent before Consul 1.6', () => {
  it('reads a managed proxy and waits until its hash changes', async (t) => {
    const requests: string[] = []
    let port = 20_000
    const server = createServer((request, response) => {
      const url = new URL(request.url ?? '', 'http://agent')
      requests.push(`${url.pathname}?hash=${url.searchParams.get('hash') ?? ''}`)
      if (url.pathname !== `/v1/agent/connect/proxy/${ID}`) {
        response.writeHead(404).end()
        return
      }
      const hash = String(port)
      // A blocking query, which stays open until the end of the test.
      if (url.searchParams.get('hash') === hash) return
      response.setHeader('X-Consul-ContentHash', hash)
      response.end(
        JSON.stringify({
          ProxyServiceID: ID,
          TargetServiceID: 'web-1',
          TargetServiceName: 'web',
          ContentHash: hash,
          ExecMode: 'daemon',
          Command: null,
          Config: { bind_address: '127.0.0.1', bind_port: port, local_service_address: '127.0.0.1:8080' },
          Upstreams: null,
        }),
      )
      port += 1
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => {
      server.closeAllConnections()
      server.close()
    })
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
    const source = proxyConfig({ proxyId: ID }, { agent: { address, env: {} } })
    t.after(() => source.close())
    const changed = nextOf(source, 'changed')
    const second = changed.then(() => nextOf(source, 'changed'))
    assert.equal((await source.ready()).listener?.port, 20_000)
    assert.equal((await second).listener?.port, 20_001)
    assert.deepEqual(requests.slice(0, 4), [
      `/v1/agent/service/${ID}?hash=`,
      `/v1/agent/connect/proxy/${ID}?hash=`,
      `/v1/agent/service/${ID}?hash=20000`,
      `/v1/agent/connect/proxy/${ID}?hash=20000`,
    ])
  })
})
