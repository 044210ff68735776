// A service that calls the application.
import * as connect from 'consul-connect'

await using web = connect.service('web')

for (const path of ['/', '/admin']) {
  const response = await web.fetch(`https://api.service.consul${path}`)
  console.log(path, response.status, await response.text())
}
