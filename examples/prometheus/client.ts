// A client that prints its own metrics after a request.
import * as connect from 'consul-connect'
import { expose, observe, registry } from './metrics.js'

observe()
await using web = connect.service('web')
expose(web)
try {
  const response = await web.fetch('https://api.service.consul/')
  console.log(response.status, await response.text())
} finally {
  console.log(await registry.metrics())
}
