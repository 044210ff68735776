// gRPC services whose methods take and return bytes, and a client through a local port of the mesh.
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { Client, Server, type ServiceDefinition, credentials } from '@grpc/grpc-js'
import type { Service } from '../../src/index.js'
import { WAIT_MS } from '../fixtures/mesh.js'

/** Reads or writes a message as bytes. */
export const asIs = (value: Buffer): Buffer => value

/** A method with one request and one response. */
export function bytesMethod(path: string) {
  return {
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
  } satisfies ServiceDefinition[string]
}

/** Creates a server until the end of the test. */
export function grpcServer(t: TestContext): Server {
  const server = new Server()
  t.after(() => {
    server.forceShutdown()
  })
  return server
}

/** Returns a function that calls a method of the service `api`; it rejects with a `ServiceError`. */
export async function grpcCaller(
  t: TestContext,
  web: Service,
): Promise<(path: string, text: string) => Promise<string>> {
  const forward = await web.forward('api', { port: 0 })
  const { port } = forward.address() as AddressInfo
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
  t.after(() => {
    client.close()
  })
  return (path, text) => callMethod(client, path, text)
}

/** Calls a method with a text. Rejects with a `ServiceError`. */
export function callMethod(client: Client, path: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const deadline = { deadline: Date.now() + WAIT_MS }
    client.makeUnaryRequest(path, asIs, asIs, Buffer.from(text), deadline, (error, value) => {
      if (error === null) resolve(String(value))
      else reject(error)
    })
  })
}
