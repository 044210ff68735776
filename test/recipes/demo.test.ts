// `npm run demo` on agents that were used before.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { type ConsulApi, consul as agentApi } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { skip, startConsul } from '../consul/real-agent.js'
import { freePort } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { waitBound } from '../fixtures/bounds.js'

const FOLDER = join(import.meta.dirname, '..', '..', 'examples', 'quickstart')
/** A real agent may take 30 s to renew certificates after a rotation; the demo itself gives up after 60 s. */
const STEP_MS = waitBound(90_000)

interface Agent {
  readonly address: string
  readonly api: ConsulApi
}

async function embedded(t: TestContext): Promise<string> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return agent.address
}

async function real(t: TestContext): Promise<string> {
  return (await startConsul(t)).address
}

for (const [kind, startAgent, skipped] of [
  ['the embedded agent', embedded, false],
  ['a real agent', real, skip],
] as const) {
  describe(`the demo on ${kind}`, { skip: skipped }, () => {
    const start = async (t: TestContext): Promise<Agent> => {
      const address = await startAgent(t)
      const api = agentApi({ address, env: {} })
      t.after(() => api.close())
      return { address, api }
    }

    it('succeeds after runs that were killed, and beside an api that is dead', async (t) => {
      const agent = await start(t)
      await registerApi(agent, 'dead', await freePort())

      const orphaning = runDemo(t, agent)
      await orphaning.prints('intruder joins too')
      orphaning.kill('parent')
      // Its programs notice, and leave the mesh by themselves.
      await until('the api of the killed run has left', async () => (await apis(agent)).length === 1, STEP_MS)

      const crashing = runDemo(t, agent)
      await crashing.prints('intruder joins too')
      crashing.kill('all')
      assert.equal((await apis(agent)).length, 2)

      const last = runDemo(t, agent)
      assert.equal(await last.ended(), 0, last.output)
      assert.match(last.output, /Neither is registered any more/)
      assert.deepEqual(await apis(agent), ['dead'])
      assert.deepEqual(await intentions(agent), [])
    })

    it('refuses to begin beside an api that accepts connections', async (t) => {
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
      assert.deepEqual([await apis(agent), await intentions(agent)], [['alive'], []])
    })

    it('refuses to change an intention that it has not made', async (t) => {
      const agent = await start(t)
      const body = { SourceName: 'web', DestinationName: 'api', SourceType: 'consul', Action: 'deny' }
      await agent.api.request({ method: 'POST', path: '/v1/connect/intentions', body })
      const demo = runDemo(t, agent)
      assert.equal(await demo.ended(), 1)
      assert.match(demo.output, /the agent has an intention from web to api, which this demo would change/)
      assert.deepEqual(await intentions(agent), ['web'])
    })
  })
}

async function registerApi({ api }: Agent, id: string, port: number): Promise<void> {
  const check = { TTL: '1h', Status: 'passing' }
  const body = {
    Name: 'api',
    ID: id,
    Address: '127.0.0.1',
    Port: port,
    Connect: { Native: true },
    Check: check,
  }
  await api.request({ method: 'PUT', path: '/v1/agent/service/register', body })
  await until(
    `${id} is in the catalog`,
    async () => ((await api.request({ path: '/v1/health/service/api' })) as unknown[]).length > 0,
  )
}

/** The ids of the instances of `api` that the agent has. */
async function apis({ api }: Agent): Promise<string[]> {
  const services = (await api.request({ path: '/v1/agent/services' })) as Record<string, { Service: string }>
  return Object.entries(services).flatMap(([id, { Service }]) => (Service === 'api' ? [id] : []))
}

/** The sources of all intentions. */
async function intentions({ api }: Agent): Promise<string[]> {
  const all = (await api.request({ path: '/v1/connect/intentions' })) as { SourceName: string }[] | null
  return (all ?? []).map(({ SourceName }) => SourceName)
}

interface Demo {
  readonly output: string
  prints(text: string): Promise<unknown>
  /** Sends SIGKILL to the demo process alone, or also to the programs that it has started. */
  kill(victims: 'parent' | 'all'): void
  ended(): Promise<number | null>
}

function runDemo(t: TestContext, { address }: Agent): Demo {
  const { PATH, HOME } = process.env
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', 'demo.ts'], {
    cwd: FOLDER,
    env: { PATH, HOME, CONSUL_HTTP_ADDR: address, DEMO_ANY_AGENT: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A process group of its own, so that all programs of the demo can be killed at once.
    detached: true,
  })
  const closed = once(child, 'close')
  let output = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
  }
  const killAll = (): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
    } catch (error) {
      // Every process of the group has ended.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
  t.after(killAll)
  return {
    get output() {
      return output
    },
    prints: (text) =>
      until(
        `it prints ${text}`,
        () => {
          if (child.exitCode !== null) throw new Error(output)
          return output.includes(text)
        },
        STEP_MS,
      ),
    kill: (victims) => {
      if (victims === 'all') killAll()
      else child.kill('SIGKILL')
    },
    ended: async () => {
      await closed
      return child.exitCode
    },
  }
}
