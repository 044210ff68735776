// What the tests of services on a real agent share: joining its mesh, intentions, rotation, and waits with a bound.
import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import type { TestContext } from 'node:test'
import { type AgentOptions, type Service, type ServiceOptions, service } from '../../src/index.js'
import { readAll } from '../fixtures/mesh.js'
import type { RealAgent } from './real-agent.js'
import { waitBound } from '../fixtures/bounds.js'

export { WAIT_MS, ask, nextEvent, until } from '../fixtures/mesh.js'

/** What the agent says of a rotation may take the 30 s over which Consul spreads the new certificates. */
export const ROTATION_MS = waitBound(45_000)

/** Agent options for services of this agent; the variables of whoever runs the tests must not leak in. */
export function agentOptions(consul: RealAgent, options: AgentOptions = {}): AgentOptions {
  return { address: consul.address, env: {}, ...options }
}

export type Join = (name: string, options?: ServiceOptions) => Service

/** Makes services of this agent that are gone at the end of the test. */
export function joiner(t: TestContext, consul: RealAgent): Join {
  const services: Service[] = []
  t.after(async () => {
    for (const each of services) each.destroy()
    await Promise.all(services.map((each) => each.close()))
  })
  return (name, options) => {
    const joined = service(name, { agent: agentOptions(consul), ...options })
    // Without a listener each warning would be printed among the results.
    joined.on('warning', () => undefined)
    services.push(joined)
    return joined
  }
}

/** Dials, and reads until the end. */
export async function hear(web: Service, ...dial: Parameters<Service['dial']>): Promise<string> {
  return readAll(await web.dial(...dial))
}

/** Sets the intention between two services, whatever it was before. The agent may take a moment to know. */
export async function intend(
  consul: RealAgent,
  action: 'allow' | 'deny',
  source: string,
  destination: string,
): Promise<void> {
  await consul.consul(['intention', 'create', '-replace', `-${action}`, source, destination])
}

export async function forget(consul: RealAgent, source: string, destination: string): Promise<void> {
  await consul.consul(['intention', 'delete', source, destination])
}

/** Gives the mesh a new root. */
export async function rotateCa(consul: RealAgent): Promise<void> {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
  const config = { PrivateKey: privateKey.export({ type: 'sec1', format: 'pem' }), LeafCertTTL: '72h' }
  const directory = await mkdtemp(joinPath(tmpdir(), 'consul-connect-'))
  try {
    const file = joinPath(directory, 'ca.json')
    await writeFile(file, JSON.stringify({ Provider: 'consul', Config: config }), { mode: 0o600 })
    await consul.consul(['connect', 'ca', 'set-config', '-config-file', file])
  } finally {
    await rm(directory, { recursive: true })
  }
}

/** A JSON answer of the agent, which must be a success. */
export async function agentJson<T>(consul: RealAgent, path: string, init?: RequestInit): Promise<T> {
  const response = await consul.http(path, init)
  const text = await response.text()
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`)
  return (text === '' ? undefined : JSON.parse(text)) as T
}

export function register(consul: RealAgent, definition: object): Promise<unknown> {
  return agentJson(consul, '/v1/agent/service/register', { method: 'PUT', body: JSON.stringify(definition) })
}

/** How many passing instances the agent offers for dialling. */
export async function instances(consul: RealAgent, name: string): Promise<number> {
  const path = `/v1/health/connect/${encodeURIComponent(name)}?passing`
  return (await agentJson<unknown[]>(consul, path)).length
}
