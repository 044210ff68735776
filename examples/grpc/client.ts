// A gRPC client of grpc-js: it wants an address, and gets a unix socket of this process that leads into the mesh.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ClientReadableStream, credentials } from '@grpc/grpc-js'
import * as connect from 'consul-connect'
import { Greeter, type Greeting } from './greeter.js'

await using web = connect.service('web')
const folder = await mkdtemp(join(tmpdir(), 'greeter-'))
const path = join(folder, 'socket')
await using door = await web.forward('greeter', { path })
// A client sees a forward's connection end; why it did is told here.
web.on('warning', (error) => {
  console.error(error.message)
})

const client = new Greeter(`unix:${door.address() as string}`, credentials.createInsecure())
try {
  const greeting = await new Promise<Greeting>((resolve, reject) => {
    const deadline = Date.now() + 5_000
    client['greet']?.({ text: 'hello' }, { deadline }, (error: Error | null, answer: Greeting) => {
      if (error === null) resolve(answer)
      else reject(error)
    })
  })
  console.log(greeting.text)
  const counted = client['count']?.({ text: '' }) as ClientReadableStream<Greeting>
  for await (const { text } of counted) console.log(text)
} finally {
  client.close()
  await rm(folder, { recursive: true })
}
