// `npm run demo` on agents with services and intentions of other programs or of earlier runs.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { waitBound } from '../fixtures/bounds.js'
import { freePort } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { NodeProgram } from '../fixtures/node-program.js'
import { AGENTS, type Agent, deny, instancesOf } from './agents.js'

const FOLDER = join(import.meta.dirname, '..', '..', 'examples', 'quickstart')
/** A real agent may take 30 s to renew certificates after a rotation; the demo itself gives up after 60 s. */
const STEP_MS = waitBound(90_000)

for (const [kind, start, skip] of AGENTS) {
  describe(`the demo on ${kind}`, { skip }, () => {
    it('succeeds after killed runs, and beside a dead instance of api', async (t) => {
      const agent = await start(t)
      await registerApi(agent, 'dead', await freePort())

      const orphaning = runDemo(t, agent)
      await orphaning.prints('intruder joins too')
      orphaning.kill()
      // Its programs notice the end of the demo, and deregister.
      await until(
        'the api of the killed run is deregistered',
        async () => (await instancesOf(agent, 'api')).length === 1,
        STEP_MS,
      )

      const crashing = runDemo(t, agent)
      await crashing.prints('intruder joins too')
      crashing.killAll()
      assert.equal((await instancesOf(agent, 'api')).length, 2)

      const demo = runDemo(t, agent)
      assert.equal(await demo.ended(), 0, demo.output)
      assert.match(demo.output, /Neither is registered any more/)
      assert.deepEqual(await instancesOf(agent, 'api'), ['dead'])
      assert.deepEqual(await intentionSources(agent), [])
    })

    it('does not start beside an instance of api that accepts connections', async (t) => {
      const agent = await start(t)
      const server = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1')
      await once(server, 'listening')
      t.after(() => server.close())
      const { port } = server.address() as AddressInfo
      await registerApi(agent, 'alive', port)
      const demo = runDemo(t, agent)
      assert.equal(await demo.ended(), 1)
      assert.ok(
        demo.output.includes(
          `another program offers the service api at 127.0.0.1:${port}; stop it, or start another agent`,
        ),
        demo.output,
      )
      assert.deepEqual([await instancesOf(agent, 'api'), await intentionSources(agent)], [['alive'], []])
    })

    it('does not change an intention of another program', async (t) => {
      const agent = await start(t)
      await deny(agent, 'web', 'api')
      const demo = runDemo(t, agent)
      assert.equal(await demo.ended(), 1)
      assert.match(demo.output, /the agent has an intention from web to api, which this demo would change/)
      assert.deepEqual(await intentionSources(agent), ['web'])
    })
  })
}

async function registerApi({ api }: Agent, id: string, port: number): Promise<void> {
  const body = {
    Name: 'api',
    ID: id,
    Address: '127.0.0.1',
    Port: port,
    Connect: { Native: true },
    Check: { TTL: '1h', Status: 'passing' },
  }
  await api.request({ method: 'PUT', path: '/v1/agent/service/register', body })
  await until(
    `${id} is in the catalog`,
    async () => ((await api.request({ path: '/v1/health/service/api' })) as unknown[]).length > 0,
  )
}

async function intentionSources({ api }: Agent): Promise<string[]> {
  const all = (await api.request({ path: '/v1/connect/intentions' })) as { SourceName: string }[] | null
  return (all ?? []).map(({ SourceName }) => SourceName)
}

function runDemo(t: TestContext, { address }: Agent): NodeProgram {
  const env = { HOME: process.env['HOME'], CONSUL_HTTP_ADDR: address, DEMO_ANY_AGENT: '1' }
  return new NodeProgram(t, ['--import', 'tsx', 'demo.ts'], { cwd: FOLDER, env, timeoutMs: STEP_MS })
}
