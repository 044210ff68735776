// Stores upstreams in Consul's KV store, as JSON under the key `runner/upstreams/<name>`.
import type { Upstream } from 'consul-connect'

const PREFIX = 'runner/upstreams/'

/** Reads an upstream. @throws Error if the key does not exist */
export async function readUpstream(agent: string, name: string): Promise<Upstream> {
  const response = await fetch(`${agent}/v1/kv/${PREFIX}${encodeURIComponent(name)}?raw`, {
    headers: tokenHeader(),
    signal: AbortSignal.timeout(5_000),
  })
  if (response.status === 404) throw new Error(`KV store: no upstream "${name}"`)
  if (!response.ok) throw new Error(`KV store: agent returned ${response.status} for the upstream "${name}"`)
  return (await response.json()) as Upstream
}

export async function writeUpstream(agent: string, name: string, upstream: Upstream): Promise<void> {
  await sendRequest(agent, 'PUT', `/v1/kv/${PREFIX}${name}`, upstream)
}

/** Sends a request to the agent. Returns the text of the response. */
export async function sendRequest(
  agent: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<string> {
  const response = await fetch(agent + path, {
    method,
    headers: tokenHeader(),
    ...(body !== undefined && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(5_000),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: agent returned ${response.status} ${text.trim()}`)
  return text
}

function tokenHeader(): Record<string, string> {
  const token = process.env['CONSUL_HTTP_TOKEN']
  return token === undefined ? {} : { 'x-consul-token': token }
}
