import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AgentClient } from '../../src/agent/client.js'
import { askAuthorize } from '../../src/agent/endpoints/authorize.js'
import { type Intention, intentionsReader } from '../../src/agent/endpoints/intentions.js'
import { agentSettings } from '../../src/agent/settings.js'
import { IntentionTable } from '../../src/authorize/intention-table.js'
import { seeded } from '../fixtures/random.js'
import { type Action, type WrittenIntention, writeIntention } from './intention-api.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'

const SETS = 1_000
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const token = 'b1d2c3f4-0000-4000-8000-000000000001'

const BATCH = 20

/** Similar names: agents match destinations case-insensitively, and sources case-sensitively. */
const SOURCES = ['web', 'Web', 'WEB', 'web2', 'we.b', 'we%62', 'ẅeb', '__proto__', 'constructor', 'unknown']

for (const defaultPolicy of ['allow', 'deny'] as const) {
  test(
    `decisions by generated intentions equal those of the agent (default: ${defaultPolicy})`,
    { skip },
    async (t) => {
      const random = seeded(SEED)
      const consul = await startConsul(t, { acl: { defaultPolicy, managementToken: token } })
      const agent = new AgentClient(agentSettings({ address: consul.address, token, env: {} }))
      t.after(() => agent.destroy())
      const startedAt = performance.now()
      const counts = { decisions: 0, byDefault: 0, allowed: 0, intentions: 0 }
      for (let batch = 0; batch < SETS / BATCH; batch += 1) {
        const everywhere = await writeAll(consul, draw(['*'], random, 3))
        // New destinations, because the agent caches the intentions of a destination.
        const sets = Array.from({ length: BATCH }, (_, i) => `to-${batch}-${i}`)
        const drawn = sets.map((destination) => draw([destination, destination.toUpperCase()], random, 5))
        const written = await Promise.all(drawn.map((wanted) => writeAll(consul, wanted)))
        const sources = sets.map(() => SOURCES.filter(() => random() < 0.4))
        await Promise.all(
          sets.map(async (destination, i) => {
            const { value } = await intentionsReader(agent, destination)({})
            assert.equal(
              value.length,
              (written[i]?.length ?? 0) + everywhere.length,
              context(destination, value),
            )
            counts.intentions += value.length
            const table = new IntentionTable(value)
            for (const service of sources[i] ?? []) {
              const ours = table.find({ partition: 'default', namespace: 'default', service })?.decision
              const uri = `spiffe://x.consul/ns/default/dc/dc1/svc/${encodeURIComponent(service)}`
              const request = { target: destination, clientCertUri: uri, clientCertSerial: '01' }
              const theirs = await askAuthorize(agent, request, {})
              const authorized = ours?.authorized ?? defaultPolicy === 'allow'
              const why = `${service}: ${theirs.reason}; ${context(destination, value)}`
              assert.equal(authorized, theirs.authorized, why)
              counts.decisions += 1
              if (ours === undefined) counts.byDefault += 1
              if (authorized) counts.allowed += 1
            }
          }),
        )
        await Promise.all([...everywhere, ...written.flat()].map((intention) => intention.delete()))
      }
      t.diagnostic(JSON.stringify({ seed: SEED, ...counts, ms: Math.round(performance.now() - startedAt) }))
      // Each kind of decision occurred often.
      assert.ok(counts.byDefault > SETS / 10 && counts.allowed > SETS / 2, JSON.stringify(counts))
      assert.ok(counts.decisions - counts.allowed > SETS / 2, JSON.stringify(counts))
    },
  )
}

interface Wanted {
  readonly source: string
  readonly destination: string
  readonly action: Action
}

function context(destination: string, intentions: readonly Intention[]): string {
  const texts = intentions.map(
    ({ source, destination: to, action }) => `${source.name} > ${to.name}: ${action}`,
  )
  return `SEED=${SEED}, ${destination}: ${texts.join(', ') || 'no intention'}`
}

function draw(destinations: readonly string[], random: () => number, most: number): Wanted[] {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T
  return Array.from({ length: Math.floor(random() * (most + 1)) }, () => ({
    source: random() < 0.3 ? '*' : pick(SOURCES),
    destination: pick(destinations),
    action: pick<Action>(['allow', 'deny']),
  }))
}

async function writeAll(consul: RealAgent, wanted: readonly Wanted[]): Promise<WrittenIntention[]> {
  const written: WrittenIntention[] = []
  // Sequentially: of two intentions with the same key, the first must be created.
  for (const { source, destination, action } of wanted) {
    const intention = await writeIntention(consul, source, destination, action, token)
    if (intention !== undefined) written.push(intention)
  }
  return written
}
