import { once } from 'node:events'
import { type AddressInfo, connect as tcpConnect } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TestContext } from 'node:test'
import { connect as tlsConnect, createServer as createTlsServer } from 'node:tls'
import { service } from '../src/index.js'
import { secureContext, tlsMaterial } from '../src/transport/tls-context.js'
import { proxyOutbound } from '../test/consul/built-in-proxy.js'
import { startConsul } from '../test/consul/real-agent.js'
import { agentPut, instances, until } from '../test/consul/service-mesh.js'
import { bareGeneration } from './bare.js'
import { withFixtures } from './scope.js'
import { type Benchmark, type Sample, median, round, sample } from './measure.js'

const ROUNDS = 9
const DIALS = 400
/** Latency is measured with one dial at a time, throughput with several. */
const CONCURRENCY = 8
const BASELINE = 'node:tls'

/**
 * Dials a service that echoes one byte. Everything runs in this process except the real agent and Consul's proxy. The
 * service accepts every peer, and Consul's proxy is on the client side only: the benchmark compares clients.
 */
const benchmark: Benchmark = {
  question: "How long does a dial with one echoed byte take, compared with node:tls and with Consul's proxy?",
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const agent = { address: consul.address, env: {} }
  await using api = service('api', {
    agent,
    mux: true,
    authorize: () => ({ authorized: true, reason: 'bench' }),
  })
  await using web = service('web', { agent, mux: true })
  await using alone = service('web', { agent })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, echo)
  const { port } = listener.address() as AddressInfo
  await api.register({ port, address: '127.0.0.1' })
  await until('api is in the catalog', async () => (await instances(consul, 'api')) === 1)
  await agentPut(consul, '/v1/config', {
    Kind: 'service-resolver',
    Name: 'spare',
    DefaultSubset: 'none',
    Subsets: { none: { Filter: 'Service.ID == none' } },
    Failover: { '*': { Service: 'api' } },
  })
  const generation = await bareGeneration(agent)
  const bare = createTlsServer(
    { ...tlsMaterial(generation), requestCert: true, rejectUnauthorized: true, noDelay: true },
    echo,
  )
  scope.after(() => bare.close())
  bare.listen(0, '127.0.0.1')
  await once(bare, 'listening')
  const bareOptions = {
    host: '127.0.0.1',
    port: (bare.address() as AddressInfo).port,
    secureContext: secureContext(generation),
    checkServerIdentity: () => undefined,
  }
  const proxy = await proxyOutbound(scope, consul, 'web', 'api')

  const clients: Record<string, () => Promise<Duplex>> = {
    [BASELINE]: async () => {
      const socket = tlsConnect(bareOptions)
      socket.setNoDelay(true)
      await once(socket, 'secureConnect')
      return socket
    },
    "dial('api'), in a session": () => web.dial('api'),
    "dial('api'), without sessions": () => alone.dial('api'),
    "dial('spare'), a subset without instances and a failover to api": () => alone.dial('spare'),
    'dial({ address }), without a chain': () => web.dial({ address: `127.0.0.1:${port}`, service: 'api' }),
    'consul connect proxy': async () => {
      const socket = tcpConnect({ host: '127.0.0.1', port: proxy.port, noDelay: true })
      await once(socket, 'connect')
      return socket
    },
  }
  const rounds = new Map<string, Round[]>(Object.keys(clients).map((name) => [name, []]))
  // Interleaved, so that changes of the machine affect all clients. The first round is a warm-up.
  for (let i = 0; i <= ROUNDS; i += 1) {
    for (const [name, dial] of Object.entries(clients)) {
      const work = async (): Promise<void> => exchange(await dial())
      const round = {
        sequential: await sample(DIALS / 2, 1, work),
        concurrent: await sample(DIALS, CONCURRENCY, work),
      }
      if (i > 0) rounds.get(name)?.push(round)
    }
  }
  return table(rounds)
}

interface Round {
  readonly sequential: Sample
  readonly concurrent: Sample
}

function echo(socket: Duplex): void {
  socket.on('error', () => undefined)
  socket.once('data', (byte: Buffer) => socket.end(byte))
}

async function exchange(socket: Duplex): Promise<void> {
  socket.write('x')
  const [byte] = (await once(socket, 'data')) as [Buffer]
  if (byte.toString() !== 'x') throw new Error(`expected x, got ${byte.toString()}`)
  socket.end()
  if (!socket.closed) await once(socket, 'close')
}

function table(rounds: ReadonlyMap<string, readonly Round[]>): Record<string, Record<string, number>> {
  const baseline = rounds.get(BASELINE) ?? []
  return Object.fromEntries(
    [...rounds].map(([name, samples]) => [
      name,
      {
        'p50 ms': round(median(samples.map(({ sequential }) => sequential.p50)), 2),
        'p99 ms': round(median(samples.map(({ sequential }) => sequential.p99)), 2),
        [`dials/s, ${CONCURRENCY} at a time`]: round(
          median(samples.map(({ concurrent }) => concurrent.perSecond)),
          0,
        ),
        'CPU ms/dial, this process': round(median(samples.map(({ concurrent }) => concurrent.cpuMs)), 2),
        [`dials/s relative to ${BASELINE}`]: round(
          median(
            samples.map(
              ({ concurrent }, i) => concurrent.perSecond / (baseline[i]?.concurrent.perSecond ?? NaN),
            ),
          ),
          3,
        ),
      },
    ]),
  )
}
