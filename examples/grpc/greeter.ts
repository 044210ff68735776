// Loads the service of greeter.proto, for server and client.
import { join } from 'node:path'
import { type GrpcObject, type ServiceClientConstructor, loadPackageDefinition } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

export interface Greeting {
  readonly text: string
}

const definition = loadPackageDefinition(loadSync(join(import.meta.dirname, 'greeter.proto')))

export const Greeter = (definition['greeter'] as GrpcObject)['Greeter'] as ServiceClientConstructor
