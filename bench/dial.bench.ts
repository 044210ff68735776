import { once } from 'node:events'
import { type AddressInfo, connect as tcpConnect } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TestContext } from 'node:test'
import { connect as tlsConnect, createServer as createTlsServer } from 'node:tls'
import { service } from '../src/index.js'
import { secureContext, tlsMaterial } from '../src/transport/tls-context.js'
import { proxyOutbound } from '../test/consul/built-in-proxy.js'
import { startConsul } from '../test/consul/real-agent.js'
import { instances, until } from '../test/consul/service-mesh.js'
import { bareGeneration } from './bare.js'
import { withFixtures } from './scope.js'
import { type Benchmark, type Sample, median, round, sample } from './measure.js'

const ROUNDS = 9
const DIALS = 400
/** The time of one dial is taken by dialling one at a time, the rate by many at a time. */
const ALONE = 1
const TOGETHER = 8

/**
 * One application that echoes a byte, reached in several ways, on a real agent. All is in this process but the agent
 * and the built-in proxy, which stands on the dialling side only. The application takes everybody, so that what is
 * compared is the dialling side.
 */
const benchmark: Benchmark = {
  question:
    'what does a dial cost, up to one byte echoed, over bare node:tls and through the built-in proxy?',
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const agent = { address: consul.address, env: {} }
  await using api = service('api', { agent, authorize: () => ({ authorized: true, reason: 'bench' }) })
  await using web = service('web', { agent })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, echo)
  const { port } = listener.address() as AddressInfo
  await api.register({ port, address: '127.0.0.1' })
  await until('api is known', async () => (await instances(consul, 'api')) === 1)
  const generation = await bareGeneration(agent)
  const bare = createTlsServer(
    { ...tlsMaterial(generation), requestCert: true, rejectUnauthorized: true, noDelay: true },
    echo,
  )
  scope.after(() => bare.close())
  bare.listen(0, '127.0.0.1')
  await once(bare, 'listening')
  const bareAt = {
    host: '127.0.0.1',
    port: (bare.address() as AddressInfo).port,
    secureContext: secureContext(generation),
    checkServerIdentity: () => undefined,
  }
  const proxy = await proxyOutbound(scope, consul, 'web', 'api')

  const ways: Record<string, () => Promise<Duplex>> = {
    'bare node:tls': async () => {
      const socket = tlsConnect(bareAt)
      socket.setNoDelay(true)
      await once(socket, 'secureConnect')
      return socket
    },
    "dial('api')": () => web.dial('api'),
    'dial({ address })': () => web.dial({ address: `127.0.0.1:${port}`, service: 'api' }),
    'the built-in proxy': async () => {
      const socket = tcpConnect({ host: '127.0.0.1', port: proxy.port, noDelay: true })
      await once(socket, 'connect')
      return socket
    },
  }
  const rounds = new Map<string, Round[]>(Object.keys(ways).map((name) => [name, []]))
  // In turn, so that the machine's moods meet all of them; the first round is for warming up.
  for (let i = 0; i <= ROUNDS; i += 1) {
    for (const [name, dial] of Object.entries(ways)) {
      const work = async (): Promise<void> => echoed(await dial())
      const round = {
        alone: await sample(DIALS / 2, ALONE, work),
        together: await sample(DIALS, TOGETHER, work),
      }
      if (i > 0) rounds.get(name)?.push(round)
    }
  }
  return table(rounds)
}

interface Round {
  readonly alone: Sample
  readonly together: Sample
}

function echo(socket: Duplex): void {
  socket.on('error', () => undefined)
  socket.once('data', (byte: Buffer) => socket.end(byte))
}

async function echoed(socket: Duplex): Promise<void> {
  socket.write('x')
  const [byte] = (await once(socket, 'data')) as [Buffer]
  if (byte.toString() !== 'x') throw new Error(`the echo of x was ${byte.toString()}`)
  socket.end()
  if (!socket.closed) await once(socket, 'close')
}

function table(rounds: ReadonlyMap<string, readonly Round[]>): Record<string, Record<string, number>> {
  const base = rounds.get('bare node:tls') ?? []
  return Object.fromEntries(
    [...rounds].map(([name, own]) => [
      name,
      {
        'p50 ms': round(median(own.map(({ alone }) => alone.p50)), 2),
        'p99 ms': round(median(own.map(({ alone }) => alone.p99)), 2),
        'dials/s, 8 at a time': round(median(own.map(({ together }) => together.perSecond)), 0),
        'processor ms here': round(median(own.map(({ together }) => together.cpuMs)), 2),
        'rate over bare, median of pairs': round(
          median(own.map(({ together }, i) => together.perSecond / (base[i]?.together.perSecond ?? NaN))),
          3,
        ),
      },
    ]),
  )
}
