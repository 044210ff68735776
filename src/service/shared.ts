import { AgentClient } from '../agent/client.js'
import { type AgentSettings, settingsKey } from '../agent/settings.js'
import { IntentionRegistry } from '../authorize/intention-registry.js'
import { type Time, systemTime } from '../base/clock.js'
import { RootsStore } from '../identity/roots.js'
import { UpstreamRegistry } from '../resolve/upstream-registry.js'

/** State that all services of a process share for one agent: its client, and the watches of roots, upstreams, and intentions. */
interface SharedState {
  readonly agent: AgentClient
  readonly roots: RootsStore
  readonly upstreams: UpstreamRegistry
  readonly destinations: IntentionRegistry
}

/** Shared state in use by a service. The last release closes the state. */
export interface SharedLease extends SharedState {
  release(): Promise<void>
}

const shared = new Map<string, { mesh: SharedState; users: number }>()

/** Returns the shared state for these settings, or creates it. */
export function acquireShared(settings: AgentSettings, time: Time): SharedLease {
  // A service with an injected clock shares nothing.
  if (time !== systemTime) {
    const mesh = openShared(settings, time)
    return { ...mesh, release: () => closeShared(mesh) }
  }
  const key = settingsKey(settings)
  const entry = shared.get(key) ?? { mesh: openShared(settings, time), users: 0 }
  shared.set(key, entry)
  entry.users += 1
  let released: Promise<void> | undefined
  const release = async (): Promise<void> => {
    entry.users -= 1
    if (entry.users > 0) return
    shared.delete(key)
    await closeShared(entry.mesh)
  }
  return { ...entry.mesh, release: () => (released ??= release()) }
}

function openShared(settings: AgentSettings, time: Time): SharedState {
  const agent = new AgentClient(settings)
  return {
    agent,
    roots: new RootsStore(agent, time),
    upstreams: new UpstreamRegistry(agent, time),
    destinations: new IntentionRegistry(agent, time),
  }
}

async function closeShared({ agent, roots, upstreams, destinations }: SharedState): Promise<void> {
  destinations.close()
  upstreams.close()
  roots.close()
  await agent.destroy()
}
