import type { Catalog } from '../catalog.js'
import { hostAndPort } from '../host-port.js'
import { HttpError, type Answer, type Call } from '../http.js'
import type { JsonObject } from '../json.js'
import { hashed } from '../reads.js'
import type { Routes } from '../router.js'
import type { Service } from '../service.js'
import { managedUpstreamJson, type ProxySettings } from '../service-proxy.js'
import type { State } from '../state.js'

/**
 * What a managed proxy of Consul 1.2 to 1.5 asked its agent, answered for every proxy that is registered: one that was
 * written for those versions runs unchanged.
 */
export function managedProxyRoutes(state: State): Routes {
  return { '/v1/agent/connect/proxy/': { GET: (call) => managedProxy(call, state) } }
}

function managedProxy(call: Call, state: State): Promise<Answer> {
  return hashed(call, state, (contentHash) => {
    const service = state.catalog.instance(call.rest)?.service
    const proxy = service?.kind === 'connect-proxy' ? service.proxy : undefined
    // As in those versions, this comes before the token is looked at.
    if (!service || !proxy) throw new HttpError(404, `unknown proxy service ID: ${call.rest}`)
    state.acl.permissions(call.token).requireService(proxy.destination, 'write', 'Permission denied')
    const target = findTarget(state.catalog, proxy)
    return {
      ProxyServiceID: service.id,
      TargetServiceID: proxy.destinationId || (target?.id ?? ''),
      TargetServiceName: proxy.destination,
      ContentHash: contentHash,
      ExecMode: 'daemon',
      Command: [],
      Config: configOf(service, proxy, target),
      Upstreams: proxy.upstreams.map(managedUpstreamJson),
    }
  })
}

/** The instance that the proxy stands for, where it is on this agent and the only one that it may be. */
function findTarget(catalog: Catalog, { destination, destinationId }: ProxySettings): Service | undefined {
  if (destinationId !== '') return catalog.instance(destinationId)?.service
  const [only, ...others] = catalog
    .instances()
    .filter(({ service: { kind, name } }) => kind === '' && name === destination)
  return others.length === 0 ? only?.service : undefined
}

/** As it was written, and where it says nothing, as the rest of the registration has it. */
function configOf(service: Service, proxy: ProxySettings, target: Service | undefined): JsonObject {
  const port = proxy.localPort || (target?.port ?? 0)
  return {
    bind_address: service.address || '0.0.0.0',
    bind_port: service.port,
    ...(port !== 0 && { local_service_address: hostAndPort(proxy.localAddress || '127.0.0.1', port) }),
    ...proxy.config,
  }
}
