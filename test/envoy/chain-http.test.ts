import './consul-binary.js'
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { until, updateCheck } from '../consul/service-mesh.js'
import { skip } from './envoy.js'
import { type Answer, startHttpSideBySide, untilAnswered } from './side-by-side-http.js'

const VERSIONS = {
  v1: { Filter: 'Service.Meta.version == v1' },
  v2: { Filter: 'Service.Meta.version == v2' },
}

describe('A request and Envoy', { skip }, () => {
  it('take the same way', async (t) => {
    const { httpInstance, configure, clients } = await startHttpSideBySide(t)
    for (const Name of ['api', 'admin']) await configure({ Kind: 'service-defaults', Name, Protocol: 'http' })
    await httpInstance('api', 'api-1', { version: 'v1' })
    await httpInstance('api', 'api-2', { version: 'v2' })
    await httpInstance('admin', 'admin-1')
    await configure({ Kind: 'service-resolver', Name: 'api', DefaultSubset: 'v1', Subsets: VERSIONS })
    await configure({
      Kind: 'service-router',
      Name: 'api',
      Routes: [
        {
          Match: { HTTP: { PathPrefix: '/admin' } },
          Destination: {
            Service: 'admin',
            PrefixRewrite: '/',
            RequestHeaders: { Add: { 'x-route': 'admin' } },
          },
        },
        {
          Match: { HTTP: { Header: [{ Name: 'x-canary', Exact: '1' }] } },
          Destination: { ServiceSubset: 'v2' },
        },
        {
          Match: { HTTP: { PathExact: '/new', QueryParam: [{ Name: 'v', Exact: '2' }] } },
          Destination: { ServiceSubset: 'v2', ResponseHeaders: { Set: { 'x-was': 'new' } } },
        },
      ],
    })
    for (const client of Object.values(clients)) {
      await untilAnswered(client, { path: '/admin' }, ({ id }) => id === 'admin-1')
    }
    const table = [
      { path: '/' },
      { path: '/admin/x?q=/admin' },
      { path: '/administer' },
      { path: '/x', headers: { 'x-canary': '1' } },
      { path: '/x', headers: { 'x-canary': '2' } },
      { path: '/new?v=2&v=1' },
      { path: '/new?v=1&v=2' },
      { path: '/new?v=%32' },
      { path: '/x', method: 'POST', body: 'hello' },
    ]
    for (const wanted of table) {
      const envoy = essence(await clients.envoy(wanted))
      assert.deepEqual(essence(await clients.dispatcher(wanted)), envoy, JSON.stringify(wanted))
      assert.deepEqual(essence(await clients.httpAgent(wanted)), envoy, JSON.stringify(wanted))
    }
  })

  it('are split by the same shares, on connections that are kept', async (t) => {
    const { httpInstance, configure, clients } = await startHttpSideBySide(t)
    await configure({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    await httpInstance('api', 'api-1', { version: 'v1' })
    await httpInstance('api', 'api-2', { version: 'v2' })
    await configure({ Kind: 'service-resolver', Name: 'api', Subsets: VERSIONS })
    await configure({
      Kind: 'service-splitter',
      Name: 'api',
      Splits: [
        { Weight: 75, ServiceSubset: 'v1', RequestHeaders: { Set: { 'x-route': 'old' } } },
        { Weight: 25, ServiceSubset: 'v2', RequestHeaders: { Set: { 'x-route': 'new' } } },
      ],
    })
    const shares: Record<string, number> = {}
    for (const [name, client] of Object.entries(clients)) {
      await untilAnswered(client, {}, ({ received }) => received['x-route'] !== undefined)
      let second = 0
      for (let i = 0; i < 400; i += 1) {
        const { id, received } = await client()
        assert.equal(received['x-route'], id === 'api-2' ? 'new' : 'old')
        if (id === 'api-2') second += 1
      }
      shares[name] = second
      // Six standard deviations of 400 draws with a chance of a quarter.
      assert.ok(Math.abs(second - 100) < 52, `${name}: ${second} of 400`)
    }
    t.diagnostic(JSON.stringify(shares))
  })

  it('are sent again after a status of the route, to another instance', async (t) => {
    const { httpInstance, configure, clients } = await startHttpSideBySide(t)
    await configure({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    let refused = 0
    await httpInstance('api', 'api-1', {}, (_request, response) => {
      refused += 1
      response.writeHead(503).end()
    })
    await httpInstance('api', 'api-2')
    await configure({
      Kind: 'service-router',
      Name: 'api',
      Routes: [
        {
          Match: { HTTP: { PathPrefix: '/safe' } },
          Destination: { NumRetries: 3, RetryOnStatusCodes: [503], RetryOnConnectFailure: true },
        },
      ],
    })
    for (const [name, client] of Object.entries(clients)) {
      await untilAnswered(client, { path: '/safe' }, ({ status }) => status === 200)
      const before = refused
      for (let i = 0; i < 50; i += 1) {
        const { status, received } = await client({ path: '/safe', method: 'POST', body: 'hello' })
        assert.deepEqual([name, status], [name, 200])
        assert.equal(received['content-length'], '5')
      }
      assert.ok(refused > before, `${name}: the instance that refuses was never asked`)
      await untilAnswered(client, { path: '/other' }, ({ status }) => status === 503)
    }
  })

  it('end after the time of the route', async (t) => {
    const { httpInstance, configure, clients } = await startHttpSideBySide(t)
    await configure({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    await httpInstance('api', 'api-1', {}, (request, response) => {
      // Never ends.
      if (request.url === '/slow') response.writeHead(200).flushHeaders()
    })
    await configure({
      Kind: 'service-router',
      Name: 'api',
      Routes: [{ Destination: { RequestTimeout: '300ms', ResponseHeaders: { Set: { 'x-was': 'routed' } } } }],
    })
    for (const client of Object.values(clients)) {
      await untilAnswered(client, {}, ({ headers }) => headers['x-was'] === 'routed')
    }
    const begin = performance.now()
    for (const name of ['dispatcher', 'httpAgent'] as const) {
      await assert.rejects(clients[name]({ path: '/slow' }), { code: 'ERR_CONNECT_TIMEOUT' })
    }
    const tookMs = performance.now() - begin
    assert.ok(tookMs >= 600 && tookMs < 3_000, `${tookMs} ms`)
  })

  it('choose the same instance by a header', async (t) => {
    const { httpInstance, configure, clients } = await startHttpSideBySide(t)
    await configure({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    for (const id of ['api-1', 'api-2', 'api-3', 'api-4']) await httpInstance('api', id)
    for (const Policy of ['ring_hash', 'maglev']) {
      const HashPolicies = [{ Field: 'header', FieldValue: 'x-user' }]
      await configure({ Kind: 'service-resolver', Name: 'api', LoadBalancer: { Policy, HashPolicies } })
      const users = Array.from({ length: 40 }, (_, i) => ({ headers: { 'x-user': `user-${i}` } }))
      await until(`Envoy hashes by ${Policy}`, async () => {
        const answers = async (): Promise<string[]> =>
          Promise.all(users.map(async (user) => (await clients.envoy(user)).id))
        const [first, again] = [await answers(), await answers()]
        assert.deepEqual(first, again)
        for (const name of ['dispatcher', 'httpAgent'] as const) {
          const ours = await Promise.all(users.map(async (user) => (await clients[name](user)).id))
          assert.deepEqual(ours, first)
        }
        return true
      })
    }
  })

  it('return to the primary with the first request after its recovery', async (t) => {
    const { consul, web, httpInstance, configure, reset, clients } = await startHttpSideBySide(t)
    await httpInstance('api', 'api-1')
    await httpInstance('spare', 'spare-1')
    for (const Protocol of ['tcp', 'http']) {
      await reset()
      for (const Name of ['api', 'spare']) await configure({ Kind: 'service-defaults', Name, Protocol })
      const LoadBalancer = Protocol === 'http' ? { Policy: 'round_robin' } : undefined
      const Failover = { '*': { Service: 'spare' } }
      await configure({ Kind: 'service-resolver', Name: 'api', Failover, LoadBalancer })
      for (const name of ['dispatcher', 'httpAgent'] as const) {
        const client = clients[name]
        for (const [change, id] of [
          ['fail', 'spare'],
          ['pass', 'api'],
          ['fail', 'spare'],
          ['pass', 'api'],
        ] as const) {
          await updateCheck(consul, change, 'check-api-1')
          await until(`the endpoints of ${id} are first`, async () => {
            const [endpoint] = await web.resolve('api')
            return endpoint?.identity.service === id
          })
          const ids = [await client(), await client(), await client()].map((answer) => answer.id)
          assert.deepEqual([name, Protocol, change, ids], [name, Protocol, change, Array(3).fill(`${id}-1`)])
        }
      }
    }
  })
})

/** What must be the same. */
function essence({ status, id, path, headers, received }: Answer): object {
  return { status, id, path, was: headers['x-was'], route: received['x-route'] }
}
