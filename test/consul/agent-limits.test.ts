// Three programs with many upstreams on one agent, which accepts 200 connections per client address.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { greet, offer } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, agentOptions, joiner } from './service-mesh.js'

const PROGRAMS = 3
const UPSTREAMS = 70
const TTL_MS = 3_000
const WATCHED_MS = 4 * TTL_MS

test(
  'three programs with 70 upstreams each leave connections for heartbeats and other programs',
  { skip },
  async (t) => {
    const consul = await startConsul(t)
    const join = joiner(t, consul)
    await offer(join('api'), greet)
    const names = Array.from({ length: PROGRAMS }, (_, i) => `program-${i}`)
    const programs = names.map((name, i) => {
      // Services with different agent options share no client, like services of different processes.
      return join(name, { agent: agentOptions(consul, { timeoutMs: 10_000 + i }) })
    })
    await Promise.all(
      programs.flatMap((program) =>
        Array.from({ length: UPSTREAMS }, (_, i) =>
          program.resolve({ service: 'api', filter: `Service.Meta.n != "${i}"` }),
        ),
      ),
    )
    await Promise.all(programs.map((program) => program.register({ port: 1, check: { ttlMs: TTL_MS } })))
    let rounds = 0
    for (const end = Date.now() + WATCHED_MS; Date.now() < end; rounds += 1) {
      for (const name of names) {
        const passing = await agentJson<unknown[]>(consul, `/v1/health/service/${name}?passing`)
        assert.equal(passing.length, 1, `${name} is critical in round ${rounds}`)
      }
      await sleep(100)
    }
    assert.ok(rounds > 10)
  },
)
