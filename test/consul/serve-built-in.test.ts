// HTTP servers and clients of ours with the proxy that is built into Consul on the other side: it offers `h2` alone by
// ALPN, whatever it carries.
import assert from 'node:assert/strict'
import { createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { type TestContext, describe, it } from 'node:test'
import { peer } from '../../src/index.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { instances, joiner, until } from './service-mesh.js'

const ask = (port: number): Promise<string> =>
  new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, agent: false }, (response) => {
      resolve(text(response))
    }).once('error', reject)
  })

describe('HTTP, with the built-in proxy on the other side', { skip }, () => {
  it('is served to a client behind it', async (t) => {
    const consul = await startConsul(t)
    const api = joiner(t, consul)('api')
    const server = createServer((request, response) =>
      response.end(`hello ${peer(request.socket)?.service ?? ''}`),
    )
    const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
    await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
    await until('api is known', async () => (await instances(consul, 'api')) === 1)
    const { port } = await proxyOutbound(t, consul, 'web', 'api')
    assert.equal(await until('it answers', () => ask(port).catch(() => undefined)), 'hello web')
  })

  it('is asked of a server behind it, by fetch and by agent()', async (t) => {
    const consul = await startConsul(t)
    const application = createServer((_request, response) => response.end('hello'))
    await listening(t, application)
    await proxyInbound(t, consul, 'api', (application.address() as AddressInfo).port)
    await until('api is known', async () => (await instances(consul, 'api')) === 1)
    const web = joiner(t, consul)('web')
    assert.equal(await (await web.fetch('https://api.service.consul/')).text(), 'hello')
    const answer = new Promise<string>((resolve, reject) => {
      get('http://api.service.consul/', { agent: web.httpAgent() }, (response) => {
        resolve(text(response))
      }).once('error', reject)
    })
    assert.equal(await answer, 'hello')
  })
})

async function listening(t: TestContext, server: ReturnType<typeof createServer>): Promise<void> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
}
