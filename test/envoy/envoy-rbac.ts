// Envoy as Consul configures it for intentions with permissions, with a static configuration: Consul 1.14 knows neither
// `Contains` and `IgnoreCase` nor how requests are made comparable.
import type { RequestNormalization } from '../../src/agent/endpoints/mesh-entry.js'
import type { CaseHeader, CasePermission } from './permission-cases.js'

/** The permissions of an intention, and what happens to a request that none is for. */
export interface PermissionTable {
  readonly defaultPolicy: 'allow' | 'deny'
  readonly permissions: readonly CasePermission[]
}

export interface RbacListener {
  readonly port: number
  readonly normalization: RequestNormalization
  /** Decides the requests to hosts that name no table. @default all are allowed */
  readonly table?: PermissionTable
  /** In PEM. @default plain text */
  readonly tls?: { readonly key: string; readonly cert: string }
}

const EXTENSIONS = 'type.googleapis.com/envoy.extensions'

/**
 * Configures listeners that forward allowed requests to the upstream. The requests to `t3.x`, or with any other ending,
 * are decided by the table with the index 3.
 */
export function rbacConfig(
  listeners: readonly RbacListener[],
  tables: readonly PermissionTable[],
  upstreamPort: number,
): object {
  const hosts = tables.map((table, i) => ({
    name: `t${i}`,
    domains: [`t${i}.*`],
    routes: [TO_UPSTREAM],
    typed_per_filter_config: {
      rbac: {
        '@type': `${EXTENSIONS}.filters.http.rbac.v3.RBACPerRoute`,
        rbac: { rules: rulesOf(table) },
      },
    },
  }))
  const others = { name: 'others', domains: ['*'], routes: [TO_UPSTREAM] }
  const route_config = { name: 'test', virtual_hosts: [...hosts, others] }
  const endpoint = { endpoint: { address: address(upstreamPort) } }
  return {
    // As in the bootstrap configuration of Consul; Envoy refuses most expressions by default.
    layered_runtime: {
      layers: [{ name: 'base', static_layer: { 're2.max_program_size.error_level': 1_048_576 } }],
    },
    static_resources: {
      listeners: listeners.map((listener) => envoyListener(listener, route_config)),
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

const TO_UPSTREAM = { match: { prefix: '/' }, route: { cluster: 'upstream' } }

function address(port: number): object {
  return { socket_address: { address: '127.0.0.1', port_value: port } }
}

function envoyListener({ port, normalization, table, tls }: RbacListener, route_config: object): object {
  const manager = {
    '@type': `${EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'test',
    route_config,
    // As Consul does since 1.20.
    upgrade_configs: [{ upgrade_type: 'websocket' }],
    ...envoyNormalization(normalization),
    http_filters: [
      {
        name: 'rbac',
        typed_config: {
          '@type': `${EXTENSIONS}.filters.http.rbac.v3.RBAC`,
          ...(table !== undefined && { rules: rulesOf(table) }),
        },
      },
      { name: 'router', typed_config: { '@type': `${EXTENSIONS}.filters.http.router.v3.Router` } },
    ],
  }
  const chain = { filters: [{ name: 'http', typed_config: manager }] }
  return {
    name: `port-${port}`,
    address: address(port),
    filter_chains: [tls === undefined ? chain : { ...chain, transport_socket: tlsSocket(tls) }],
  }
}

function tlsSocket({ key, cert }: { readonly key: string; readonly cert: string }): object {
  return {
    name: 'tls',
    typed_config: {
      '@type': `${EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext`,
      common_tls_context: {
        alpn_protocols: ['h2', 'http/1.1'],
        tls_certificates: [
          { certificate_chain: { inline_string: cert }, private_key: { inline_string: key } },
        ],
      },
    },
  }
}

const ESCAPED_SLASHES = {
  keep: 'KEEP_UNCHANGED',
  reject: 'REJECT_REQUEST',
  redirect: 'UNESCAPE_AND_REDIRECT',
  unescape: 'UNESCAPE_AND_FORWARD',
}

/** As Consul and Envoy call what happens to headers with an underscore in their name. */
export const UNDERSCORES: Readonly<Record<RequestNormalization['underscores'], string>> = {
  allow: 'ALLOW',
  reject: 'REJECT_REQUEST',
  drop: 'DROP_HEADER',
}

function envoyNormalization(normalization: RequestNormalization): object {
  const { normalize, mergeSlashes, escapedSlashes, underscores } = normalization
  return {
    normalize_path: normalize,
    merge_slashes: mergeSlashes,
    path_with_escaped_slashes_action: ESCAPED_SLASHES[escapedSlashes],
    common_http_protocol_options: { headers_with_underscores_action: UNDERSCORES[underscores] },
  }
}

/**
 * Consul lists the permissions whose action is not that of the default policy. Each holds only if none before it is for
 * the request.
 */
function rulesOf({ defaultPolicy, permissions }: PermissionTable): object {
  const action = defaultPolicy === 'deny' ? 'allow' : 'deny'
  const each = permissions.map(({ HTTP }) => conditionsOf(HTTP))
  const listed = each.flatMap((conditions, i) => {
    if (permissions[i]!.Action !== action) return []
    return [all([conditions, ...each.slice(0, i).map((not_rule) => ({ not_rule }))])]
  })
  return {
    action: action.toUpperCase(),
    ...(listed.length > 0 && {
      policies: { 'consul-intentions-layer7-0': { permissions: listed, principals: [{ any: true }] } },
    }),
  }
}

function conditionsOf({ Header = [], Methods = [], ...path }: CasePermission['HTTP']): object {
  return all([
    ...pathConditions(path),
    ...Header.map((rule) => ({ header: headerMatcher(rule) })),
    ...(Methods.length > 0 ? [{ header: { name: ':method', string_match: regex(Methods.join('|')) } }] : []),
  ])
}

function all(rules: readonly object[]): object {
  return rules.length === 1 ? rules[0]! : { and_rules: { rules } }
}

function pathConditions({ PathExact, PathPrefix, PathRegex }: CasePermission['HTTP']): object[] {
  if (PathExact !== undefined) return [{ url_path: { path: { exact: PathExact } } }]
  if (PathPrefix !== undefined) return [{ url_path: { path: { prefix: PathPrefix } } }]
  return PathRegex === undefined ? [] : [{ url_path: { path: regex(PathRegex) } }]
}

function headerMatcher(rule: CaseHeader): object {
  const { Name, Exact, Prefix, Suffix, Contains, Regex, Invert = false, IgnoreCase = false } = rule
  const texts = { exact: Exact, prefix: Prefix, suffix: Suffix, contains: Contains }
  const string_match = Regex === undefined ? { ...texts, ignore_case: IgnoreCase } : regex(Regex)
  const isPresent = Object.values({ ...texts, Regex }).every((text) => text === undefined)
  return {
    name: Name,
    ...(isPresent ? { present_match: true } : { string_match }),
    invert_match: Invert,
  }
}

function regex(source: string): object {
  return { safe_regex: { regex: source } }
}
