import { AgentClient } from './agent/client.js'
import { type AgentSettings, settingsKey } from './agent/settings.js'
import { Destinations } from './authorize/destinations.js'
import { type Time, systemTime } from './clock.js'
import { RootsStore } from './identity/roots.js'
import { Routes } from './resolve/routes.js'

/**
 * What all services of a process that use one agent share: its client, and one watch of the roots, of each upstream, and
 * of the intentions for each of them.
 */
interface Mesh {
  readonly agent: AgentClient
  readonly roots: RootsStore
  readonly routes: Routes
  readonly destinations: Destinations
}

/** A user's share in a mesh; the last one to give it back closes the mesh. */
export interface MeshLease extends Mesh {
  release(): Promise<void>
}

const shared = new Map<string, { mesh: Mesh; users: number }>()

/** The mesh behind an agent: the one there is, when the settings are the same, or a new one. */
export function acquireMesh(settings: AgentSettings, time: Time): MeshLease {
  // Under a clock of its own a service shares nothing.
  if (time !== systemTime) {
    const mesh = openMesh(settings, time)
    return { ...mesh, release: () => closeMesh(mesh) }
  }
  const key = settingsKey(settings)
  const entry = shared.get(key) ?? { mesh: openMesh(settings, time), users: 0 }
  shared.set(key, entry)
  entry.users += 1
  let released: Promise<void> | undefined
  const release = async (): Promise<void> => {
    entry.users -= 1
    if (entry.users > 0) return
    shared.delete(key)
    await closeMesh(entry.mesh)
  }
  return { ...entry.mesh, release: () => (released ??= release()) }
}

function openMesh(settings: AgentSettings, time: Time): Mesh {
  const agent = new AgentClient(settings)
  return {
    agent,
    roots: new RootsStore(agent, time),
    routes: new Routes(agent, time),
    destinations: new Destinations(agent, time),
  }
}

async function closeMesh({ agent, roots, routes, destinations }: Mesh): Promise<void> {
  destinations.close()
  routes.close()
  roots.close()
  await agent.destroy()
}
