import type { Listener, RegisterOptions, Service } from '../../src/index.js'
import { portOf } from '../fixtures/mesh.js'

/** Serves a server on loopback, registers it as an instance of the service, and returns its listener. */
export async function offerServer(
  service: Service,
  server: Parameters<Service['serve']>[0],
  options: Partial<RegisterOptions> = {},
): Promise<Listener> {
  const listener = await service.serve(server, { port: 0, host: '127.0.0.1' })
  await service.register({ port: portOf(listener), address: '127.0.0.1', ...options })
  return listener
}
