// A grpc-js server in the mesh.
import type { AddressInfo } from 'node:net'
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from '@grpc/grpc-js'
import * as connect from 'consul-connect'
import { Greeter, type Greeting } from './greeter.js'

/** Returns the name of the calling service, from the certificate that the listener has verified. */
function callerOf(call: {
  getAuthContext(): { sslPeerCertificate?: { subjectaltname?: string } } | null
}): string {
  const names = call.getAuthContext()?.sslPeerCertificate?.subjectaltname?.split(', ') ?? []
  const uri = names.find((name) => name.startsWith('URI:')) ?? ''
  const { parts } = connect.SpiffeId.parse(uri.slice('URI:'.length))
  return parts.kind === 'service' ? parts.service : ''
}

const server = new Server()
server.addService(Greeter.service, {
  greet(call: ServerUnaryCall<Greeting, Greeting>, respond: sendUnaryData<Greeting>) {
    respond(null, { text: `${call.request.text} to you, ${callerOf(call)}` })
  },
  count(call: ServerWritableStream<Greeting, Greeting>) {
    for (const text of ['one', 'two', 'three']) call.write({ text })
    call.end()
  },
})

const greeter = connect.service('greeter')
// "Insecure" means that gRPC itself does not encrypt; the mesh does, with mutual TLS.
const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
const listener = await greeter.serve(injector, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await greeter.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(greeter)
