// fetch as it always is, over the mesh; and undici's own way to add to it.
import * as connect from 'consul-connect'
import { interceptors, request } from 'undici'

await using shop = connect.service('shop')

// Bound to the service: it can be passed to any SDK that takes a fetch.
const { fetch } = shop
const first = await fetch('https://billing.service.consul/invoices')
console.log('fetch', first.status, await first.json())

// The same pools, with retries.
const patient = shop.dispatcher().compose(interceptors.retry({ minTimeout: 10, statusCodes: [503] }))
const second = await request('https://billing.service.consul/busy', { dispatcher: patient })
console.log('undici', second.statusCode, await second.body.json())

// Nothing leaves the mesh by mistake.
const stray = await fetch('https://example.com/').catch((error: unknown) => (error as Error).cause as Error)
console.log('a stray URL:', stray instanceof connect.HostError ? stray.message : stray)
