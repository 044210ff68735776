// HTTP servers and clients with the built-in proxy of Consul on the other side. The proxy offers only `h2` by ALPN, for
// any protocol.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type RequestOptions, createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, it } from 'node:test'
import { peer } from '../../src/index.js'
import { offerServer } from '../mesh/offer-server.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { instances, joiner, until } from './service-mesh.js'

function fetchText(url: string, options: RequestOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, options, (response) => {
      resolve(text(response))
    }).once('error', reject)
  })
}

describe('HTTP with the built-in proxy', { skip }, () => {
  it('serves its clients', async (t) => {
    const consul = await startConsul(t)
    const api = joiner(t, consul)('api')
    const server = createServer((request, response) =>
      response.end(`hello ${peer(request.socket)?.service ?? ''}`),
    )
    await offerServer(api, server)
    await until('api is known', async () => (await instances(consul, 'api')) === 1)
    const { port } = await proxyOutbound(t, consul, 'web', 'api')
    const url = `http://127.0.0.1:${port}/`
    const body = await until('the proxy answers', () =>
      fetchText(url, { agent: false }).catch(() => undefined),
    )
    assert.equal(body, 'hello web')
  })

  it('reaches its servers by fetch and httpAgent', async (t) => {
    const consul = await startConsul(t)
    const application = createServer((_request, response) => response.end('hello'))
    await once(application.listen(0, '127.0.0.1'), 'listening')
    t.after(() => application.close())
    await proxyInbound(t, consul, 'api', (application.address() as AddressInfo).port)
    await until('api is known', async () => (await instances(consul, 'api')) === 1)
    const web = joiner(t, consul)('web')
    assert.equal(await (await web.fetch('https://api.service.consul/')).text(), 'hello')
    assert.equal(await fetchText('http://api.service.consul/', { agent: web.httpAgent() }), 'hello')
  })
})
