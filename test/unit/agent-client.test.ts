import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, type RequestListener, type Server, createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import type { TLSSocket } from 'node:tls'
import { join } from 'node:path'
import { type TestContext, after, describe, it } from 'node:test'
import { inspect } from 'node:util'
import { AgentClient, type AgentResponse } from '../../src/agent/client.js'
import { isTransient } from '../../src/agent/agent-errors.js'
import { type AgentOptions } from '../../src/agent/options.js'
import { agentSettings } from '../../src/agent/settings.js'
import { AbortError, AgentError, ERROR_CODES, type ErrorCode, TimeoutError } from '../../src/base/errors.js'
import { TestCa } from '../../src/testing/index.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-client-'))
after(() => {
  rmSync(folder, { recursive: true })
})

interface Answer {
  readonly status?: number
  readonly headers?: Record<string, string>
  readonly body?: string
}

/** Opens a client of a server that sends `answer` and records the requests. */
async function open(
  t: TestContext,
  answer: Answer | RequestListener = {},
  options: AgentOptions = {},
  server?: Server,
) {
  const requests: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[] = []
  const agent = server ?? createServer()
  agent.on('request', (request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk
    })
    request.on('end', () => {
      requests.push({ method: request.method!, url: request.url!, headers: request.headers, body })
      if (typeof answer === 'function') answer(request, response)
      else response.writeHead(answer.status ?? 200, answer.headers ?? {}).end(answer.body ?? '{}')
    })
  })
  const { address = '127.0.0.1', ...rest } = options
  const path = address.startsWith('unix://') ? address.slice('unix://'.length) : undefined
  await new Promise<void>((resolve) => {
    if (path === undefined) agent.listen(0, '127.0.0.1', resolve)
    else agent.listen(path, resolve)
  })
  const port = path === undefined ? (agent.address() as AddressInfo).port : 0
  const agentAddress = path === undefined ? address.replace('127.0.0.1', `127.0.0.1:${port}`) : address
  const client = new AgentClient(agentSettings({ env: {}, address: agentAddress, ...rest }))
  t.after(async () => {
    await client.destroy()
    agent.closeAllConnections()
    agent.close()
  })
  return { client, requests, port }
}

const identity = (body: unknown): unknown => body
const PATH = { path: '/v1/x' }

async function failure(promise: Promise<unknown>): Promise<AgentError> {
  try {
    await promise
  } catch (error) {
    assert.ok(error instanceof AgentError, `rejected with ${String(error)}`)
    return error
  }
  throw new Error('the request did not fail')
}

describe('AgentClient: a request', () => {
  it('is a GET without a body by default', async (t) => {
    const { client, requests } = await open(t)
    await client.request(PATH, identity)
    await client.request({ method: 'PUT', path: '/v1/y', body: { A: 1 } }, identity)
    const [get, put] = requests
    assert.deepEqual(
      [get!.method, get!.url, get!.body, get!.headers['content-type']],
      ['GET', '/v1/x', '', undefined],
    )
    assert.deepEqual(
      [put!.method, put!.url, put!.body, put!.headers['content-type']],
      ['PUT', '/v1/y', '{"A":1}', 'application/json'],
    )
    assert.equal(get!.headers['x-consul-token'], undefined)
    assert.equal(get!.headers.authorization, undefined)
  })

  it('has the query parameters of the settings and of the request, without undefined values', async (t) => {
    const { client, requests } = await open(t, {}, { namespace: 'n m', datacenter: 'd', partition: 'p' })
    await client.request(
      { ...PATH, query: { dc: undefined, ns: 'own', a: 'ü&=', b: 5, c: true, d: undefined } },
      identity,
    )
    const { searchParams } = new URL(requests[0]!.url, 'http://a')
    assert.deepEqual([...searchParams].sort(), [
      ['a', 'ü&='],
      ['b', '5'],
      ['c', 'true'],
      ['ns', 'own'],
      ['partition', 'p'],
    ])
  })

  it('repeats a query parameter for each item of a list', async (t) => {
    const { client, requests } = await open(t)
    await client.request({ ...PATH, query: { tag: ['b', 'a', 'ü&='], near: [], dc: 'd' } }, identity)
    const { searchParams } = new URL(requests[0]!.url, 'http://a')
    assert.deepEqual(
      [...searchParams],
      [
        ['tag', 'b'],
        ['tag', 'a'],
        ['tag', 'ü&='],
        ['dc', 'd'],
      ],
    )
  })

  it('is sent to the path prefix of the address', async (t) => {
    const { client, requests } = await open(t, {}, { address: 'http://127.0.0.1/consul/' })
    await client.request(PATH, identity)
    assert.equal(requests[0]!.url, '/consul/v1/x')
  })

  it('carries token, user, and password in headers, never in the path', async (t) => {
    const { client, requests } = await open(
      t,
      {},
      { token: 's.e-c=ret', auth: { username: 'ü', password: 'p:q' } },
    )
    await client.request(PATH, identity)
    const { headers, url } = requests[0]!
    assert.equal(headers['x-consul-token'], 's.e-c=ret')
    assert.equal(headers.authorization, `Basic ${Buffer.from('ü:p:q').toString('base64')}`)
    assert.equal(url, '/v1/x')
  })

  it('reads the token file for each request, without the white space around the token', async (t) => {
    const tokenFile = join(folder, 'token')
    const { client, requests } = await open(t, {}, { tokenFile })
    for (const text of ['first', 'second\n', ' third\r\n']) {
      writeFileSync(tokenFile, text)
      await client.request(PATH, identity)
    }
    assert.deepEqual(
      requests.map(({ headers }) => headers['x-consul-token']),
      ['first', 'second', 'third'],
    )
  })

  it('is not sent when the token file has no valid token, and the error does not show the content', async (t) => {
    const tokenFile = join(folder, 'bad-token')
    const { client, requests } = await open(t, {}, { tokenFile })
    for (const text of [undefined, '', ' \n', 'hunter2 hunter2', 'hunter2\nhunter2', 'hünter2']) {
      if (text !== undefined) writeFileSync(tokenFile, text)
      await assert.rejects(client.request(PATH, identity), (error) => {
        assert.equal((error as AgentError).code, 'ERR_CONNECT_OPTION')
        assert.doesNotMatch(inspect(error, { depth: 9 }), /h[uü]nter/)
        return true
      })
    }
    assert.equal(requests.length, 0)
  })
})

describe('AgentClient: an answer', () => {
  it('is parsed as JSON, and an empty body as undefined', async (t) => {
    const { client } = await open(t, { body: '{"a":[1]}' })
    assert.deepEqual((await client.request(PATH, identity)).value, { a: [1] })
    const { client: empty } = await open(t, { body: '' })
    assert.equal((await empty.request(PATH, identity)).value, undefined)
  })

  const headers: [
    rule: string,
    headers: Record<string, string>,
    expected: Partial<AgentResponse<unknown>>,
  ][] = [
    ['an index', { 'X-Consul-Index': '42' }, { index: 42 }],
    ['an index of 0', { 'X-Consul-Index': '0' }, { index: 0 }],
    ['a content hash', { 'X-Consul-ContentHash': 'abc' }, { hash: 'abc' }],
    ['both', { 'X-Consul-Index': '1', 'X-Consul-ContentHash': 'abc' }, { index: 1, hash: 'abc' }],
    ['an empty content hash as none', { 'X-Consul-ContentHash': '' }, {}],
    ['a negative index as none', { 'X-Consul-Index': '-1' }, {}],
    ['an index that is not a number as none', { 'X-Consul-Index': 'x' }, {}],
    ['a hexadecimal index as none', { 'X-Consul-Index': '0x10' }, {}],
    ['an index above the safe integers as none', { 'X-Consul-Index': '12345678901234567' }, {}],
    ['an age of 0', { Age: '0' }, {}],
    ['an age in seconds', { Age: '7' }, { ageMs: 7_000 }],
    ['a negative age as 0', { Age: '-7' }, {}],
    ['an age that is not a number as 0', { Age: 'soon' }, {}],
    ['an empty age as 0', { Age: '' }, {}],
    ['that the leader answered', { 'X-Consul-LastContact': '0' }, { lastContactMs: 0 }],
    ['the lag of a follower', { 'X-Consul-LastContact': '12' }, { lastContactMs: 12 }],
    ['a lag that is not a number as none', { 'X-Consul-LastContact': 'x' }, {}],
    ['that ACLs filtered the answer', { 'X-Consul-Results-Filtered-By-ACLs': 'true' }, { isFiltered: true }],
    ['that ACLs did not filter the answer', { 'X-Consul-Results-Filtered-By-ACLs': 'false' }, {}],
    ['an unknown filter header as false', { 'X-Consul-Results-Filtered-By-ACLs': 'yes' }, {}],
  ]
  for (const [rule, responseHeaders, expected] of headers) {
    it(`reads ${rule}`, async (t) => {
      const { client } = await open(t, { headers: responseHeaders })
      const defaults = {
        value: {},
        index: undefined,
        hash: undefined,
        ageMs: 0,
        lastContactMs: undefined,
        isFiltered: false,
      }
      assert.deepEqual(await client.request(PATH, identity), { ...defaults, ...expected })
    })
  }

  it('answers about our datacenter while another one does not answer', async (t) => {
    const { client } = await open(t, ({ url = '' }, response) => {
      if (!url.includes('dc=')) response.end('{}')
    })
    const { signal } = new AbortController()
    const away = Array.from({ length: 20 }, () =>
      client.request({ path: PATH.path, query: { dc: 'dc2' }, signal }, identity).catch(() => undefined),
    )
    await client.request(PATH, identity)
    await client.destroy()
    await Promise.all(away)
  })

  const refusals: [status: number, body: string, code: ErrorCode][] = [
    [403, 'Permission denied', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    [403, 'ACL not found', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
    [403, 'Access is restricted', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    [403, '', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    [500, 'rpc error making call: Permission denied', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    [500, 'rpc error making call: rpc error making call: ACL not found', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
    [404, 'unknown service ID: web', 'ERR_CONNECT_AGENT_NOT_FOUND'],
    [429, 'Too many certificates', 'ERR_CONNECT_AGENT_RATE_LIMITED'],
    [429, 'Your IP is issuing too many concurrent connections, please', 'ERR_CONNECT_AGENT_CONNECTIONS'],
    [500, 'rpc error making call: 429 Too Many Requests', 'ERR_CONNECT_AGENT_RATE_LIMITED'],
    [500, 'Unexpected response code: 403 (x)', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    // Consul 1.8.7 to 1.22, with and without the prefix of a relaying agent.
    [500, 'rpc error making call: No path to datacenter', 'ERR_CONNECT_AGENT_DATACENTER'],
    [500, 'Remote DC has no server currently reachable', 'ERR_CONNECT_AGENT_FAILED'],
    [404, 'No path to datacenter', 'ERR_CONNECT_AGENT_DATACENTER'],
    [403, 'No path to datacenter', 'ERR_CONNECT_AGENT_FORBIDDEN'],
    [404, 'Query not found', 'ERR_CONNECT_AGENT_NOT_FOUND'],
    [500, 'Failed to create boolean expression evaluator: 1:1 (0): no match', 'ERR_CONNECT_AGENT_REFUSED'],
    [400, 'Request decode failed: EOF', 'ERR_CONNECT_AGENT_REFUSED'],
    [405, 'method GET not allowed', 'ERR_CONNECT_AGENT_REFUSED'],
    [500, 'No cluster leader', 'ERR_CONNECT_AGENT_FAILED'],
    [301, '', 'ERR_CONNECT_AGENT_FAILED'],

    [500, 'rpc error making call: Connect must be enabled', 'ERR_CONNECT_DISABLED'],
  ]
  for (const [status, body, code] of refusals) {
    it(`maps ${status} ${body} to ${code}`, async (t) => {
      const { client, port } = await open(t, { status, body })
      const error = await failure(client.request({ ...PATH, query: { token: 'hidden' } }, identity))
      assert.deepEqual(
        [error.code, error.status, error.request, error.address],
        [code, status, 'GET /v1/x', `http://127.0.0.1:${port}`],
      )
      assert.ok(error.message.includes(`answered ${status}${body === '' ? '' : ` "${body}"`}`), error.message)
      assert.doesNotMatch(error.message, /hidden/)
    })
  }

  const advised: [status: number, body: string, advice: RegExp | undefined][] = [
    [
      403,
      'x',
      /; no token was sent; set agent\.token to a token with the permission that this request needs$/,
    ],
    [403, 'ACL not found', /; the token does not exist, or the servers cannot look it up at the moment$/],
    [500, 'No path to datacenter', /; check the name, and that the datacenters are joined$/],
    [429, 'x', /; the request is retried later$/],
    [429, 'Your IP is issuing too many concurrent connections', /; raise limits\.http_max_conns_per_client/],
    [500, 'Connect must be enabled', /; set connect \{ enabled = true \} on the servers$/],
    [500, 'No cluster leader', undefined],
  ]
  for (const [status, body, advice] of advised) {
    it(`gives ${advice === undefined ? 'no advice' : 'advice'} after ${status} ${body}`, async (t) => {
      const { client } = await open(t, { status, body })
      const { message } = await failure(client.request(PATH, identity))
      if (advice === undefined) assert.ok(message.endsWith(`"${body}"`), message)
      else assert.match(message, advice)
    })
  }

  it('names the missing permission after a 403, and says whether a token was sent', async (t) => {
    const needs = 'service:write on "web"'
    const without = await open(t, { status: 403, body: 'Permission denied' })
    const { message } = await failure(without.client.request({ ...PATH, needs }, identity))
    assert.match(message, /; no token was sent; set agent\.token to a token with service:write on "web"$/)
    const sent = await open(t, { status: 403, body: 'Permission denied' }, { token: 'secret' })
    const refused = await failure(sent.client.request({ ...PATH, needs }, identity))
    assert.match(refused.message, /; grant service:write on "web" to the token$/)
    assert.doesNotMatch(refused.message, /secret/)
  })

  it('is quoted in errors on one line of at most 300 characters', async (t) => {
    const { client } = await open(t, { status: 400, body: '1 error occurred:\n\t* invalid name\n\n' })
    assert.match(
      (await failure(client.request(PATH, identity))).message,
      /"1 error occurred: \* invalid name"$/,
    )
    const page = await open(t, { status: 500, body: `${'x'.repeat(500)}\n<secret>` })
    const { message } = await failure(page.client.request(PATH, identity))
    assert.match(message, /"x{300}"/)
    assert.doesNotMatch(message, /secret/)
  })

  it('is rejected without a quotation when it is not JSON', async (t) => {
    const { client } = await open(t, { body: 'hunter2' })
    const error = await failure(client.request(PATH, identity))
    assert.equal(error.code, 'ERR_CONNECT_AGENT_NOT_JSON')
    assert.doesNotMatch(inspect(error, { depth: 9 }), /hunter2/)
  })

  it("is rejected with the parser's error as the cause", async (t) => {
    const { client } = await open(t)
    const cause = new Error('Roots: expected an array, got nothing')
    const error = await failure(
      client.request(PATH, () => {
        throw cause
      }),
    )
    assert.deepEqual([error.code, error.status, error.cause], ['ERR_CONNECT_AGENT_SHAPE', 200, cause])
    assert.match(error.message, /Roots: expected an array, got nothing/)
  })
})

describe('AgentClient: limits and failures', () => {
  const silent: RequestListener = () => undefined

  it('times out when the agent does not answer', async (t) => {
    const { client } = await open(t, silent, { timeoutMs: 20 })
    const error = await failure(client.request(PATH, identity))
    assert.equal(error.code, 'ERR_CONNECT_AGENT_TIMEOUT')
    assert.match(error.message, /within 20 ms/)
    const shorter = await failure(client.request({ ...PATH, timeoutMs: 10 }, identity))
    assert.match(shorter.message, /within 10 ms/)
  })

  it('times out when the agent stops in the middle of its answer', async (t) => {
    const half: RequestListener = (_request, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('{"a":')
    }
    const { client } = await open(t, half, { timeoutMs: 20 })
    assert.equal((await failure(client.request(PATH, identity))).code, 'ERR_CONNECT_AGENT_TIMEOUT')
  })

  it('reduces the blocking queries when the agent closes a connection at once, which may be its connection limit', async (t) => {
    const { client } = await open(t, (request) => request.socket.destroy(), { maxBlockingQueries: 4 })
    const evicted: number[] = []
    for (const i of [1, 2, 3]) client.upstreamSlots.take(() => evicted.push(i))
    const error = await failure(client.request(PATH, identity))
    assert.deepEqual([error.code, isTransient(error)], ['ERR_CONNECT_AGENT_UNREACHABLE', true])
    assert.deepEqual(evicted, [1, 2])
  })

  it('sends heartbeats while every connection for blocking queries is in use', async (t) => {
    const listener: RequestListener = (request, response) => {
      if (request.url?.includes('index=') !== true) response.end('{}')
    }
    const { client, requests } = await open(t, listener, { maxBlockingQueries: 2 })
    const hanging = [1, 2, 3].map((index) =>
      client.request({ ...PATH, query: { index } }, identity).catch(() => 'ended'),
    )
    await client.request({ ...PATH, isHeartbeat: true }, identity)
    await client.request(PATH, identity)
    assert.equal(requests.filter(({ url }) => url.includes('index=')).length, 2)
    await client.destroy()
    await Promise.all(hanging)
  })

  const broken: [rule: string, answer: RequestListener][] = [
    [
      'closes the connection in the middle of its answer',
      (request, response) => {
        response.writeHead(200, { 'content-length': '100' }).write('{"a":', () => request.socket.destroy())
      },
    ],
    ['does not speak HTTP', (request) => request.socket.end('garbage\r\n\r\n')],
    [
      'sends an endless body',
      (_request, response) => {
        const chunk = Buffer.alloc(1024 * 1024, 0x20)
        const write = (): void => {
          while (!response.destroyed && response.write(chunk));
        }
        response.on('drain', write)
        write()
      },
    ],
  ]
  for (const [rule, answer] of broken) {
    it(`fails when the agent ${rule}`, async (t) => {
      const { client } = await open(t, answer)
      const error = await failure(client.request(PATH, identity))
      assert.deepEqual([error.code, error.status], ['ERR_CONNECT_AGENT_UNREACHABLE', undefined])
      assert.ok(error.cause instanceof Error)
    })
  }

  it('advises to check the agent when its socket does not exist', async (t) => {
    const client = new AgentClient(
      agentSettings({ env: {}, address: `unix://${join(folder, 'missing.sock')}` }),
    )
    t.after(() => client.destroy())
    const error = await failure(client.request(PATH, identity))
    assert.equal(error.code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    assert.match(error.message, /check that it runs/)
  })

  it('is aborted by the signal of the caller, with its reason', async (t) => {
    const reason = new Error('enough')
    const { client, requests } = await open(t, () => {
      controller.abort(reason)
    })
    const controller = new AbortController()
    await assert.rejects(client.request({ ...PATH, signal: controller.signal }, identity), (error) => {
      return error instanceof AbortError && error.cause === reason
    })
    await assert.rejects(client.request({ ...PATH, signal: controller.signal }, identity), AbortError)
    assert.equal(requests.length, 1)
  })

  it('rejects pending and later requests after destroy()', async (t) => {
    const { client } = await open(t, () => void client.destroy())
    for (let i = 0; i < 2; i += 1) {
      assert.equal((await failure(client.request(PATH, identity))).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    }
  })
})

describe('isTransient', () => {
  const transient: ErrorCode[] = [
    'ERR_CONNECT_AGENT_UNREACHABLE',
    'ERR_CONNECT_AGENT_TIMEOUT',
    'ERR_CONNECT_AGENT_RATE_LIMITED',
    'ERR_CONNECT_AGENT_CONNECTIONS',
    'ERR_CONNECT_AGENT_FAILED',
  ]
  it('is true for the error codes of conditions that can pass', () => {
    const found = (Object.keys(ERROR_CODES) as ErrorCode[]).filter((code) =>
      isTransient(new AgentError(code, 'm', { address: 'a', request: 'r' })),
    )
    assert.deepEqual(found.sort(), transient.sort())
  })

  it('is false for everything but an AgentError', () => {
    const code = 'ERR_CONNECT_AGENT_FAILED'
    const values = [
      undefined,
      'text',
      { code },
      Object.assign(new Error('m'), { code }),
      new TimeoutError('m', 5),
    ]
    for (const error of values) assert.equal(isTransient(error), false, inspect(error))
  })
})

describe('AgentClient: TLS', () => {
  const [ca, otherCa] = [TestCa.create(), TestCa.create()]
  const issued = ca.issue({ dnsNames: ['agent.example'], ips: ['127.0.0.1'] })
  const peers: { authorized: boolean; isReused: boolean }[] = []
  const server = (): Server =>
    createTlsServer(
      {
        key: issued.privateKeyPem,
        cert: issued.chainPem,
        ca: ca.rootPem,
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request) => {
        const socket = request.socket as unknown as Pick<TLSSocket, 'authorized' | 'isSessionReused'>
        peers.push({ authorized: socket.authorized, isReused: socket.isSessionReused() })
      },
    )
  const address = 'https://127.0.0.1'
  const CLOSE: Answer = { headers: { connection: 'close' } }

  const cases: [rule: string, tls: NonNullable<AgentOptions['tls']>, isTrusted: boolean][] = [
    ['an agent certificate of the configured CA', { ca: ca.rootPem }, true],
    ['an agent certificate of one of several CAs', { ca: [otherCa.rootPem, ca.rootPem] }, true],
    ['an agent certificate of another CA', { ca: otherCa.rootPem }, false],
    ['a private CA by default', {}, false],
    ['any CA with verify: false', { verify: false }, true],
    ['a certificate for the configured server name', { ca: ca.rootPem, serverName: 'agent.example' }, true],
    ['a certificate for another server name', { ca: ca.rootPem, serverName: 'other.example' }, false],
  ]
  for (const [rule, tls, isTrusted] of cases) {
    it(`${isTrusted ? 'accepts' : 'rejects'} ${rule}, on each connection`, async (t) => {
      const { client, requests } = await open(t, CLOSE, { address, tls }, server())
      for (let i = 0; i < 2; i += 1) {
        const result = await client
          .request(PATH, () => 'fine')
          .then(
            ({ value }) => value,
            (error: unknown) => (error as AgentError).code,
          )
        assert.equal(result, isTrusted ? 'fine' : 'ERR_CONNECT_AGENT_UNREACHABLE')
      }
      assert.equal(requests.length, isTrusted ? 2 : 0)
    })
  }

  it('resumes no session, because resumption skips the check of the server name', async (t) => {
    peers.length = 0
    const { client } = await open(t, CLOSE, { address, tls: { ca: ca.rootPem } }, server())
    for (let i = 0; i < 3; i += 1) await client.request(PATH, identity)
    assert.deepEqual(
      peers.map(({ isReused }) => isReused),
      [false, false, false],
    )
  })
})
