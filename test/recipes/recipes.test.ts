import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { NodeProgram } from '../fixtures/node-program.js'
import { unlessThere } from '../fixtures/programs.js'
import { startProxy } from '../proxy/connect-proxy.js'
import { AGENTS, type Agent, deny, instancesOf } from './agents.js'
import { recipes } from './recipes.js'

const examples = join(import.meta.dirname, '..', '..', 'examples')

for (const [kind, start, skip] of AGENTS) {
  describe(`recipes on ${kind}`, { skip }, () => {
    for (const [name, recipe] of Object.entries(recipes)) {
      const { servers = [], needs = [], behindSidecar, clients, source, destination, denial } = recipe
      const test = `examples/${name} prints the documented output, and an error when it is denied`
      it(test, { skip: unlessThere(...needs) }, async (t) => {
        const agent = await start(t)
        const running: NodeProgram[] = []
        for (const script of servers) {
          const server = runScript(t, name, script, agent)
          running.push(server)
          await server.prints('ready on port ')
        }
        if (behindSidecar !== undefined) {
          const port = await behindSidecar(t)
          const flags = ['-service', destination, '-service-addr', `127.0.0.1:${port}`, '-register']
          await startProxy(t, agent.address, [...flags, '-listen', `127.0.0.1:${await freePort()}`])
        }
        await until(`${destination} is in the catalog`, () => isInCatalog(agent, destination))
        for (const [script, lines] of Object.entries(clients)) {
          const client = runScript(t, name, script, agent)
          assert.equal(await client.ended(), 0, client.output)
          for (const line of lines)
            assert.ok(client.output.includes(line), `${line}\n--- not in:\n${client.output}`)
        }
        await deny(agent, source, destination)
        for (const script of Object.keys(clients)) {
          // A real agent applies an intention after a delay.
          const output = await until(`${script} is denied`, async () => {
            const client = runScript(t, name, script, agent)
            return (await client.ended()) === 1 && client.output
          })
          assert.match(output, denial)
        }
        for (const server of running) await server.stop()
        if (running.length > 0) assert.deepEqual(await instancesOf(agent, destination), [])
      })
    }
  })
}

async function isInCatalog({ api }: Agent, service: string): Promise<boolean> {
  const found = await api.request({ path: `/v1/health/connect/${service}`, query: { passing: true } })
  return (found as unknown[]).length > 0
}

/** Runs a script of the package of a recipe, like `npm run`. */
function runScript(t: TestContext, recipe: string, script: string, { address }: Agent): NodeProgram {
  const cwd = join(examples, recipe)
  const { scripts } = JSON.parse(readFileSync(join(cwd, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const [, ...args] = scripts[script]!.split(' ')
  return new NodeProgram(t, args, {
    cwd,
    env: { HOME: process.env['HOME'], CONSUL_HTTP_ADDR: address, PORT: '0' },
  })
}
