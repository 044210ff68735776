import { formatHostPort } from '../../base/host-port.js'
import { requirePermission } from '../state/acl.js'
import type { Catalog } from '../state/catalog.js'
import { HttpError, type Answer, type Call } from '../http/http.js'
import type { JsonObject } from '../http/json.js'
import { hashed } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { Service } from '../state/service.js'
import type { Proxy } from '../state/service-proxy.js'
import type { State } from '../state/state.js'

/** Serves the endpoint of managed proxies (Consul 1.2 to 1.5) for every registered proxy. */
export const managedProxyRoutes: Routes = { '/v1/agent/connect/proxy/': { GET: managedProxy } }

function managedProxy(call: Call, state: State): Promise<Answer> {
  return hashed(call, state, (contentHash) => {
    const service = state.catalog.instance(call.rest)?.service
    const proxy = service?.Kind === 'connect-proxy' ? service.Proxy : undefined
    // Consul checks this before the token.
    if (!service || !proxy) throw new HttpError(404, `unknown proxy service ID: ${call.rest}`)
    const { DestinationServiceID, DestinationServiceName, Upstreams } = proxy
    requirePermission(state.acl.permissions(call.token).service(DestinationServiceName, 'write'))
    const target = findTarget(state.catalog, proxy)
    return {
      ProxyServiceID: service.ID,
      TargetServiceID: DestinationServiceID || (target?.ID ?? ''),
      TargetServiceName: DestinationServiceName,
      ContentHash: contentHash,
      ExecMode: 'daemon',
      Command: [],
      Config: configOf(service, proxy, target),
      // These versions have no mesh gateways.
      Upstreams: Upstreams.map(({ MeshGateway: _, ...upstream }) => upstream),
    }
  })
}

/** Finds the instance behind the proxy: by its ID, or if it is the only instance of the service. */
function findTarget(catalog: Catalog, proxy: Proxy): Service | undefined {
  if (proxy.DestinationServiceID !== '') return catalog.instance(proxy.DestinationServiceID)?.service
  const [only, ...others] = catalog
    .instances()
    .filter(({ service: { Kind, Name } }) => Kind === '' && Name === proxy.DestinationServiceName)
  return others.length === 0 ? only?.service : undefined
}

/** Returns the configuration of the proxy, with defaults from its registration. */
function configOf(service: Service, proxy: Proxy, target: Service | undefined): JsonObject {
  const host = proxy.LocalServiceAddress || '127.0.0.1'
  const port = proxy.LocalServicePort || (target?.Port ?? 0)
  return {
    bind_address: service.Address || '0.0.0.0',
    bind_port: service.Port,
    ...(port !== 0 && { local_service_address: formatHostPort({ host, port }) }),
    ...proxy.Config,
  }
}
