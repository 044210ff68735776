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

/**
 * Both ends are in this process, so the processor time is that of both. Each connection is made, gets one byte, and
 * ends. The bare one has the same certificates, ciphers and ticket settings, OpenSSL's verification of the path on
 * both sides, and nothing else.
 */
const benchmark: Benchmark = {
  question: 'what do dial and listen cost over bare node:tls, for a new connection?',
  async run() {
    await using agent = await TestAgent.start()
    const options = { agent: { address: agent.address, env: {} } }
    await using api = service('api', { ...options, authorize: authorizeAny })
    agent.setIntention('web', 'judging', 'allow')
    await using judging = service('judging', options)
    await using web = service('web', options)
    await Promise.all([api.ready(), judging.ready(), web.ready()])

    const answer = (socket: { end(data: string): unknown }): unknown => socket.end('x')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, answer)
    const judged = await judging.listen({ port: 0, host: '127.0.0.1' }, answer)
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
    const judgedUpstream = { address: `127.0.0.1:${portOf(judged.address())}`, service: 'judging' }

    const contestants: Record<string, () => Promise<void>> = {
      'bare node:tls': async () => {
        const socket = tlsConnect({
          host: '127.0.0.1',
          port: portOf(bare.address()),
          secureContext: context,
          checkServerIdentity: () => undefined,
        })
        socket.setNoDelay(true)
        await once(socket.resume(), 'close')
      },
      'dial to listen': async () => {
        await once((await web.dial(upstream)).resume(), 'close')
      },
      'the same, intentions decide': async () => {
        await once((await web.dial(judgedUpstream)).resume(), 'close')
      },
    }
    const samples = new Map<string, Sample[]>(Object.keys(contestants).map((name) => [name, []]))
    for (const work of Object.values(contestants)) await sample(HANDSHAKES, CONCURRENCY, work)
    // In turn, so that the machine's moods meet all of them.
    for (let i = 0; i < ROUNDS; i += 1) {
      for (const [name, work] of Object.entries(contestants)) {
        samples.get(name)?.push(await sample(HANDSHAKES, CONCURRENCY, work))
      }
    }
    bare.close()

    const base = samples.get('bare node:tls') ?? []
    return Object.fromEntries(
      [...samples].map(([name, own]) => [
        name,
        {
          'handshakes/s': round(median(own.map(({ perSecond }) => perSecond)), 0),
          'processor ms each': round(median(own.map(({ cpuMs }) => cpuMs)), 2),
          'ratio of bare, median of pairs': round(
            median(own.map(({ perSecond }, i) => perSecond / (base[i]?.perSecond ?? NaN))),
            3,
          ),
        },
      ]),
    )
  },
}
export default benchmark
