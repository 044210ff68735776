import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import { join as joinPath } from 'node:path'
import { createServer, request } from 'node:http'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import {
  AgentError,
  type AgentOptions,
  IdentityError,
  type Peer,
  TimeoutError,
  service,
} from '../../src/index.js'
import { type FaultAnswer, TestAgent, TestCa } from '../../src/testing/index.js'
import { waitBound } from '../fixtures/bounds.js'
import { greet, nextEvent, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'

const JSON_TYPE = { 'content-type': 'application/json' }

const ROOTS = '/v1/agent/connect/ca/roots'
const LEAF = '/v1/agent/connect/ca/leaf'
const HEALTH = '/v1/health/connect'
const AUTHORIZE = '/v1/agent/connect/authorize'

/** For an agent that does not answer; every other fault is an answer, which takes longer on a busy machine. */
const AGENT_TIMEOUT_MS = waitBound(100)
const CALL_TIMEOUT_MS = waitBound(250)

/** Faulty answers of an agent, and the codes of their errors. */
const FAULTS: readonly (readonly [name: string, answer: FaultAnswer, code: string])[] = [
  ['HTML', { body: '<html>hello</html>' }, 'ERR_CONNECT_AGENT_NOT_JSON'],
  ['half a JSON body', { body: '{"Roots":[{"ID"', headers: JSON_TYPE }, 'ERR_CONNECT_AGENT_NOT_JSON'],
  ['a truncated body', { truncate: true }, 'ERR_CONNECT_AGENT_UNREACHABLE'],
  ['a reset', { reset: true }, 'ERR_CONNECT_AGENT_UNREACHABLE'],
  ['500', { status: 500, body: 'rpc error: no cluster leader' }, 'ERR_CONNECT_AGENT_FAILED'],
  ['429', { status: 429, body: 'Too many requests' }, 'ERR_CONNECT_AGENT_RATE_LIMITED'],
  ['403', { status: 403, body: 'Permission denied' }, 'ERR_CONNECT_AGENT_FORBIDDEN'],
  ['403 inside a 500', { status: 500, body: 'Permission denied' }, 'ERR_CONNECT_AGENT_FORBIDDEN'],
  ['ACL not found', { status: 403, body: 'ACL not found' }, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
  ['404', { status: 404, body: '404 page not found' }, 'ERR_CONNECT_AGENT_NOT_FOUND'],
  ['400', { status: 400, body: 'Invalid query parameter' }, 'ERR_CONNECT_AGENT_REFUSED'],
  ['a redirect', { status: 301, headers: { location: '/elsewhere' }, body: '' }, 'ERR_CONNECT_AGENT_FAILED'],
  ['nothing', { hang: true }, 'ERR_CONNECT_AGENT_TIMEOUT'],
  ['a string', { body: '"hello"', headers: JSON_TYPE }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['null', { body: 'null', headers: JSON_TYPE }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['an empty body', { body: '', headers: JSON_TYPE }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['an empty object', { body: '{}', headers: JSON_TYPE }, 'ERR_CONNECT_AGENT_SHAPE'],
]

for (const [endpoint, name] of [
  [ROOTS, 'roots'],
  [LEAF, 'the leaf'],
] as const) {
  describe(`an agent that answers requests for ${name} with`, () => {
    for (const [answer, fault, code] of FAULTS) {
      it(`${answer} makes ready() fail with this cause until the fault ends`, async (t) => {
        const { agent, agentOptions, join } = await startMesh(t)
        const clearFault = agent.fault(endpoint, fault)
        const web = join('web', { agent: { ...agentOptions, timeoutMs: AGENT_TIMEOUT_MS } })
        const warned = nextEvent(web, 'warning')
        const error = await rejection(web.ready({ timeoutMs: CALL_TIMEOUT_MS }))
        assert.ok(error instanceof IdentityError)
        assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
        assert.ok(error.cause instanceof AgentError, inspect(error))
        assert.equal(error.cause.code, code, error.cause.message)
        assert.match(error.message, new RegExp(`^web: .*${agent.address}`))
        assert.ok((await warned)[0] instanceof AgentError)
        clearFault()
        // The back-off after 403 and 429 is longer than this test waits.
        if (code !== 'ERR_CONNECT_AGENT_FORBIDDEN' && code !== 'ERR_CONNECT_AGENT_RATE_LIMITED')
          await web.ready()
      })
    }
  })
}

describe('an agent that answers a dial with', () => {
  for (const [answer, fault, code] of FAULTS) {
    // Consul writes an empty list as null.
    if (answer === 'null') continue
    it(answer, async (t) => {
      const { agent, agentOptions, join } = await startMesh(t)
      const web = join('web', { agent: { ...agentOptions, timeoutMs: AGENT_TIMEOUT_MS } })
      await web.ready()
      agent.fault(HEALTH, fault)
      const error = await rejection(web.dial('api', { timeoutMs: CALL_TIMEOUT_MS }))
      // A dial retries temporary faults until its timeout.
      const cause = error instanceof TimeoutError ? error.cause : error
      assert.ok(cause instanceof AgentError, inspect(error))
      assert.equal(cause.code, code, error.message)
      const isTemporary = ['UNREACHABLE', 'FAILED', 'RATE_LIMITED', 'TIMEOUT'].some((end) =>
        code.endsWith(end),
      )
      assert.equal(error instanceof TimeoutError, isTemporary)
    })
  }
})

describe('an agent that answers an authorization with', () => {
  for (const [answer, fault] of [
    ...FAULTS,
    ['Authorized as a string', { body: '{"Authorized":"true","Reason":""}', headers: JSON_TYPE }],
    ['only a reason', { body: '{"Reason":"ok"}', headers: JSON_TYPE }],
  ] as const) {
    it(`${answer} denies the connection`, async (t) => {
      const { agent, agentOptions, join } = await startMesh(t)
      const api = join('api', { agent: { ...agentOptions, timeoutMs: AGENT_TIMEOUT_MS } })
      let handled = 0
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, () => (handled += 1))
      agent.fault(AUTHORIZE, fault)
      const denied = nextEvent(api, 'denied')
      const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
      assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
      assert.match((await denied)[0].reason, /^authorizer failed: POST /)
      assert.equal(handled, 0)
    })
  }
})

describe('a custom authorizer', () => {
  const never = new Promise<never>(() => undefined)
  for (const [fault, authorize, reason] of [
    [
      'throws',
      () => {
        throw new Error('boom')
      },
      /boom/,
    ],
    ['rejects', () => Promise.reject(new Error('boom')), /boom/],
    ['times out', () => never, /timed out after 100 ms/],
    ['returns a boolean', () => true, /expected { authorized, reason }/],
    ['returns nothing', () => undefined, /expected { authorized, reason }/],
    ['returns authorized: false', () => ({ authorized: false, reason: 'not today' }), /^not today$/],
  ] as const) {
    it(`that ${fault} denies`, async (t) => {
      const { join } = await startMesh(t)
      const api = join('api', { authorize: authorize as never, handshakeTimeoutMs: 100 })
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
      const denied = nextEvent(api, 'denied')
      const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
      assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
      assert.match((await denied)[0].reason, reason)
    })
  }

  it('receives the verified peer, and overrides the intentions', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const calls: string[] = []
    const api = join('api', {
      authorize: ({ peer, service: name }) => {
        calls.push(`${peer.service} > ${name}`)
        return { authorized: true, reason: 'test' }
      },
    })
    await offer(api, greet)
    assert.equal(await readAll(await join('web').dial('api')), 'hello web')
    assert.deepEqual(calls, ['web > api'])
  })
})

describe('authorize', () => {
  it('decides by the current intentions, and by the last known ones without the agent', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    let caller: Peer | undefined
    await offer(api, (socket) => {
      caller = socket.peer
      greet(socket)
    })
    await readAll(await join('web').dial('api'))
    const isAuthorized = async (): Promise<boolean> => (await api.authorize(caller!)).authorized
    assert.equal(await isAuthorized(), true)
    for (const [source, action, expected] of [
      ['web', 'deny', false],
      ['web', 'allow', true],
      ['*', 'deny', true],
    ] as const) {
      const changed = nextEvent(api, 'decisions')
      agent.setIntention(source, 'api', action)
      await changed
      assert.equal(await isAuthorized(), expected, `${source}: ${action}`)
    }
    await agent.stop()
    assert.equal(await isAuthorized(), true)
    const { authorized, reason } = await join('db').authorize(caller!)
    assert.equal(authorized, false)
    assert.match(reason, /no answer from the agent/)
  })
})

describe('the connection to the agent', () => {
  const becomesReady = async (options: AgentOptions): Promise<void> => {
    const web = service('web', { agent: options })
    try {
      await web.ready({ timeoutMs: 2000 })
    } finally {
      await web.close()
    }
  }

  it('can use TLS with a server name and a client certificate, over TCP and unix sockets', async (t) => {
    const folder = temporaryFolder(t)
    const ca = TestCa.create()
    const own = ca.issue({ dnsNames: ['server.dc1.consul'] })
    const client = ca.issue({ dnsNames: ['client.dc1.consul'] })
    const tls = { key: own.privateKeyPem, cert: own.chainPem, ca: ca.rootPem, requestCert: true }
    const trust = {
      ca: ca.rootPem,
      cert: client.chainPem,
      key: client.privateKeyPem,
      serverName: 'server.dc1.consul',
    }
    await using agent = await TestAgent.start({ tls })
    await becomesReady({ address: agent.url, tls: trust, env: {} })
    await using local = await TestAgent.start({ tls, socketPath: joinPath(folder, 'agent.sock') })
    await becomesReady({ address: local.address, tls: trust, env: { CONSUL_HTTP_SSL: 'true' } })
    // The same settings from environment variables.
    const files = { CONSUL_CACERT: trust.ca, CONSUL_CLIENT_CERT: trust.cert, CONSUL_CLIENT_KEY: trust.key }
    const env: Record<string, string> = {
      CONSUL_HTTP_ADDR: agent.url,
      CONSUL_TLS_SERVER_NAME: trust.serverName,
    }
    for (const [name, pem] of Object.entries(files)) {
      env[name] = joinPath(folder, name)
      writeFileSync(env[name], pem)
    }
    await becomesReady({ env })
    for (const [mismatch, wrong] of [
      ['another name', { ...trust, serverName: 'elsewhere' }],
      ['another CA', { ...trust, ca: TestCa.create().rootPem }],
    ] as const) {
      const error = await rejection(becomesReady({ address: agent.url, tls: wrong, env: {}, timeoutMs: 500 }))
      assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_UNREACHABLE', mismatch)
    }
  })

  it('can use a path prefix and basic authentication', async (t) => {
    const { agent } = await startMesh(t)
    const authorizations = new Set<string | undefined>()
    const proxy = createServer((incoming, outgoing) => {
      authorizations.add(incoming.headers.authorization)
      const path = (incoming.url ?? '').replace(/^\/consul\/prefix/, '')
      const [host, port] = agent.address.split(':')
      const onward = request(
        { host, port, path, method: incoming.method, headers: incoming.headers },
        (answer) => {
          outgoing.writeHead(answer.statusCode ?? 500, answer.headers)
          answer.pipe(outgoing)
        },
      )
      onward.on('error', () => outgoing.destroy())
      outgoing.on('close', () => onward.destroy())
      incoming.pipe(onward)
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    t.after(() => {
      proxy.closeAllConnections()
      proxy.close()
    })
    const { port } = proxy.address() as { port: number }
    const address = `http://127.0.0.1:${port}/consul/prefix/`
    await becomesReady({ address, auth: { username: 'me', password: 'a:b' }, env: {} })
    assert.deepEqual([...authorizations], [`Basic ${Buffer.from('me:a:b').toString('base64')}`])
  })
})

describe('tokens', () => {
  const acl = { enabled: true, defaultPolicy: 'deny' } as const

  it('without the required permissions are named as the cause, but not printed', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { acl })
    const tokenOfDb = agent.createToken({ services: { db: 'write' } })
    for (const [token, code] of [
      ['11111111-2222-3333-4444-555555555555', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
      [tokenOfDb, 'ERR_CONNECT_AGENT_FORBIDDEN'],
    ] as const) {
      const web = join('web', { agent: { ...agentOptions, token } })
      const error = await rejection(web.ready({ timeoutMs: 250 }))
      assert.equal((error.cause as AgentError).code, code)
      assert.equal((error.cause as AgentError).status, 403)
      assert.match(error.message, /; (?:the token does not exist|grant service:write on "web")/)
      for (const text of [
        inspect(error, { depth: 9 }),
        inspect(web, { depth: 9, showHidden: true }),
        error.stack ?? '',
      ]) {
        assert.equal(text.includes(token), false)
      }
    }
  })

  it('are read again when their file changes', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { acl })
    const tokenFile = joinPath(temporaryFolder(t), 'token')
    writeFileSync(tokenFile, `${agent.createToken({ services: { api: 'write' } })}\n`, { mode: 0o600 })
    const api = join('api', { agent: { ...agentOptions, tokenFile } })
    // Each registration sends a request.
    let port = 0
    const register = (): Promise<unknown> => api.register({ port: (port += 1), timeoutMs: 1_000 })
    await register()
    writeFileSync(tokenFile, 'no-such-token')
    const { cause } = await rejection(register())
    assert.equal((cause as AgentError).code, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
    writeFileSync(tokenFile, agent.createToken({ services: { api: 'write' } }))
    await register()
    for (const content of ['', 'two tokens']) {
      writeFileSync(tokenFile, content)
      assert.match((await rejection(register())).message, /agent\.tokenFile: expected a file with one token/)
    }
    rmSync(tokenFile)
    assert.match(
      (await rejection(register())).message,
      /agent\.tokenFile: expected the path of a readable file/,
    )
  })
})

it('an unreachable agent is named with advice', async (t) => {
  const { agent, join } = await startMesh(t)
  await agent.stop()
  const web = join('web')
  const error = await rejection(web.ready({ timeoutMs: 100 }))
  assert.match(
    error.message,
    new RegExp(
      `no answer from the agent at http://${agent.address}: connect ECONNREFUSED.*check that it runs`,
    ),
  )
  const dialError = await rejection(web.dial('api', { timeoutMs: 100 }))
  assert.ok(dialError instanceof TimeoutError)
  assert.equal((dialError.cause as AgentError).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
})
