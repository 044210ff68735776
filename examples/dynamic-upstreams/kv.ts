// The KV store as a directory of upstreams: the key `runner/upstreams/<name>` holds one as JSON.
import type { Upstream } from 'consul-connect'

const PREFIX = 'runner/upstreams/'

export async function readUpstream(agent: string, name: string): Promise<Upstream> {
  const response = await fetch(`${agent}/v1/kv/${PREFIX}${encodeURIComponent(name)}?raw`, {
    headers: tokenHeader(),
    signal: AbortSignal.timeout(5_000),
  })
  if (response.status === 404) throw new Error(`the KV store knows no upstream ${name}`)
  if (!response.ok) throw new Error(`the agent answered ${response.status} for the upstream ${name}`)
  return (await response.json()) as Upstream
}

export async function writeUpstream(agent: string, name: string, upstream: Upstream): Promise<void> {
  await change(agent, 'PUT', `/v1/kv/${PREFIX}${name}`, upstream)
}

/** A request that changes something, for the demo. Returns the answer's text. */
export async function change(agent: string, method: string, path: string, body?: unknown): Promise<string> {
  const response = await fetch(agent + path, {
    method,
    headers: tokenHeader(),
    ...(body !== undefined && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(5_000),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: the agent answered ${response.status} ${text.trim()}`)
  return text
}

function tokenHeader(): Record<string, string> {
  const token = process.env['CONSUL_HTTP_TOKEN']
  return token === undefined ? {} : { 'x-consul-token': token }
}
