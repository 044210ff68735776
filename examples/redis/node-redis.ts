// Redis over the mesh by node-redis, which wants an address: a unix socket of this process leads into the mesh.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as connect from 'consul-connect'
import { createClient } from 'redis'

await using web = connect.service('web')
const folder = await mkdtemp(join(tmpdir(), 'redis-'))
await using door = await web.forward('redis', { path: join(folder, 'socket') })
// A client sees a forward's connection end; why it did is told here.
web.on('warning', (error) => {
  console.error(error.message)
})

const client = createClient({ socket: { path: door.address() as string, reconnectStrategy: false } })
client.on('error', () => undefined)
try {
  await client.connect()
  await client.set('greeting', 'hello')
  console.log('node-redis:', await client.get('greeting'))
} finally {
  client.destroy()
  await rm(folder, { recursive: true })
}
