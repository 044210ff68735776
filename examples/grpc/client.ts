// A grpc-js client. It requires an address, so it connects to a Unix socket that is forwarded into the mesh.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ClientReadableStream, credentials } from '@grpc/grpc-js'
import * as connect from 'consul-connect'
import { Greeter, type Greeting } from './greeter.js'

await using web = connect.service('web')
const folder = await mkdtemp(join(tmpdir(), 'greeter-'))
const path = join(folder, 'socket')
await using forward = await web.forward('greeter', { path })
// The client only sees its connection close. This event has the reason.
web.on('warning', (error) => {
  console.error(error.message)
})

const client = new Greeter(`unix:${forward.address() as string}`, credentials.createInsecure())
try {
  const greeting = await new Promise<Greeting>((resolve, reject) => {
    const deadline = Date.now() + 5_000
    client['greet']?.({ text: 'hello' }, { deadline }, (error: Error | null, response: Greeting) => {
      if (error === null) resolve(response)
      else reject(error)
    })
  })
  console.log(greeting.text)
  const stream = client['count']?.({ text: '' }) as ClientReadableStream<Greeting>
  for await (const { text } of stream) console.log(text)
} finally {
  client.close()
  await rm(folder, { recursive: true })
}
