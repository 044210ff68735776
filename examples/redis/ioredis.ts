// Redis over the mesh with ioredis and a custom connector.
import type { Socket } from 'node:net'
import * as connect from 'consul-connect'
import { AbstractConnector, Redis } from 'ioredis'

await using web = connect.service('web')

class MeshConnector extends AbstractConnector {
  constructor() {
    super(2_000)
  }

  async connect(): Promise<Socket> {
    // ioredis declares a net.Socket, but uses only members that a MeshSocket has as well.
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
  // The rejection says only that the connection is closed; the `error` event had the reason.
  throw failure ?? error
} finally {
  redis.disconnect()
}
