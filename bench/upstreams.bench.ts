import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Service, service } from '../src/index.js'
import { startConsul } from '../test/consul/real-agent.js'
import { recordingProxy } from '../test/consul/recording-proxy.js'
import { agentPut } from '../test/consul/service-mesh.js'
import { type Benchmark, median, round } from './measure.js'
import { withFixtures } from './scope.js'

const COUNTS = [1, 70, 500]
/** The steady state is observed for this time. */
const STEADY_MS = 30_000
const CHANGES = 5
const MINUTE_MS = 60_000

/** One process resolves many services of a real agent, and then does nothing. */
const benchmark: Benchmark = {
  question: 'What do many upstreams of one process cost the agent, and how soon is a change followed?',
  run: async () => {
    const rows: Record<string, Record<string, number>> = {}
    for (const count of COUNTS)
      rows[`${count} upstreams`] = await withFixtures((scope) => measure(scope, count))
    return rows
  },
}
export default benchmark

async function measure(scope: TestContext, count: number): Promise<Record<string, number>> {
  const consul = await startConsul(scope)
  const proxy = await recordingProxy(scope, consul)
  const names = Array.from({ length: count }, (_, i) => `s${i}`)
  for (const name of [...names, 'other']) await registerAt(name, 1_000)
  await using web = service('web', { agent: { address: proxy.address, env: {} } })
  await web.ready()
  for (const name of names) await web.resolve(name)
  const before = proxy.requests.length
  await sleep(STEADY_MS)
  const steady = proxy.requests.length - before
  const [first = '', last = ''] = [names[0], names.at(-1)]

  /** Changes something of the upstream that was resolved last, and waits until it is followed. */
  const delays = async (change: (i: number) => Promise<unknown>, isFollowed: IsFollowed): Promise<number> => {
    const times: number[] = []
    for (let i = 1; i <= CHANGES; i += 1) {
      await change(i)
      const begin = performance.now()
      while (!(await isFollowed(i))) await sleep(1)
      times.push(performance.now() - begin)
    }
    return median(times)
  }
  const chain = await delays(
    (i) =>
      agentPut(consul, '/v1/config', {
        Kind: 'service-resolver',
        Name: first,
        Redirect: i % 2 === 0 ? undefined : { Service: 'other' },
        ConnectTimeout: '5s',
      }),
    async (i) => (await serviceOf(web, first)) === (i % 2 === 0 ? first : 'other'),
  )
  await agentPut(consul, '/v1/config', { Kind: 'service-resolver', Name: first, ConnectTimeout: '5s' })
  const instance = await delays(
    (i) => registerAt(last, 1_000 + i),
    async (i) => (await web.resolve(last))[0]?.port === 1_000 + i,
  )
  return {
    'blocking reads': proxy.blocked(),
    'requests/min, nothing used': round((steady * MINUTE_MS) / STEADY_MS, 0),
    'requests to resolve all': before,
    'ms until a change of a chain is followed': round(chain, 1),
    'ms until a change of an instance is followed': round(instance, 1),
  }

  function registerAt(name: string, port: number): Promise<unknown> {
    const registration = { ID: name, Service: name, Port: port, Connect: { Native: true } }
    return agentPut(consul, '/v1/catalog/register', {
      Node: 'far',
      Address: '127.0.0.1',
      Service: registration,
    })
  }
}

type IsFollowed = (i: number) => Promise<boolean>

async function serviceOf(web: Service, upstream: string): Promise<string | undefined> {
  return (await web.resolve(upstream))[0]?.identity.service
}
