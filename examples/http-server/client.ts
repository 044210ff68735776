// A node:https client. Any library that accepts an http.Agent works the same way.
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { get } from 'node:https'
import { text } from 'node:stream/consumers'
import * as connect from 'consul-connect'

await using web = connect.service('web')

for (const path of ['/', '/admin']) {
  const request = get(`https://api.service.consul${path}`, { agent: web.httpAgent() })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  console.log(path, response.statusCode, await text(response))
}
