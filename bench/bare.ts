import { type AgentOptions, service } from '../src/index.js'
import type { Generation } from '../src/identity/identity-store.js'

/** A certificate and the roots of the mesh, to use with node:tls without this library. */
export async function bareGeneration(agent: AgentOptions): Promise<Generation> {
  await using bare = service('bare', { agent })
  await bare.ready()
  const { leaf, roots } = bare
  const { key, ecdhCurve, minVersion } = bare.tlsServerOptions()
  if (leaf === undefined || roots === undefined) throw new Error('not ready')
  return { leaf, roots, privateKeyPem: Buffer.from(key).toString(), tls: { ecdhCurve, minVersion } }
}
