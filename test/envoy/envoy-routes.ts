// Routes of Envoy, made from those of a chain as Consul makes them.
import type { HeaderChanges } from '../../src/agent/endpoints/chain-nodes.js'
import type { HeaderRule, HttpMatch, PathRule, QueryRule } from '../../src/agent/endpoints/http-rules.js'

export interface TestRoute {
  readonly match: HttpMatch
  readonly rewrite: string | undefined
  readonly request: HeaderChanges
  readonly response: HeaderChanges
  /** Changes of the only leg. */
  readonly leg?: { readonly request: HeaderChanges; readonly response: HeaderChanges }
}

/**
 * Configures a listener with a virtual host for each table of routes: the requests to `t3.x`, or with any other ending,
 * are decided by the table with the index 3. The upstream gets the index of the route in `x-route`.
 */
export function envoyConfig(
  tables: readonly (readonly TestRoute[])[],
  port: number,
  upstreamPort: number,
): object {
  const address = (at: number): object => ({ socket_address: { address: '127.0.0.1', port_value: at } })
  const hosts = tables.map((routes, i) => ({
    name: `t${i}`,
    domains: [`t${i}.*`],
    routes: routes.map(envoyRoute),
  }))
  const manager = {
    '@type': `${EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'test',
    generate_request_id: false,
    route_config: { name: 'test', virtual_hosts: hosts },
    http_filters: [
      {
        name: 'router',
        typed_config: {
          '@type': `${EXTENSIONS}.filters.http.router.v3.Router`,
          suppress_envoy_headers: true,
        },
      },
    ],
  }
  const filter = { name: 'http', typed_config: manager }
  const endpoint = { endpoint: { address: address(upstreamPort) } }
  return {
    // As in the bootstrap configuration of Consul; Envoy refuses most expressions by default.
    layered_runtime: {
      layers: [{ name: 'base', static_layer: { 're2.max_program_size.error_level': 1_048_576 } }],
    },
    static_resources: {
      listeners: [{ name: 'test', address: address(port), filter_chains: [{ filters: [filter] }] }],
      clusters: [
        {
          name: 'upstream',
          type: 'STATIC',
          load_assignment: { cluster_name: 'upstream', endpoints: [{ lb_endpoints: [endpoint] }] },
        },
      ],
    },
  }
}

const EXTENSIONS = 'type.googleapis.com/envoy.extensions'

function envoyRoute({ match, rewrite, request, response, leg }: TestRoute, index: number): object {
  const cluster =
    leg === undefined
      ? { cluster: 'upstream' }
      : {
          weighted_clusters: {
            clusters: [{ name: 'upstream', weight: 1, ...envoyChanges(leg.request, leg.response) }],
          },
        }
  const changes = envoyChanges(request, response)
  const mark = { header: { key: 'x-route', value: String(index) } }
  return {
    match: envoyMatch(match),
    route: { ...cluster, ...(rewrite !== undefined && { prefix_rewrite: rewrite }) },
    ...changes,
    request_headers_to_add: [...changes.request_headers_to_add, mark],
  }
}

function envoyMatch({ path, headers, query, methods }: HttpMatch): object {
  return {
    ...envoyPath(path),
    ...(path?.ignoreCase === true && { case_sensitive: false }),
    headers: [
      ...headers.map(envoyHeader),
      ...(methods.length > 0 ? [{ name: ':method', string_match: regex(methods.join('|')) }] : []),
    ],
    query_parameters: query.map(envoyQuery),
  }
}

function envoyPath(path: PathRule | undefined): object {
  switch (path?.kind) {
    case 'exact':
      return { path: path.value }
    case 'regex':
      return regex(path.value)
    case 'prefix':
    case undefined:
      return { prefix: path?.value ?? '/' }
  }
}

function envoyHeader({ name, kind, value, invert, ignoreCase }: HeaderRule): object {
  const either = ignoreCase && kind !== 'regex' ? { ignore_case: true } : {}
  return {
    name,
    ...(kind === 'present'
      ? { present_match: true }
      : { string_match: { ...(kind === 'regex' ? regex(value) : { [kind]: value }), ...either } }),
    invert_match: invert,
  }
}

function envoyQuery({ name, kind, value }: QueryRule): object {
  if (kind === 'present') return { name, present_match: true }
  return { name, string_match: kind === 'regex' ? regex(value) : { exact: value } }
}

function regex(source: string): object {
  return { safe_regex: { regex: source } }
}

interface EnvoyChanges {
  readonly request_headers_to_add: readonly object[]
  readonly request_headers_to_remove: readonly string[]
  readonly response_headers_to_add: readonly object[]
  readonly response_headers_to_remove: readonly string[]
}

/** Consul lists added lines before set ones. */
function envoyChanges(request: HeaderChanges, response: HeaderChanges): EnvoyChanges {
  const lines = ({ add, set }: HeaderChanges): object[] => [
    ...add.map(([key, value]) => ({ header: { key, value } })),
    ...set.map(([key, value]) => ({
      header: { key, value },
      append_action: 'OVERWRITE_IF_EXISTS_OR_ADD',
    })),
  ]
  return {
    request_headers_to_add: lines(request),
    request_headers_to_remove: request.remove,
    response_headers_to_add: lines(response),
    response_headers_to_remove: response.remove,
  }
}
