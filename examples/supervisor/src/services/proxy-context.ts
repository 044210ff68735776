import type { Environment } from 'consul-connect'
import type { Log } from 'consul-connect-proxy/log'
import type { Registry } from '../agent/registry.js'
import type { Tokens } from '../agent/tokens.js'
import type { PortRange } from '../configuration/configuration.js'
import type { Sender } from '../configuration/definition.js'
import type { StateFolder } from '../state/folder.js'

/** Settings and services shared by all proxies. */
export interface ProxyContext {
  readonly registry: Registry
  readonly tokens: Tokens
  readonly log: Log
  /** Undefined with `-dev`: nothing is persisted. */
  readonly folder: StateFolder | undefined
  /** Base environment of the proxies. */
  readonly environment: Environment
  /** Working directory of the proxies. */
  readonly directory: string
  /** Command for proxies whose definition has none. */
  readonly defaultCommand: { readonly command: readonly string[]; readonly logArgs: readonly string[] }
  readonly ports: PortRange
  readonly bindAddress: string
  /**
   * Runs a port selection while no other proxy selects one. `taken` holds the ports of all other proxies and
   * services.
   */
  withPorts(proxyId: string, choose: (taken: ReadonlySet<number>) => Promise<void>): Promise<void>
  /**
   * Saves the state.
   * @throws the system's error
   */
  save(): Promise<void>
  /** Schedules the revocation of a token. */
  revokeLater(accessor: string): void
  /** Schedules a deregistration that the agent did not accept yet. */
  deregisterLater(id: string, sender: Sender): void
  /** Starts the next pass immediately. */
  wake(): void
}
