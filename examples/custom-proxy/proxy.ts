// A custom proxy: forwards HTTP requests from the mesh to a local application, and logs each request.
import { type IncomingMessage, type ServerResponse, createServer, request } from 'node:http'
import { pipeline } from 'node:stream'
import * as connect from 'consul-connect'
import { type LocalAddress, proxyConfig } from 'consul-connect/proxy'

/**
 * Starts the proxy that is registered with the agent under this ID, and follows the address of its application.
 * @param log - receives a line for each request and warning
 */
export async function startProxy(
  proxyId: string,
  agent: connect.AgentOptions,
  log: (line: string) => void,
): Promise<{ close(): Promise<void> }> {
  const source = proxyConfig({ proxyId }, { agent })
  source.on('warning', (error) => {
    log(`warning: ${error.message}`)
  })
  const { service: name, listener, upstreams } = await source.ready()
  if (listener === undefined) throw new Error(`${proxyId}: no public listener; set Port in the registration`)
  const service = connect.service(name, { agent })

  /** The address of the application. Read for each request, since the configuration may change. */
  const application = (): LocalAddress => (source.current?.listener ?? listener).application
  const requestOptions = (incoming: IncomingMessage): object => {
    const local = application()
    const address = 'path' in local ? { socketPath: local.path } : { host: local.host, port: local.port }
    // Overwrites the header if the caller sent it: only the proxy may set the identity.
    const headers = { ...incoming.headers, 'x-connect-peer': connect.peer(incoming.socket)?.spiffeId ?? '' }
    return { ...address, method: incoming.method, path: incoming.url, headers }
  }
  const forward = (incoming: IncomingMessage, response: ServerResponse): void => {
    const startedAt = performance.now()
    const outgoing = request(requestOptions(incoming), (appResponse) => {
      response.writeHead(appResponse.statusCode ?? 502, appResponse.headers)
      pipeline(appResponse, response, () => undefined)
    })
    outgoing.on('error', () => {
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => {
      const caller = connect.peer(incoming.socket)?.service ?? '?'
      const ms = (performance.now() - startedAt).toFixed(1)
      log(`${caller} ${incoming.method ?? ''} ${incoming.url ?? ''} ${response.statusCode} ${ms} ms`)
    })
    pipeline(incoming, outgoing, () => undefined)
  }

  await service.serve(createServer(forward), { port: listener.port, host: listener.host })
  for (const { bind, destination: upstream } of upstreams) await service.forward(upstream, bind)
  return {
    close: async () => {
      await Promise.all([service.close(), source.close()])
    },
  }
}
