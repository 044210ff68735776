// Redis over the mesh with node-redis. It requires an address, so it connects to a Unix socket that is forwarded into the mesh.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as connect from 'consul-connect'
import { createClient } from 'redis'

await using web = connect.service('web')
const folder = await mkdtemp(join(tmpdir(), 'redis-'))
await using forward = await web.forward('redis', { path: join(folder, 'socket') })
// The client only sees its connection close. This event has the reason.
web.on('warning', (error) => {
  console.error(error.message)
})

const client = createClient({ socket: { path: forward.address() as string, reconnectStrategy: false } })
client.on('error', () => undefined)
try {
  await client.connect()
  await client.set('greeting', 'hello')
  console.log('node-redis:', await client.get('greeting'))
} finally {
  client.destroy()
  await rm(folder, { recursive: true })
}
