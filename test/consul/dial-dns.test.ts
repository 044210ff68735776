import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { DialError, DnsError, type Service, type Upstream } from '../../src/index.js'
import { portOf } from '../fixtures/mesh.js'
import { proxyInbound } from './built-in-proxy.js'
import { fleet } from './fleet.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { recordingDns } from './recording-proxy.js'
import { exchange, plainEcho } from './service-echo.js'
import { type Join, agentJson, agentOptions, instances, joiner, register, until } from './service-mesh.js'
import { type Outcome, SteadyDials, answerAs, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

/** What is refused is refused without a wait. */
const AT_ONCE_MS = 1_000
/** How long a dial waits for a new answer when it has an old one, and what else it takes. */
const NEW_ANSWER_MS = 2_000
/** More than go into the 4096 bytes that we offer to take over UDP. */
const MANY = 150
const LETS_ALL_IN = { authorize: () => ({ authorized: true, reason: 'test' }) }

/** Services that ask this agent's DNS, or what stands before it. */
function dnsJoiner(join: Join, consul: RealAgent): (name: string, dnsAddress?: string) => Service {
  return (name, dnsAddress = consul.dnsAddress) => join(name, { agent: agentOptions(consul, { dnsAddress }) })
}

test('names of the agent’s own DNS', { skip }, async (t) => {
  const consul = await startConsul(t, { dns: true })
  const join = joiner(t, consul)
  const web = dnsJoiner(join, consul)('web')
  await fleet(t, consul, join('api', LETS_ALL_IN), 3)

  await t.test('of a service', async () => {
    for (const dns of ['api.connect.consul', 'api.connect.dc1.consul', 'API.Connect.Consul.']) {
      const outcomes = await many(web, 60, { dns, service: 'api' })
      assert.deepEqual(names(outcomes), ['api-1', 'api-2', 'api-3'], dns)
    }
  })

  await t.test('of a prepared query', async () => {
    const query = { Name: 'to-api', Service: { Service: 'api', Connect: true } }
    await agentJson(consul, '/v1/query', { method: 'POST', body: JSON.stringify(query) })
    const outcomes = await many(web, 60, { dns: 'to-api.query.consul', service: 'api' })
    assert.deepEqual(names(outcomes), ['api-1', 'api-2', 'api-3'])
  })

  await t.test('of a service behind a proxy', async (t) => {
    const application = await plainEcho(t)
    const { port } = await proxyInbound(t, consul, 'proxied', application.port)
    await until('the proxy is passing', async () => (await instances(consul, 'proxied')) === 1)
    const socket = await web.dial({ dns: 'proxied.connect.consul', service: 'proxied' })
    assert.equal(socket.remotePort, port)
    const { sent, told, received } = await exchange(socket, 65_537)
    assert.deepEqual({ told, received }, { told: sent, received: sent })
  })

  await t.test('say nothing of who must be there', async () => {
    const { error } = await dialOnce(web, { dns: 'api.connect.consul', service: 'other' })
    assert.ok(error instanceof DialError, String(error))
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
  })

  await t.test('that there are not are refused at once', async () => {
    await register(consul, { Name: 'plain', Port: 1 })
    await until(
      'it is known',
      async () => 'plain' in (await agentJson<object>(consul, '/v1/catalog/services')),
    )
    for (const dns of [
      'nobody.connect.consul',
      'plain.connect.consul',
      'nobody.query.consul',
      'nonsense.consul',
    ]) {
      for (let i = 0; i < 2; i += 1) {
        const { error, dialMs } = await dialOnce(web, { dns, service: 'nobody' })
        assert.ok(error instanceof DialError, `${dns}: ${String(error)}`)
        assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
        assert.equal(error.reason, 'unknown')
        assert.ok(dialMs < AT_ONCE_MS, `${dns} after ${dialMs} ms`)
      }
    }
  })

  await t.test(
    'that the agent does not answer for are refused at once, and the server is named',
    async () => {
      const { error, dialMs } = await dialOnce(web, { dns: 'api.example.com', service: 'api' })
      assert.ok(error instanceof DnsError, String(error))
      assert.match(error.message, /REFUSED/)
      assert.ok(dialMs < AT_ONCE_MS, `after ${dialMs} ms`)
      assert.equal(error.question, 'SRV api.example.com')
      assert.equal(error.server, consul.dnsAddress)
    },
  )

  await t.test('are asked for on every dial while their TTL is 0, once for all who wait', async (t) => {
    const dns = await recordingDns(t, consul)
    const careful = dnsJoiner(join, consul)('careful', dns.address)
    await careful.ready()
    const upstream = { dns: 'api.connect.consul', service: 'api' }
    const asked = (): number => dns.asked.length
    await many(careful, 10, upstream)
    assert.equal(asked(), 10)
    assertNoneFailed(await Promise.all(Array.from({ length: 50 }, () => dialOnce(careful, upstream))))
    assert.ok(asked() <= 12, `50 dials at once asked ${asked() - 10} times`)
    assert.equal(dns.connections(), 0)
  })

  await t.test('are asked for again when a question is lost', async (t) => {
    const dns = await recordingDns(t, consul)
    const patient = dnsJoiner(join, consul)('patient', dns.address)
    await patient.ready()
    dns.lose(2)
    const { error, dialMs } = await dialOnce(patient, { dns: 'api.connect.consul', service: 'api' })
    assert.equal(error, undefined)
    assert.equal(dns.asked.length, 3)
    t.diagnostic(JSON.stringify({ dialMs }))
  })

  await t.test('serve on by their last answer when the server hangs or is dead', async (t) => {
    const upstream = { dns: 'api.connect.consul', service: 'api' }
    await many(web, 1, upstream)
    consul.freeze()
    const outcomes = await Promise.all(Array.from({ length: 10 }, () => dialOnce(web, upstream)))
    const later = await dialOnce(web, upstream)
    consul.thaw()
    t.diagnostic(
      JSON.stringify({ hangs: Math.max(...outcomes.map(({ dialMs }) => dialMs)), later: later.dialMs }),
    )
    assertNoneFailed([...outcomes, later])
    await consul.kill()
    const dead = await many(web, 20, upstream)
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
  test(`DNS answers that do not fit, with enable_truncate ${isTruncating}`, { skip }, async (t) => {
    const config = { dns_config: { enable_truncate: isTruncating, service_ttl: { '*': '2s' } } }
    const consul = await startConsul(t, { dns: true, extraConfig: config })
    const join = joiner(t, consul)
    const dns = await recordingDns(t, consul)
    const web = dnsJoiner(join, consul)('web', dns.address)
    const api = join('api', LETS_ALL_IN)
    const port = portOf(await api.listen({ port: 0, host: '0.0.0.0' }, answerAs('api')))
    await Promise.all(
      Array.from({ length: MANY }, (_, i) => {
        const definition = { Name: 'api', ID: `api-${i}`, Address: `127.0.1.${i + 1}`, Port: port }
        return register(consul, { ...definition, Connect: { Native: true } })
      }),
    )
    await until('all are known', async () => (await instances(consul, 'api')) === MANY)
    const upstream = { dns: 'api.connect.consul', service: 'api' }

    await t.test(
      isTruncating ? 'all of them come over TCP' : 'some of them come, others each time',
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

    await t.test('and they hold for their TTL', async (t) => {
      const before = dns.asked.length
      const dials = new SteadyDials(t, web, upstream, { perSecond: 50 })
      await sleep(5_000)
      const outcomes = await dials.stop()
      assertNoneFailed(outcomes)
      const asked = dns.asked.slice(before)
      t.diagnostic(JSON.stringify({ dials: outcomes.length, asked: asked.length }))
      assert.ok(asked.length >= 2 && asked.length <= 3, `${asked.length} questions`)
      const pauses = asked.slice(1).map((at, i) => at - asked[i]!)
      for (const pause of pauses) assert.ok(pause >= 1_950 && pause < 3_000, `asked again after ${pause} ms`)
    })
  })
}

async function many(from: Service, count: number, upstream: Upstream): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  for (let i = 0; i < count; i += 1) outcomes.push(await dialOnce(from, upstream))
  assertNoneFailed(outcomes)
  return outcomes
}

function names(outcomes: readonly Outcome[]): string[] {
  return Object.keys(shares(outcomes)).toSorted()
}
