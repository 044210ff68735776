// Redis over the mesh by ioredis: a connector of its own dials each of its connections.
import type { Socket } from 'node:net'
import * as connect from 'consul-connect'
import { AbstractConnector, Redis } from 'ioredis'

await using web = connect.service('web')

class MeshConnector extends AbstractConnector {
  constructor() {
    super(2_000)
  }

  async connect(): Promise<Socket> {
    // It asks for a socket of node:net, uses what a mesh connection has, and ends it when it disconnects.
    this.stream = (await web.dial('redis')) as unknown as Socket
    return this.stream
  }
}

const redis = new Redis({ Connector: MeshConnector, retryStrategy: () => null, maxRetriesPerRequest: 0 })
let failure: Error | undefined
redis.on('error', (error: Error) => (failure ??= error))
try {
  await redis.set('greeting', 'hello')
  console.log('ioredis:', await redis.get('greeting'))
} catch (error) {
  // What it rejects with is that the connection is closed; the event said why.
  throw failure ?? error
} finally {
  redis.disconnect()
}
