import { type AgentOptions, service } from '../src/index.js'
import type { Generation } from '../src/identity/identity-store.js'

/** Certificates of the same kind as a service's, from the same mesh, for node:tls without this library. */
export async function bareGeneration(agent: AgentOptions): Promise<Generation> {
  await using own = service('bare', { agent })
  await own.ready()
  const { leaf, roots } = own
  const { key, ecdhCurve, minVersion } = own.tlsServerOptions()
  if (leaf === undefined || roots === undefined) throw new Error('not ready')
  return { leaf, roots, privateKeyPem: Buffer.from(key).toString(), tls: { ecdhCurve, minVersion } }
}
