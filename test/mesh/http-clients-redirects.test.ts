import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import { type TestContext, describe, it } from 'node:test'
import axios from 'axios'
import got from 'got'
import { fetch as undiciFetch, interceptors, request as undiciRequest } from 'undici'
import { WebSocket } from 'ws'
import { RedirectError, type Service, type ServiceOptions, peer } from '../../src/index.js'
import { codeOf } from '../fixtures/http-ways.js'
import { rejection, startMesh } from '../fixtures/mesh.js'
import { offerServer } from './offer-server.js'

interface Redirecting {
  readonly web: Service
  /** The requests that `payments` received. */
  readonly paid: string[]
}

/** `api` redirects each request to the URL in its query, with the status in its path; `payments` records its requests. */
async function redirecting(t: TestContext, options?: ServiceOptions): Promise<Redirecting> {
  const { join } = await startMesh(t)
  const paid: string[] = []
  const redirector = http.createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://api')
    const location = searchParams.get('to')
    if (location === null) answer(request, response)
    else response.writeHead(Number(pathname.slice(1)), { location }).end()
  })
  const payments = http.createServer((request, response) => {
    paid.push(`${request.method} from ${peer(request.socket)?.service}`)
    answer(request, response)
  })
  await offerServer(join('api'), redirector)
  await offerServer(join('payments'), payments)
  return { web: join('web', options), paid }
}

function answer(request: http.IncomingMessage, response: http.ServerResponse): void {
  let body = ''
  request.on('data', (chunk) => (body += String(chunk)))
  request.on('end', () => response.end(`${request.method} ${body}`.trim()))
}

const PAYMENTS = 'https://payments.service.consul/pay?x=1'

function apiUrl(status: number, to: string): string {
  return `https://api.service.consul/${status}?to=${encodeURIComponent(to)}`
}

/** Clients that follow redirects: each posts to a URL and returns the body of the last response. */
const followers: Readonly<Record<string, (web: Service, url: string) => Promise<string>>> = {
  'service.fetch': async ({ fetch }, url) => (await fetch(url, { method: 'POST', body: 'key' })).text(),
  'the global fetch with dispatcher()': async (web, url) => {
    const by: object = { dispatcher: web.dispatcher() }
    return (await fetch(url, { method: 'POST', body: 'key', ...by })).text()
  },
  'fetch of undici with a composed dispatcher': async (web, url) => {
    const dispatcher = web.dispatcher().compose(interceptors.retry())
    return (await undiciFetch(url, { method: 'POST', body: 'key', dispatcher })).text()
  },
  'request of undici with the redirect interceptor': async (web, url) => {
    const dispatcher = web.dispatcher().compose(interceptors.redirect({ maxRedirections: 3 }))
    return (await undiciRequest(url, { method: 'POST', body: 'key', dispatcher })).body.text()
  },
  'request of undici with the redirect interceptor between others': async (web, url) => {
    const dispatcher = web
      .dispatcher()
      .compose([interceptors.retry(), interceptors.redirect({ maxRedirections: 3 })])
      .compose(interceptors.retry())
    return (await undiciRequest(url, { method: 'POST', body: 'key', dispatcher })).body.text()
  },
  axios: async (web, url) => {
    const client = axios.create({ httpAgent: web.httpAgent(), httpsAgent: web.httpAgent(), proxy: false })
    return (await client.post<string>(url, 'key', { responseType: 'text' })).data
  },
  got: async (web, url) => {
    const client = got.extend({ agent: { http: web.httpAgent(), https: web.httpAgent() } })
    return (await client.post(url, { body: 'key' })).body
  },
}

for (const [name, ask] of Object.entries(followers)) {
  describe(`redirects: ${name}`, () => {
    it('rejects a redirect to another service, and sends that service nothing', async (t) => {
      const { web, paid } = await redirecting(t)
      for (const status of [302, 307, 308]) {
        const error = await rejection(ask(web, apiUrl(status, PAYMENTS)))
        assert.equal(codeOf(error), 'ERR_CONNECT_REDIRECT', `${status}: ${String(error)}`)
        assert.match(`${error.message} ${String(error.cause)}`, /redirect from api to payments refused/)
      }
      assert.deepEqual(paid, [])
    })

    it('follows a redirect within a service', async (t) => {
      const { web } = await redirecting(t)
      assert.equal(await ask(web, apiUrl(307, '/there')), 'POST key')
      assert.equal(await ask(web, apiUrl(307, 'https://api.connect.dc1.consul/there')), 'POST key')
      assert.equal(await ask(web, apiUrl(303, '/there')), 'GET')
    })

    it('rejects a redirect to another service after one within the service', async (t) => {
      const { web, paid } = await redirecting(t)
      const within = apiUrl(307, PAYMENTS).replace('.service.', '.connect.')
      assert.equal(codeOf(await rejection(ask(web, apiUrl(307, within)))), 'ERR_CONNECT_REDIRECT')
      assert.deepEqual(paid, [])
    })

    it('makes no connection for a redirect out of the mesh', async (t) => {
      const { web } = await redirecting(t)
      const error = await rejection(ask(web, apiUrl(307, 'http://127.0.0.1:8443/')))
      assert.equal(codeOf(error), 'ERR_CONNECT_HOST')
    })

    it('follows a redirect to another service with crossServiceRedirects', async (t) => {
      const { web, paid } = await redirecting(t, { crossServiceRedirects: true })
      assert.equal(await ask(web, apiUrl(307, PAYMENTS)), 'POST key')
      assert.deepEqual(paid, ['POST from web'])
    })
  })
}

describe('redirects', () => {
  it('fetch returns the redirect with redirect: manual, and the last URL of followed redirects', async (t) => {
    const { web } = await redirecting(t)
    const response = await web.fetch(apiUrl(302, PAYMENTS), { redirect: 'manual' })
    assert.equal(response.headers.get('location'), PAYMENTS)
    const followed = await web.fetch(apiUrl(302, 'https://api.connect.consul/there'))
    assert.equal(followed.redirected, true)
    assert.equal(followed.url, 'https://api.connect.consul/there')
    const refused = await rejection(web.fetch(apiUrl(302, PAYMENTS)))
    assert.ok(refused.cause instanceof RedirectError)
    const { from, to } = refused.cause
    assert.deepEqual({ from, to }, { from: 'api', to: 'payments' })
  })

  it('clients that do not follow redirects return them, and can request the other service', async (t) => {
    const { web, paid } = await redirecting(t)
    const dispatcher = web.dispatcher()
    const { headers, body } = await undiciRequest(apiUrl(302, PAYMENTS), { dispatcher })
    assert.equal(headers['location'], PAYMENTS)
    await body.dump()
    await (await undiciRequest(PAYMENTS, { dispatcher })).body.dump()
    const request = http.get(apiUrl(302, PAYMENTS).replace('https', 'http'), { agent: web.httpAgent() })
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    assert.equal(response.resume().headers.location, PAYMENTS)
    const second = http.get(PAYMENTS.replace('https', 'http'), { agent: web.httpAgent() })
    const [paidFor] = (await once(second, 'response')) as [http.IncomingMessage]
    paidFor.resume()
    assert.deepEqual(paid, ['GET from web', 'GET from web'])
  })

  it('ws rejects a redirect to another service', async (t) => {
    const { web, paid } = await redirecting(t)
    const url = apiUrl(302, PAYMENTS.replace('https', 'wss')).replace('https', 'wss')
    const socket = new WebSocket(url, { agent: web.httpAgent(), followRedirects: true })
    const [error] = (await once(socket, 'error')) as [Error]
    assert.equal(codeOf(error), 'ERR_CONNECT_REDIRECT', String(error))
    assert.deepEqual(paid, [])
  })

  it('a composed dispatcher can be closed and destroyed', async (t) => {
    const { web } = await redirecting(t)
    const dispatcher = web.dispatcher({})
    const composed = dispatcher.compose(interceptors.retry())
    await composed.close()
    await composed.destroy()
    const failed = rejection(undiciRequest(PAYMENTS, { dispatcher }))
    assert.equal(codeOf(await failed), 'ERR_CONNECT_CLOSED')
  })
})
