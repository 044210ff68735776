// A proxy of one's own: HTTP from the mesh to an application that knows nothing of it, with a line for each request.
import { type IncomingMessage, type ServerResponse, createServer, request } from 'node:http'
import { pipeline } from 'node:stream'
import * as connect from 'consul-connect'
import { type LocalAddress, proxyConfig } from 'consul-connect/proxy'

/** Runs the proxy that is registered with the agent under this id, and follows its configuration. */
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
  if (listener === undefined) throw new Error(`${proxyId} has no port`)
  const service = connect.service(name, { agent })

  /** Where the application is: looked at for each request, since it may move. */
  const application = (): LocalAddress => (source.current?.listener ?? listener).application
  const target = (incoming: IncomingMessage): object => {
    const at = application()
    const where = 'path' in at ? { socketPath: at.path } : { host: at.host, port: at.port }
    // The application hears who is asking, from the proxy alone: what a caller says of itself is overwritten.
    const headers = { ...incoming.headers, 'x-connect-peer': connect.peer(incoming.socket)?.spiffeId ?? '' }
    return { ...where, method: incoming.method, path: incoming.url, headers }
  }
  const carry = (incoming: IncomingMessage, response: ServerResponse): void => {
    const began = performance.now()
    const onward = request(target(incoming), (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      pipeline(answer, response, () => undefined)
    })
    onward.on('error', () => {
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => {
      const who = connect.peer(incoming.socket)?.service ?? '?'
      const ms = (performance.now() - began).toFixed(1)
      log(`${who} ${incoming.method ?? ''} ${incoming.url ?? ''} ${response.statusCode} ${ms} ms`)
    })
    pipeline(incoming, onward, () => undefined)
  }

  await service.serve(createServer(carry), { port: listener.port, host: listener.host })
  for (const { bind, target: upstream } of upstreams) await service.forward(upstream, bind)
  return {
    close: async () => {
      await Promise.all([service.close(), source.close()])
    },
  }
}
