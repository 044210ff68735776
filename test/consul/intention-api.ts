// Intentions of a real agent, written over its HTTP API: the CLI would take a hundred times as long.
import type { RealAgent } from './real-agent.js'

export type Action = 'allow' | 'deny'

export interface WrittenIntention {
  /** Resolves when the agent has answered, with the time of that by `performance.now`. */
  set(action: Action): Promise<number>
  delete(): Promise<void>
}

const PATH = '/v1/connect/intentions'

/** Makes an intention; `undefined` when there is one already that the agent takes for the same. */
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
  const ask = async (method: string, path: string, content?: string): Promise<string> => {
    const response = await consul.http(path, {
      method,
      headers,
      ...(content !== undefined && { body: content }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text
  }
  const made = await ask('POST', PATH, body(action)).catch((error: unknown) => {
    if (String(error).includes('duplicate intention found')) return undefined
    throw error
  })
  if (made === undefined) return undefined
  const { ID } = JSON.parse(made) as { ID: string }
  return {
    set: async (next) => {
      await ask('PUT', `${PATH}/${ID}`, body(next))
      return performance.now()
    },
    delete: async () => {
      await ask('DELETE', `${PATH}/${ID}`)
    },
  }
}
