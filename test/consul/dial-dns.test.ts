import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { DialError, DnsError, type Service } from '../../src/index.js'
import { portOf } from '../fixtures/mesh.js'
import { proxyInbound } from './built-in-proxy.js'
import { fleet } from './fleet.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { recordingDns } from './recording-proxy.js'
import { assertIntact, exchange, plainEcho } from './service-echo.js'
import {
  ALLOW_ALL,
  type Join,
  agentJson,
  agentOptions,
  createQuery,
  instances,
  joiner,
  register,
  until,
} from './service-mesh.js'
import { SteadyDials, answerAs, assertNoneFailed, dialMany, dialOnce, instanceNames } from './steady-dials.js'

/** The bound of dials that fail without waiting. */
const AT_ONCE_MS = 1_000
/** The bound of dials that wait for a new answer while they have an old one. */
const NEW_ANSWER_MS = 2_000
/** More than fit into 4096 bytes, the UDP size that the client announces. */
const MANY = 150

/** Creates services with the DNS server of this agent, or with a proxy in front of it. */
function dnsJoiner(join: Join, consul: RealAgent): (name: string, dnsAddress?: string) => Service {
  return (name, dnsAddress = consul.dnsAddress) => join(name, { agent: agentOptions(consul, { dnsAddress }) })
}

test('DNS names of the agent', { skip }, async (t) => {
  const consul = await startConsul(t, { dns: true })
  const join = joiner(t, consul)
  const web = dnsJoiner(join, consul)('web')
  await fleet(t, consul, join('api', { authorize: ALLOW_ALL }), 3)

  await t.test('find a service', async () => {
    for (const dns of ['api.connect.consul', 'api.connect.dc1.consul', 'API.Connect.Consul.']) {
      const outcomes = await dialMany(web, 60, { dns, service: 'api' })
      assert.deepEqual(instanceNames(outcomes), ['api-1', 'api-2', 'api-3'], dns)
    }
  })

  await t.test('find a prepared query', async () => {
    await createQuery(consul, { Name: 'to-api', Service: { Service: 'api', Connect: true } })
    const outcomes = await dialMany(web, 60, { dns: 'to-api.query.consul', service: 'api' })
    assert.deepEqual(instanceNames(outcomes), ['api-1', 'api-2', 'api-3'])
  })

  await t.test('find a service behind a proxy', async (t) => {
    const application = await plainEcho(t)
    const { port } = await proxyInbound(t, consul, 'proxied', application.port)
    await until('the proxy is passing', async () => (await instances(consul, 'proxied')) === 1)
    const socket = await web.dial({ dns: 'proxied.connect.consul', service: 'proxied' })
    assert.equal(socket.remotePort, port)
    assertIntact(await exchange(socket, 65_537))
  })

  await t.test('do not determine the expected identity', async () => {
    const { error } = await dialOnce(web, { dns: 'api.connect.consul', service: 'other' })
    assert.ok(error instanceof DialError, String(error))
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
  })

  await t.test('fail at once when they do not exist', async () => {
    await register(consul, { Name: 'plain', Port: 1 })
    await until(
      'plain is in the catalog',
      async () => 'plain' in (await agentJson<object>(consul, '/v1/catalog/services')),
    )
    for (const dns of [
      'missing.connect.consul',
      'plain.connect.consul',
      'missing.query.consul',
      'nonsense.consul',
    ]) {
      for (let i = 0; i < 2; i += 1) {
        const { error, dialMs } = await dialOnce(web, { dns, service: 'missing' })
        assert.ok(error instanceof DialError, `${dns}: ${String(error)}`)
        assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
        assert.equal(error.reason, 'unknown')
        assert.ok(dialMs < AT_ONCE_MS, `${dns} after ${dialMs} ms`)
      }
    }
  })

  await t.test(
    'fail at once outside of the domain of the agent, and the error names the server',
    async () => {
      const { error, dialMs } = await dialOnce(web, { dns: 'api.example.com', service: 'api' })
      assert.ok(error instanceof DnsError, String(error))
      assert.match(error.message, /REFUSED/)
      assert.ok(dialMs < AT_ONCE_MS, `after ${dialMs} ms`)
      assert.equal(error.question, 'SRV api.example.com')
      assert.equal(error.server, consul.dnsAddress)
    },
  )

  await t.test('are queried on every dial with a TTL of 0, and once for parallel dials', async (t) => {
    const dns = await recordingDns(t, consul)
    const careful = dnsJoiner(join, consul)('careful', dns.address)
    await careful.ready()
    const upstream = { dns: 'api.connect.consul', service: 'api' }
    const asked = (): number => dns.asked.length
    await dialMany(careful, 10, upstream)
    assert.equal(asked(), 10)
    assertNoneFailed(await Promise.all(Array.from({ length: 50 }, () => dialOnce(careful, upstream))))
    assert.ok(asked() <= 12, `50 parallel dials sent ${asked() - 10} queries`)
    assert.equal(dns.connections(), 0)
  })

  await t.test('are queried again when a packet is lost', async (t) => {
    const dns = await recordingDns(t, consul)
    const patient = dnsJoiner(join, consul)('patient', dns.address)
    await patient.ready()
    dns.drop(2)
    const { error, dialMs } = await dialOnce(patient, { dns: 'api.connect.consul', service: 'api' })
    assert.equal(error, undefined)
    assert.equal(dns.asked.length, 3)
    t.diagnostic(JSON.stringify({ dialMs }))
  })

  await t.test('keep their last answer while the server hangs or is down', async (t) => {
    const upstream = { dns: 'api.connect.consul', service: 'api' }
    await dialMany(web, 1, upstream)
    consul.freeze()
    const outcomes = await Promise.all(Array.from({ length: 10 }, () => dialOnce(web, upstream)))
    const later = await dialOnce(web, upstream)
    consul.thaw()
    t.diagnostic(
      JSON.stringify({ hangs: Math.max(...outcomes.map(({ dialMs }) => dialMs)), later: later.dialMs }),
    )
    assertNoneFailed([...outcomes, later])
    await consul.kill()
    const dead = await dialMany(web, 20, upstream)
    t.diagnostic(JSON.stringify({ dead: Math.max(...dead.map(({ dialMs }) => dialMs)) }))
    for (const { dialMs } of [...outcomes, later, ...dead]) {
      assert.ok(dialMs < NEW_ANSWER_MS, `after ${dialMs} ms`)
    }
    const never = await dialOnce(web, { dns: 'other.connect.consul', service: 'api' })
    assert.ok(never.error instanceof DnsError, String(never.error))
    assert.equal(never.error.server, consul.dnsAddress)
    assert.ok(never.dialMs < AT_ONCE_MS, `after ${never.dialMs} ms`)
  })
})

for (const isTruncating of [true, false]) {
  test(`DNS answers that exceed the UDP size, with enable_truncate ${isTruncating}`, { skip }, async (t) => {
    const config = { dns_config: { enable_truncate: isTruncating, service_ttl: { '*': '2s' } } }
    const consul = await startConsul(t, { dns: true, extraConfig: config })
    const join = joiner(t, consul)
    const dns = await recordingDns(t, consul)
    const web = dnsJoiner(join, consul)('web', dns.address)
    const api = join('api', { authorize: ALLOW_ALL })
    const port = portOf(await api.listen({ port: 0, host: '0.0.0.0' }, answerAs('api')))
    await Promise.all(
      Array.from({ length: MANY }, (_, i) => {
        const definition = { Name: 'api', ID: `api-${i}`, Address: `127.0.1.${i + 1}`, Port: port }
        return register(consul, { ...definition, Connect: { Native: true } })
      }),
    )
    await until('all instances are in the catalog', async () => (await instances(consul, 'api')) === MANY)
    const upstream = { dns: 'api.connect.consul', service: 'api' }

    await t.test(
      isTruncating ? 'arrive completely over TCP' : 'contain different instances each time',
      async (t) => {
        const found = await web.resolve(upstream)
        const hosts = new Set(found.map(({ host }) => host))
        assert.equal(hosts.size, found.length)
        const all = new Set(hosts)
        for (let i = 0; i < 2; i += 1) {
          await sleep(2_100)
          for (const { host } of await web.resolve(upstream)) all.add(host)
        }
        t.diagnostic(JSON.stringify({ first: hosts.size, three: all.size, tcp: dns.connections() }))
        if (isTruncating) {
          assert.equal(hosts.size, MANY)
          assert.equal(dns.connections(), 3)
        } else {
          assert.ok(hosts.size >= 10 && hosts.size < MANY, `${hosts.size} of ${MANY}`)
          assert.ok(all.size > hosts.size, `${all.size} in three answers`)
          assert.equal(dns.connections(), 0)
        }
      },
    )

    await t.test('are kept for their TTL', async (t) => {
      const before = dns.asked.length
      const dials = new SteadyDials(t, web, upstream, { perSecond: 50 })
      await sleep(5_000)
      const outcomes = await dials.stop()
      assertNoneFailed(outcomes)
      const asked = dns.asked.slice(before)
      t.diagnostic(JSON.stringify({ dials: outcomes.length, asked: asked.length }))
      assert.ok(asked.length >= 2 && asked.length <= 3, `${asked.length} queries`)
      const pauses = asked.slice(1).map((at, i) => at - asked[i]!)
      for (const pause of pauses)
        assert.ok(pause >= 1_950 && pause < 3_000, `queried again after ${pause} ms`)
    })
  })
}
