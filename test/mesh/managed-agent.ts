import { once } from 'node:events'
import { type IncomingMessage, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import type { TestAgent } from '../../src/testing/index.js'

/** A registration, as `/v1/agent/service/:id` of later versions returns it. */
interface Registered {
  readonly ID: string
  readonly Service: string
  readonly Port: number
  readonly Address: string
  readonly ContentHash: string
  readonly Proxy: {
    readonly DestinationServiceName: string
    readonly LocalServicePort?: number
    readonly Config?: object
    readonly Upstreams?: readonly object[]
  }
}

/**
 * Starts an agent like that of Consul 1.2, until the end of the test. It shows the proxies that are registered with the
 * embedded agent as managed proxies at `/v1/agent/connect/proxy/:id`, and has no other endpoint.
 * @returns its address
 */
export async function startManagedAgent(t: TestContext, { url }: TestAgent): Promise<string> {
  const read = async (request: IncomingMessage): Promise<[status: number, body: unknown, hash?: string]> => {
    const [, id, search = ''] = /^\/v1\/agent\/connect\/proxy\/([^?]+)(\?.*)?$/.exec(request.url ?? '') ?? []
    const response = await fetch(`${url}/v1/agent/${id === undefined ? 'none' : `service/${id}${search}`}`)
    if (!response.ok) return [response.status, await response.text()]
    const proxy = (await response.json()) as Registered
    const services = (await (await fetch(`${url}/v1/agent/services`)).json()) as Record<string, Registered>
    return [200, managedProxy(proxy, Object.values(services)), proxy.ContentHash]
  }
  const server = createServer((request, response) => {
    read(request).then(
      ([status, body, hash = '']) => {
        response.writeHead(status, { 'Content-Type': 'application/json', 'X-Consul-ContentHash': hash })
        response.end(JSON.stringify(body))
      },
      // The embedded agent was closed.
      () => response.destroy(),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Adds the defaults that an agent of Consul 1.2 put into the configuration. */
function managedProxy({ Proxy, ...proxy }: Registered, services: readonly Registered[]): object {
  const target = services.find(({ Service }) => Service === Proxy.DestinationServiceName)
  const port = Proxy.LocalServicePort ?? target?.Port
  return {
    ProxyServiceID: proxy.ID,
    TargetServiceID: target?.ID ?? '',
    TargetServiceName: Proxy.DestinationServiceName,
    ContentHash: proxy.ContentHash,
    ExecMode: 'daemon',
    Command: [],
    Config: {
      bind_address: proxy.Address === '' ? '0.0.0.0' : proxy.Address,
      bind_port: proxy.Port,
      ...(port !== undefined && { local_service_address: `127.0.0.1:${port}` }),
      ...Proxy.Config,
    },
    Upstreams: Proxy.Upstreams ?? [],
  }
}
