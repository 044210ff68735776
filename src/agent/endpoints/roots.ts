import type { AgentClient, AgentResponse } from '../client.js'
import { array, nonEmpty, object, boolean } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** The CA roots of the mesh. */
export interface CaRoots {
  readonly trustDomain: string
  readonly activeRootId: string
  readonly roots: readonly CaRoot[]
}

interface CaRoot {
  readonly id: string
  readonly certificatePem: string
  readonly active: boolean
}

/** Reads the CA roots: `GET /v1/agent/connect/ca/roots`. Needs no token. */
export function fetchRoots(agent: AgentClient, query: BlockingQuery): Promise<AgentResponse<CaRoots>> {
  return agent.request({ path: '/v1/agent/connect/ca/roots', ...blocking(query) }, parseRoots)
}

export function parseRoots(body: unknown): CaRoots {
  const answer = object(body, '')
  return {
    trustDomain: nonEmpty(answer['TrustDomain'], 'TrustDomain'),
    activeRootId: nonEmpty(answer['ActiveRootID'], 'ActiveRootID'),
    roots: array(answer['Roots'], 'Roots').map((item, i) => {
      const root = object(item, `Roots[${i}]`)
      return {
        id: nonEmpty(root['ID'], `Roots[${i}].ID`),
        certificatePem: nonEmpty(root['RootCert'], `Roots[${i}].RootCert`),
        active: boolean(root['Active'], `Roots[${i}].Active`),
      }
    }),
  }
}
