import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { type ProxyConfig, type ProxyConfigSource, type ProxySelector, proxyConfig } from '../../src/proxy.js'
import type { TestAgent } from '../../src/testing/index.js'
import { WAIT_MS, startMesh } from '../fixtures/mesh.js'

export interface ProxySourceSetup {
  readonly agent: TestAgent
  /** Opens a source of the configuration of the selected proxy. */
  readonly open: () => ProxyConfigSource
}

/** Starts an embedded agent for sources of a proxy's configuration, which are closed at the end of the test. */
export async function setUpProxySource(t: TestContext, selector: ProxySelector): Promise<ProxySourceSetup> {
  const { agent, agentOptions } = await startMesh(t)
  const open = (): ProxyConfigSource => {
    const source = proxyConfig(selector, { agent: agentOptions })
    t.after(() => source.close())
    return source
  }
  return { agent, open }
}

/** The argument of the next event of the source. */
export async function nextOf(source: ProxyConfigSource, event: 'changed'): Promise<ProxyConfig>
export async function nextOf(source: ProxyConfigSource, event: 'warning'): Promise<Error>
export async function nextOf(source: ProxyConfigSource, event: 'changed' | 'warning'): Promise<unknown> {
  const [value] = (await once(source as unknown as NodeJS.EventEmitter, event, {
    signal: AbortSignal.timeout(WAIT_MS),
  })) as [unknown]
  return value
}
