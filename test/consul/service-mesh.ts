// Services of a real agent, and requests to its HTTP API.
import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import type { TestContext } from 'node:test'
import {
  type AgentOptions,
  type Authorizer,
  type Service,
  type ServiceOptions,
  service,
} from '../../src/index.js'
import { waitBound } from '../fixtures/bounds.js'
import { readAll } from '../fixtures/mesh.js'
import { type RealAgent, isAtLeast } from './real-agent.js'

export { WAIT_MS, ask, nextEvent, until } from '../fixtures/mesh.js'

/** Consul spreads the new certificates of a rotation over 30 s. */
export const ROTATION_MS = waitBound(45_000)

/** An authorizer without requests to the agent. */
export const ALLOW_ALL: Authorizer = () => ({ authorized: true, reason: 'test' })

/** Agent options for this agent, without the environment variables of the test process. */
export function agentOptions(consul: RealAgent, options: AgentOptions = {}): AgentOptions {
  return { address: consul.address, env: {}, ...options }
}

export type Join = (name: string, options?: ServiceOptions) => Service

/** Returns a function that creates services of this agent, which are destroyed at the end of the test. */
export function joiner(t: TestContext, consul: RealAgent): Join {
  const services: Service[] = []
  t.after(async () => {
    for (const each of services) each.destroy()
    await Promise.all(services.map((each) => each.close()))
  })
  return (name, options) => {
    const joined = service(name, { agent: agentOptions(consul), ...options })
    // Without a listener, warnings would be printed as process warnings.
    joined.on('warning', () => undefined)
    services.push(joined)
    return joined
  }
}

/** Dials and reads to the end. */
export async function dialAndRead(web: Service, ...dial: Parameters<Service['dial']>): Promise<string> {
  return readAll(await web.dial(...dial))
}

/** Creates or replaces an intention. The agent applies it after a moment. */
export async function intend(
  consul: RealAgent,
  action: 'allow' | 'deny',
  source: string,
  destination: string,
): Promise<void> {
  if (isAtLeast('1.9')) await agentPut(consul, exactIntention(source, destination), { Action: action })
  else await consul.consul(['intention', 'create', '-replace', `-${action}`, source, destination])
}

export async function deleteIntention(consul: RealAgent, source: string, destination: string): Promise<void> {
  if (isAtLeast('1.9')) await agentJson(consul, exactIntention(source, destination), { method: 'DELETE' })
  else await consul.consul(['intention', 'delete', source, destination])
}

/** Consul 1.9 and later address intentions by their names. The CLI of 1.14 fails for the source `*`. */
function exactIntention(source: string, destination: string): string {
  return `/v1/connect/intentions/exact?${new URLSearchParams({ source, destination }).toString()}`
}

/** Starts a rotation of the CA with a new private key. */
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

/** Sends a request to the agent. Returns the JSON answer; rejects for errors. */
export async function agentJson<T>(consul: RealAgent, path: string, init?: RequestInit): Promise<T> {
  const response = await consul.http(path, init)
  const text = await response.text()
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`)
  return (text === '' ? undefined : JSON.parse(text)) as T
}

/** Sends a PUT request with a JSON body to the agent. */
export function agentPut<T>(consul: RealAgent, path: string, body: object = {}): Promise<T> {
  return agentJson<T>(consul, path, { method: 'PUT', body: JSON.stringify(body) })
}

export function register(consul: RealAgent, definition: object): Promise<unknown> {
  return agentPut(consul, '/v1/agent/service/register', definition)
}

/** Deregisters a service. Consul 1.14 deregisters a sidecar together with its service, so that it may be gone. */
export async function deregister(consul: RealAgent, id: string): Promise<void> {
  const path = `/v1/agent/service/deregister/${id}`
  const response = await consul.http(path, { method: 'PUT' })
  if (!response.ok && response.status !== 404) throw new Error(`${path}: ${await response.text()}`)
}

/** Creates a prepared query. Returns its ID. */
export async function createQuery(consul: RealAgent, definition: object): Promise<string> {
  const init = { method: 'POST', body: JSON.stringify(definition) }
  return (await agentJson<{ ID: string }>(consul, '/v1/query', init)).ID
}

/** Sets the status of a TTL check. */
export function updateCheck(
  consul: RealAgent,
  action: 'pass' | 'warn' | 'fail',
  id: string,
): Promise<unknown> {
  return agentPut(consul, `/v1/agent/check/${action}/${id}`)
}

/** Returns a function that returns the SPIFFE ID of a service. */
export async function spiffeIds(
  consul: RealAgent,
): Promise<(service: string, datacenter?: string) => string> {
  const { TrustDomain } = await agentJson<{ TrustDomain: string }>(consul, '/v1/agent/connect/ca/roots')
  return (service, datacenter = 'dc1') => `spiffe://${TrustDomain}/ns/default/dc/${datacenter}/svc/${service}`
}

/** The number of passing instances in the mesh. */
export async function instances(consul: RealAgent, name: string): Promise<number> {
  const path = `/v1/health/connect/${encodeURIComponent(name)}?passing`
  return (await agentJson<unknown[]>(consul, path)).length
}
