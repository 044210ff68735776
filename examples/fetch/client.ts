// Calls a service with fetch, and with undici and its retry interceptor.
import * as connect from 'consul-connect'
import { interceptors, request } from 'undici'

await using shop = connect.service('shop')

// Bound to the service; pass it to any SDK that accepts a fetch function.
const { fetch } = shop
const first = await fetch('https://billing.service.consul/invoices')
console.log('fetch', first.status, await first.json())

// The same connection pools, with retries.
const retrying = shop.dispatcher().compose(interceptors.retry({ minTimeout: 10, statusCodes: [503] }))
const second = await request('https://billing.service.consul/busy', { dispatcher: retrying })
console.log('undici', second.statusCode, await second.body.json())

// Requests to hosts outside the mesh are rejected.
const outside = await fetch('https://example.com/').catch((error: unknown) => (error as Error).cause as Error)
console.log('outside the mesh:', outside instanceof connect.HostError ? outside.message : outside)
