import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { consul as agentApi } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { skip, startConsul } from '../consul/real-agent.js'
import { intend } from '../consul/service-mesh.js'
import { WAIT_MS, until } from '../fixtures/mesh.js'
import { startProxy } from '../proxy/connect-proxy.js'
import { freePort } from '../fixtures/free-ports.js'
import { unlessThere } from '../fixtures/programs.js'
import { recipes } from './recipes.js'

const examples = join(import.meta.dirname, '..', '..', 'examples')

/** An agent of either kind, as a recipe meets it. */
interface Agent {
  readonly address: string
  deny(source: string, destination: string): Promise<void>
}

async function embedded(t: TestContext): Promise<Agent> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return {
    address: agent.address,
    deny: (source, destination) => {
      agent.setIntention(source, destination, 'deny')
      return Promise.resolve()
    },
  }
}

async function real(t: TestContext): Promise<Agent> {
  const consul = await startConsul(t)
  return {
    address: consul.address,
    deny: (source, destination) => intend(consul, 'deny', source, destination),
  }
}

for (const [kind, start, skipped] of [
  ['the embedded agent', embedded, false],
  ['a real agent', real, skip],
] as const) {
  describe(`over ${kind}`, { skip: skipped }, () => {
    for (const [name, recipe] of Object.entries(recipes)) {
      const { servers = [], needs = [], behindSidecar, clients, source, destination, denial } = recipe
      const missing = unlessThere(...needs)
      const what = `examples/${name} does what it says, and says so when it is denied`
      it(what, { skip: missing }, async (t) => {
        const agent = await start(t)
        const running: Script[] = []
        for (const script of servers) {
          const server = new Script(t, name, script, agent.address)
          running.push(server)
          await server.says('ready on port ')
        }
        if (behindSidecar !== undefined) {
          const port = await behindSidecar(t)
          const flags = ['-service', destination, '-service-addr', `127.0.0.1:${port}`, '-register']
          await startProxy(t, agent.address, [...flags, '-listen', `127.0.0.1:${await freePort()}`])
        }
        await until(`${destination} can be found`, () => isFound(agent, destination))
        for (const [script, lines] of Object.entries(clients)) {
          const client = new Script(t, name, script, agent.address)
          assert.equal(await client.ended(), 0, client.output)
          for (const line of lines)
            assert.ok(client.output.includes(line), `${line}\n--- not in:\n${client.output}`)
        }
        await agent.deny(source, destination)
        for (const script of Object.keys(clients)) {
          // The real agent may take a moment to know.
          const output = await until(`${script} is denied`, async () => {
            const client = new Script(t, name, script, agent.address)
            return (await client.ended()) === 1 && client.output
          })
          assert.match(output, denial)
        }
        for (const server of running) {
          const end = await server.stop()
          assert.ok(end === 0 || end === 'SIGTERM', `${end}\n${server.output}`)
        }
        if (running.length > 0)
          assert.equal(await isRegistered(agent, destination), false, 'still registered')
      })
    }
  })
}

async function isFound({ address }: Agent, service: string): Promise<boolean> {
  const api = agentApi({ address, env: {} })
  try {
    const found = await api.request({ path: `/v1/health/connect/${service}`, query: { passing: true } })
    return (found as unknown[]).length > 0
  } finally {
    await api.close()
  }
}

/** Whether the agent itself has an instance, which it may have before or after its servers know. */
async function isRegistered({ address }: Agent, service: string): Promise<boolean> {
  await using api = agentApi({ address, env: {} })
  const services = (await api.request({ path: '/v1/agent/services' })) as Record<string, { Service: string }>
  return Object.values(services).some(({ Service }) => Service === service)
}

/** A script of a recipe's package, as `npm run` would start it. */
class Script {
  readonly #child: ChildProcess
  output = ''

  constructor(t: TestContext, recipe: string, script: string, address: string) {
    const folder = join(examples, recipe)
    const { scripts } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
      scripts: Record<string, string>
    }
    const [, ...args] = scripts[script]!.split(' ')
    const env = { PATH: process.env['PATH'], HOME: process.env['HOME'], CONSUL_HTTP_ADDR: address, PORT: '0' }
    this.#child = spawn(process.execPath, args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.on('data', (chunk: Buffer) => (this.output += chunk.toString()))
    }
    t.after(() => this.#child.kill('SIGKILL'))
  }

  async says(text: string): Promise<void> {
    await until(`it says ${text}`, () => {
      if (this.#child.exitCode !== null) throw new Error(this.output)
      return this.output.includes(text)
    })
  }

  async ended(): Promise<number | NodeJS.Signals | null> {
    if (this.#child.exitCode === null) {
      await once(this.#child, 'close', { signal: AbortSignal.timeout(WAIT_MS) }).catch((error: unknown) => {
        throw new Error(`it has not ended:\n${this.output}`, { cause: error })
      })
    }
    return this.#child.exitCode ?? this.#child.signalCode
  }

  stop(): Promise<number | NodeJS.Signals | null> {
    this.#child.kill('SIGTERM')
    return this.ended()
  }
}
