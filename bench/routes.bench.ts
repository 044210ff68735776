import { type RequestListener, createServer } from 'node:http'
import type { TestContext } from 'node:test'
import { RequestHead } from '../src/http/routes/request-head.js'
import { RouteTable } from '../src/http/routes/route-table.js'
import { service } from '../src/index.js'
import { parseChain } from '../src/agent/endpoints/chain.js'
import { followRoutes } from '../src/resolve/chain/routes.js'
import { startConsul } from '../test/consul/real-agent.js'
import { agentJson, agentPut, instances, until } from '../test/consul/service-mesh.js'
import { portOf } from '../test/fixtures/mesh.js'
import { withFixtures } from './scope.js'
import { type Benchmark, median, round, sample } from './measure.js'

const ROUNDS = 15
const REQUESTS = 2_000
const DECISIONS = 200_000
const BASELINE = 'no routes'
/** 40 bytes; only the last of 20 routes matches it. */
const PATH = '/store/items/0123456789/reviews?page=200'

/** Requests of one dispatcher to services of this process that answer at once. */
const benchmark: Benchmark = {
  question: 'What do the routes of a service cost a request?',
  run: () => withFixtures(compare),
}
export default benchmark

/** Two expressions, three rules on headers and one on the query; the others are prefixes. */
function routes(): { Match: { HTTP: object } }[] {
  const matches: object[] = [
    { PathRegex: '/users/[0-9]+/(?:posts|likes)' },
    { PathRegex: '/.*\\.(?:png|jpe?g|svg)' },
    { PathPrefix: '/store', Header: [{ Name: 'x-canary', Exact: '1' }] },
    { PathPrefix: '/store', Header: [{ Name: 'x-debug', Present: true }] },
    { PathPrefix: '/store', Header: [{ Name: 'x-version', Prefix: '2.' }] },
    { PathPrefix: '/store', QueryParam: [{ Name: 'beta', Present: true }] },
    { PathExact: '/store/items', Methods: ['POST'] },
    ...Array.from({ length: 12 }, (_, i) => ({ PathPrefix: `/service-${i}` })),
    { PathPrefix: '/store/items' },
  ]
  return matches.map((HTTP) => ({ Match: { HTTP } }))
}

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const agent = { address: consul.address, env: {} }
  await using web = service('web', { agent })
  const answer: RequestListener = (_request, response) => response.end('ok')
  for (const name of ['plain', 'routed', 'split']) {
    await agentPut(consul, '/v1/config', { Kind: 'service-defaults', Name: name, Protocol: 'http' })
    const each = service(name, { agent, authorize: () => ({ authorized: true, reason: 'bench' }) })
    scope.after(() => each.close())
    const served = await each.serve(createServer(answer), { port: 0, host: '127.0.0.1' })
    await each.register({ port: portOf(served), address: '127.0.0.1' })
    await until(`${name} is in the catalog`, async () => (await instances(consul, name)) === 1)
  }
  await agentPut(consul, '/v1/config', { Kind: 'service-router', Name: 'routed', Routes: routes() })
  await agentPut(consul, '/v1/config', {
    Kind: 'service-splitter',
    Name: 'split',
    Splits: [{ Weight: 50 }, { Weight: 50, Service: 'plain' }],
  })

  const dispatcher = web.dispatcher()
  const clients: Record<string, string> = {
    [BASELINE]: 'plain',
    'a router of 20 routes': 'routed',
    'a splitter with two legs': 'split',
  }
  const rounds = new Map<string, number[]>(Object.keys(clients).map((name) => [name, []]))
  for (let i = 0; i <= ROUNDS; i += 1) {
    for (const [name, host] of Object.entries(clients)) {
      const origin = `http://${host}.service.consul`
      const { cpuMs } = await sample(REQUESTS, 1, async () => {
        const { body } = await dispatcher.request({ origin, path: PATH, method: 'GET' })
        await body.dump()
      })
      if (i > 0) rounds.get(name)?.push(cpuMs * 1_000)
    }
  }
  const baseline = rounds.get(BASELINE) ?? []
  const rows = Object.fromEntries(
    [...rounds].map(([name, times]) => [
      name,
      {
        'CPU µs/request, both ends': round(median(times), 1),
        'more than without routes': round(median(times.map((time, i) => time - (baseline[i] ?? NaN))), 1),
      },
    ]),
  )
  const chain = parseChain(await agentJson(consul, '/v1/discovery-chain/routed'))
  return { ...rows, 'the decision by 20 routes alone': { 'CPU µs/request, both ends': await decide(chain) } }
}

async function decide(chain: ReturnType<typeof parseChain>): Promise<number> {
  const followed = followRoutes(chain)
  if (followed === undefined) throw new Error('the service has no routes')
  const table = await RouteTable.compile(followed, (problem) => {
    throw new Error(problem)
  })
  const times: number[] = []
  for (let i = 0; i <= ROUNDS; i += 1) {
    const begin = performance.now()
    let last
    for (let j = 0; j < DECISIONS; j += 1) {
      last = table.decide(
        new RequestHead({ origin: 'http://routed.service.consul', path: PATH, method: 'GET' }),
        Math.random,
      )
    }
    if (last?.path !== PATH) throw new Error('no route matches')
    if (i > 0) times.push(((performance.now() - begin) * 1_000) / DECISIONS)
  }
  return round(median(times), 2)
}
