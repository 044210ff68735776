import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import {
  AgentError,
  type AgentOptions,
  IdentityError,
  type Peer,
  type Service,
  TimeoutError,
  service,
} from '../../src/index.js'
import { type FaultAnswer, TestAgent, TestCa } from '../../src/testing/index.js'
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'

const ROOTS = '/v1/agent/connect/ca/roots'
const LEAF = '/v1/agent/connect/ca/leaf'
const HEALTH = '/v1/health/connect'
const AUTHORIZE = '/v1/agent/connect/authorize'

/** Each way in which an agent can answer wrongly, and the code that tells which it was. */
const FAULTS: readonly (readonly [what: string, answer: FaultAnswer, code: string])[] = [
  ['HTML', { body: '<html>hello</html>' }, 'ERR_CONNECT_AGENT_NOT_JSON'],
  [
    'half a JSON body',
    { body: '{"Roots":[{"ID"', contentType: 'application/json' },
    'ERR_CONNECT_AGENT_NOT_JSON',
  ],
  ['a body that breaks off', { truncate: true }, 'ERR_CONNECT_AGENT_UNREACHABLE'],
  ['a reset', { reset: true }, 'ERR_CONNECT_AGENT_UNREACHABLE'],
  ['500', { status: 500, body: 'rpc error: no cluster leader' }, 'ERR_CONNECT_AGENT_FAILED'],
  ['429', { status: 429, body: 'Too many requests' }, 'ERR_CONNECT_AGENT_RATE_LIMITED'],
  ['403', { status: 403, body: 'Permission denied' }, 'ERR_CONNECT_AGENT_FORBIDDEN'],
  ['403 inside a 500', { status: 500, body: 'Permission denied' }, 'ERR_CONNECT_AGENT_FORBIDDEN'],
  ['ACL not found', { status: 403, body: 'ACL not found' }, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
  ['404', { status: 404, body: '404 page not found' }, 'ERR_CONNECT_AGENT_NOT_FOUND'],
  ['400', { status: 400, body: 'Invalid query parameter' }, 'ERR_CONNECT_AGENT_REFUSED'],
  ['a redirect', { status: 301, headers: { location: '/elsewhere' }, body: '' }, 'ERR_CONNECT_AGENT_FAILED'],
  ['nothing for ever', { hang: true }, 'ERR_CONNECT_AGENT_TIMEOUT'],
  ['a string', { body: '"hello"', contentType: 'application/json' }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['null', { body: 'null', contentType: 'application/json' }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['an empty body', { body: '', contentType: 'application/json' }, 'ERR_CONNECT_AGENT_SHAPE'],
  ['an empty object', { body: '{}', contentType: 'application/json' }, 'ERR_CONNECT_AGENT_SHAPE'],
]

for (const [endpoint, what] of [
  [ROOTS, 'roots'],
  [LEAF, 'the leaf'],
] as const) {
  describe(`an agent that answers ${what} with`, () => {
    for (const [answer, fault, code] of FAULTS) {
      it(`${answer} is the cause of not being ready, and is no hindrance once it stops`, async (t) => {
        const { agent, agentOptions, join } = await startMesh(t)
        const undo = agent.fault(endpoint, fault)
        const web = join('web', { agent: { ...agentOptions, timeoutMs: 100 } })
        const warned = new Promise<Error>((resolve) => web.on('warning', resolve))
        const error = await rejection(web.ready({ timeoutMs: 250 }))
        assert.ok(error instanceof IdentityError)
        assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
        assert.ok(error.cause instanceof AgentError, inspect(error))
        assert.equal(error.cause.code, code, error.cause.message)
        assert.match(error.message, new RegExp(`^web: .*${agent.address}`))
        assert.equal((await warned) instanceof AgentError, true)
        undo()
        // The slow back-off of 403 and 429 is not waited for here.
        if (code !== 'ERR_CONNECT_AGENT_FORBIDDEN' && code !== 'ERR_CONNECT_AGENT_RATE_LIMITED')
          await web.ready()
      })
    }
  })
}

describe('an agent that answers a dial with', () => {
  for (const [answer, fault, code] of FAULTS) {
    if (answer === 'null') continue // is how Consul writes an empty list
    it(answer, async (t) => {
      const { agent, agentOptions, join } = await startMesh(t)
      const web = join('web', { agent: { ...agentOptions, timeoutMs: 100 } })
      await web.ready()
      agent.fault(HEALTH, fault)
      const error = await rejection(web.dial('api', { timeoutMs: 250 }))
      // What may pass is waited for.
      const said = error instanceof TimeoutError ? error.cause : error
      assert.ok(said instanceof AgentError, inspect(error))
      assert.equal(said.code, code, error.message)
      const passes = ['UNREACHABLE', 'FAILED', 'RATE_LIMITED', 'TIMEOUT'].some((end) => code.endsWith(end))
      assert.equal(error instanceof TimeoutError, passes)
    })
  }
})

describe('an agent that answers an authorization with', () => {
  for (const [answer, fault] of [
    ...FAULTS,
    ['yes as a string', { body: '{"Authorized":"true","Reason":""}', contentType: 'application/json' }],
    ['a reason alone', { body: '{"Reason":"ok"}', contentType: 'application/json' }],
  ] as const) {
    it(`${answer} lets nobody in`, async (t) => {
      const { agent, agentOptions, join } = await startMesh(t)
      const api = join('api', { agent: { ...agentOptions, timeoutMs: 100 } })
      let handled = 0
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, () => (handled += 1))
      agent.fault(AUTHORIZE, fault)
      const denied = new Promise<Error & { reason?: string }>((resolve) => api.on('denied', resolve))
      const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
      assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
      assert.match((await denied).reason ?? '', /^authorizer failed: POST /)
      assert.equal(handled, 0)
    })
  }
})

describe('an authorizer of a user’s own', () => {
  const never = new Promise<never>(() => undefined)
  for (const [what, authorize, reason] of [
    [
      'throws',
      () => {
        throw new Error('boom')
      },
      /boom/,
    ],
    ['rejects', () => Promise.reject(new Error('boom')), /boom/],
    ['is late', () => never, /timed out after 100 ms/],
    ['answers yes in another form', () => true, /expected { authorized, reason }/],
    ['answers nothing', () => undefined, /expected { authorized, reason }/],
    ['says no', () => ({ authorized: false, reason: 'not today' }), /^not today$/],
  ] as const) {
    it(`that ${what} denies`, async (t) => {
      const { join } = await startMesh(t)
      const api = join('api', { authorize: authorize as never, handshakeTimeoutMs: 100 })
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
      const denied = new Promise<Error & { reason?: string }>((resolve) => api.on('denied', resolve))
      const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
      assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
      assert.match((await denied).reason ?? '', reason)
    })
  }

  it('that says yes is believed, and is asked with the verified peer', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const asked: string[] = []
    const api = join('api', {
      authorize: ({ peer, service: name }) => {
        asked.push(`${peer.service} > ${name}`)
        return { authorized: true, reason: 'test' }
      },
    })
    await offer(api, greet)
    assert.equal(await readAll(await join('web').dial('api')), 'hello web')
    assert.deepEqual(asked, ['web > api'])
  })
})

describe('authorize', () => {
  it('answers as the mesh’s intentions say, and follows them', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    let caller: Peer | undefined
    await offer(api, (socket) => {
      caller = socket.peer
      greet(socket)
    })
    await readAll(await join('web').dial('api'))
    assert.ok(caller !== undefined)
    const of = caller
    const after = async (change: () => unknown): Promise<boolean> => {
      const changed = new Promise<void>((resolve) => {
        api.once('decisions', resolve)
      })
      await change()
      await changed
      return (await api.authorize(of)).authorized
    }
    assert.equal((await api.authorize(of)).authorized, true)
    assert.equal(
      await after(() => {
        agent.setIntention('web', 'api', 'deny')
      }),
      false,
    )
    assert.equal(
      await after(() => {
        agent.setIntention('web', 'api', 'allow')
      }),
      true,
    )
    assert.equal(
      await after(() => {
        agent.setIntention('*', 'api', 'deny')
      }),
      true,
    )
    await agent.stop()
    // The last known intentions serve.
    assert.equal((await api.authorize(of)).authorized, true)
    const blind = await join('db').authorize(of)
    assert.equal(blind.authorized, false)
    assert.match(blind.reason, /no answer from the agent/)
  })
})

describe('the way to the agent', () => {
  const becomesReady = async (options: AgentOptions): Promise<void> => {
    const web = service('web', { agent: options })
    try {
      await web.ready({ timeoutMs: 2000 })
    } finally {
      await web.close()
    }
  }

  it('may be a unix socket', async (t) => {
    const folder = temporaryFolder(t)
    await using agent = await TestAgent.start({ socketPath: joinPath(folder, 'agent.sock') })
    await becomesReady({ address: agent.address, env: {} })
  })

  it('may be TLS, with a server name and a client certificate, over TCP and over a unix socket', async (t) => {
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
    // The same from the environment alone.
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
    for (const [what, wrong] of [
      ['another name', { ...trust, serverName: 'elsewhere' }],
      ['another CA', { ...trust, ca: TestCa.create().rootPem }],
    ] as const) {
      const error = await rejection(becomesReady({ address: agent.url, tls: wrong, env: {}, timeoutMs: 500 }))
      assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_UNREACHABLE', what)
    }
  })

  it('may have a path prefix and basic authentication', async (t) => {
    const { createServer, request } = await import('node:http')
    const { agent } = await startMesh(t)
    const seen = new Set<string | undefined>()
    const proxy = createServer((incoming, outgoing) => {
      seen.add(incoming.headers.authorization)
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
    assert.deepEqual([...seen], [`Basic ${Buffer.from('me:a:b').toString('base64')}`])
  })
})

describe('tokens', () => {
  const acl = { enabled: true, defaultPolicy: 'deny' } as const

  it('of the wrong kind are named as the cause, and never shown', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { acl })
    const other = agent.createToken({ services: { db: 'write' } })
    for (const [token, code] of [
      ['11111111-2222-3333-4444-555555555555', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'],
      [other, 'ERR_CONNECT_AGENT_FORBIDDEN'],
    ] as const) {
      const web = join('web', { agent: { ...agentOptions, token } })
      const error = await rejection(web.ready({ timeoutMs: 250 }))
      assert.equal((error.cause as AgentError).code, code)
      assert.equal((error.cause as AgentError).status, 403)
      assert.match(error.message, /; (?:the token does not exist|grant service:write on "web")/)
      for (const shown of [
        inspect(error, { depth: 9 }),
        inspect(web, { depth: 9, showHidden: true }),
        error.stack ?? '',
      ]) {
        assert.equal(shown.includes(token), false)
      }
    }
  })

  it('come from a file that is read again when it changes', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { acl })
    const tokenFile = joinPath(temporaryFolder(t), 'token')
    writeFileSync(tokenFile, `${agent.createToken({ services: { api: 'write' } })}\n`, { mode: 0o600 })
    const api = join('api', { agent: { ...agentOptions, tokenFile } })
    // Each asks the agent something.
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

  it('that may not read the intentions let nobody in, and one warning says what to grant', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { acl })
    const rules = { services: { api: 'write' }, intentions: { api: 'deny' } } as const
    const api = join('api', { agent: { ...agentOptions, token: agent.createToken(rules) } })
    const warnings: string[] = []
    api.on('warning', ({ message }) => warnings.push(message))
    agent.setIntention('*', 'api', 'allow')
    for (let i = 0; i < 3; i += 1) {
      const { authorized, reason } = await api.authorize(await own(api))
      assert.equal(authorized, false)
      assert.match(reason, /authorize: the agent at .* answered 403/)
    }
    assert.equal(agent.requestCount(AUTHORIZE), 3)
    assert.equal(warnings.length, 1)
    assert.match(
      warnings[0] ?? '',
      /give the token service "api" \{ policy = "write", intentions = "read" \}/,
    )
  })
})

it('an agent with Connect switched off is named as such', async (t) => {
  const { join } = await startMesh(t, { connect: false })
  const error = await rejection(join('web').ready({ timeoutMs: 250 }))
  assert.equal((error.cause as AgentError).code, 'ERR_CONNECT_DISABLED')
  assert.match(error.message, /connect \{ enabled = true \}/)
})

it('an agent that is not there is named, with what to look at', async (t) => {
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
  const dialled = await rejection(web.dial('api', { timeoutMs: 100 }))
  assert.ok(dialled instanceof TimeoutError)
  assert.equal((dialled.cause as AgentError).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
})

async function own(from: Service): Promise<Parameters<Service['authorize']>[0]> {
  await from.ready()
  const { leaf } = from
  assert.ok(leaf !== undefined)
  const { kind, ...id } = leaf.id
  return {
    ...id,
    spiffeId: leaf.uri,
    serialNumber: leaf.serialNumber,
    fingerprint256: '',
    notAfter: leaf.notAfter,
  }
}

function temporaryFolder(t: { after(fn: () => void): void }): string {
  const folder = mkdtempSync(joinPath(tmpdir(), 'consul-connect-'))
  t.after(() => {
    rmSync(folder, { recursive: true })
  })
  return folder
}
