// The agents that the recipes and the demo are tested with.
import type { TestContext } from 'node:test'
import { type ConsulApi, consul } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { skip, startConsul } from '../consul/real-agent.js'

export interface Agent {
  readonly address: string
  readonly api: ConsulApi
}

/** The kinds of agents: a name, a function that starts an agent until the end of the test, and the option `skip`. */
export const AGENTS: readonly (readonly [
  kind: string,
  start: (t: TestContext) => Promise<Agent>,
  skip: string | false,
])[] = [
  [
    'the embedded agent',
    async (t) => {
      const agent = await TestAgent.start()
      t.after(() => agent.close())
      return withApi(t, agent.address)
    },
    false,
  ],
  ['a real agent', async (t) => withApi(t, (await startConsul(t)).address), skip],
]

function withApi(t: TestContext, address: string): Agent {
  const api = consul({ address, env: {} })
  t.after(() => api.close())
  return { address, api }
}

/** The ids of the instances of a service that are registered with the agent itself. */
export async function instancesOf({ api }: Agent, service: string): Promise<string[]> {
  const services = (await api.request({ path: '/v1/agent/services' })) as Record<string, { Service: string }>
  return Object.entries(services).flatMap(([id, { Service }]) => (Service === service ? [id] : []))
}

/** Denies connections by a new intention. */
export async function deny({ api }: Agent, source: string, destination: string): Promise<void> {
  const body = {
    SourceName: source,
    DestinationName: destination,
    SourceType: 'consul',
    Action: 'deny',
  }
  await api.request({ method: 'POST', path: '/v1/connect/intentions', body })
}
