import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect as tlsConnect, createServer as createTlsServer } from 'node:tls'
import { authorizeAny, service } from '../src/index.js'
import { TestAgent } from '../src/testing/index.js'
import { tlsMaterial, secureContext } from '../src/transport/tls-context.js'
import { bareGeneration } from './bare.js'
import { type Benchmark, type Sample, median, round, sample } from './measure.js'

const ROUNDS = 9
const HANDSHAKES = 400
const CONCURRENCY = 8
const BASELINE = 'node:tls'

/**
 * Opens connections, reads one byte, and closes them. Both ends run in this process, so the processor time includes both.
 * The baseline uses node:tls with the same kind of certificate, the same TLS options, and verification by OpenSSL only.
 */
const benchmark: Benchmark = {
  question: 'How fast are new connections with dial() and listen(), compared with node:tls?',
  async run() {
    await using agent = await TestAgent.start()
    const options = { agent: { address: agent.address, env: {} } }
    await using api = service('api', { ...options, authorize: authorizeAny })
    agent.setIntention('web', 'restricted', 'allow')
    await using restricted = service('restricted', options)
    await using web = service('web', options)
    await Promise.all([api.ready(), restricted.ready(), web.ready()])

    const answer = (socket: { end(data: string): unknown }): unknown => socket.end('x')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, answer)
    const restrictedListener = await restricted.listen({ port: 0, host: '127.0.0.1' }, answer)
    const generation = await bareGeneration(options.agent)
    const bare = createTlsServer(
      { ...tlsMaterial(generation), requestCert: true, rejectUnauthorized: true, noDelay: true },
      answer,
    )
    bare.listen(0, '127.0.0.1')
    await once(bare, 'listening')
    const portOf = (address: unknown): number => (address as AddressInfo).port
    const context = secureContext(generation)
    const upstream = { address: `127.0.0.1:${portOf(listener.address())}`, service: 'api' }
    const restrictedUpstream = {
      address: `127.0.0.1:${portOf(restrictedListener.address())}`,
      service: 'restricted',
    }

    const clients: Record<string, () => Promise<void>> = {
      [BASELINE]: async () => {
        const socket = tlsConnect({
          host: '127.0.0.1',
          port: portOf(bare.address()),
          secureContext: context,
          checkServerIdentity: () => undefined,
        })
        socket.setNoDelay(true)
        await once(socket.resume(), 'close')
      },
      'dial() to listen()': async () => {
        await once((await web.dial(upstream)).resume(), 'close')
      },
      'dial() to listen(), with intentions': async () => {
        await once((await web.dial(restrictedUpstream)).resume(), 'close')
      },
    }
    const samples = new Map<string, Sample[]>(Object.keys(clients).map((name) => [name, []]))
    for (const work of Object.values(clients)) await sample(HANDSHAKES, CONCURRENCY, work)
    // Interleaved, so that changes of the machine affect all clients.
    for (let i = 0; i < ROUNDS; i += 1) {
      for (const [name, work] of Object.entries(clients)) {
        samples.get(name)?.push(await sample(HANDSHAKES, CONCURRENCY, work))
      }
    }
    bare.close()

    const baseline = samples.get(BASELINE) ?? []
    return Object.fromEntries(
      [...samples].map(([name, rounds]) => [
        name,
        {
          'handshakes/s': round(median(rounds.map(({ perSecond }) => perSecond)), 0),
          'CPU ms/handshake': round(median(rounds.map(({ cpuMs }) => cpuMs)), 2),
          [`relative to ${BASELINE}`]: round(
            median(rounds.map(({ perSecond }, i) => perSecond / (baseline[i]?.perSecond ?? NaN))),
            3,
          ),
        },
      ]),
    )
  },
}
export default benchmark
