// Intentions of a real agent over its HTTP API, which is a hundred times faster than the CLI.
import type { RealAgent } from './real-agent.js'

export type Action = 'allow' | 'deny'

export interface WrittenIntention {
  /** Returns the time of the agent's answer, by `performance.now`. */
  set(action: Action): Promise<number>
  delete(): Promise<void>
}

const PATH = '/v1/connect/intentions'

/** Creates an intention. Returns undefined when the agent has an intention with the same key. */
export async function writeIntention(
  consul: RealAgent,
  source: string,
  destination: string,
  action: Action,
  token?: string,
): Promise<WrittenIntention | undefined> {
  const headers: Record<string, string> = token === undefined ? {} : { 'X-Consul-Token': token }
  const body = (Action: Action): string =>
    JSON.stringify({ SourceName: source, DestinationName: destination, SourceType: 'consul', Action })
  const request = async (method: string, path: string, content?: string): Promise<string> => {
    const response = await consul.http(path, {
      method,
      headers,
      ...(content !== undefined && { body: content }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text
  }
  const created = await request('POST', PATH, body(action)).catch((error: unknown) => {
    // The second text is that of Consul 1.9 and later.
    if (/duplicate intention found|defines .* more than once/.test(String(error))) return undefined
    throw error
  })
  if (created === undefined) return undefined
  const { ID } = JSON.parse(created) as { ID: string }
  return {
    set: async (next) => {
      await request('PUT', `${PATH}/${ID}`, body(next))
      return performance.now()
    },
    delete: async () => {
      await request('DELETE', `${PATH}/${ID}`)
    },
  }
}
