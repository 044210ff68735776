import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join as joinPath } from 'node:path'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { AgentError, IdentityError, type Service } from '../../src/index.js'
import { greet, offer, portOf, rejection } from '../fixtures/mesh.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, agentOptions, dialAndRead, joiner, nextEvent, until } from './service-mesh.js'

const managementToken = randomUUID()

test('an agent with the default policy deny', { skip }, async (t) => {
  const consul = await startConsul(t, { acl: { defaultPolicy: 'deny', managementToken } })
  const join = joiner(t, consul)
  const joinWith = (name: string, credentials: { token?: string; tokenFile?: string }): Service =>
    join(name, { agent: agentOptions(consul, credentials) })

  await t.test('rejects an unknown token', async () => {
    const token = randomUUID()
    const web = joinWith('web', { token })
    const warned = nextEvent(web, 'warning')
    const error = await rejection(web.ready({ timeoutMs: 1000 }))
    assert.ok(error instanceof IdentityError)
    assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
    assertRefused(error.cause, TOKEN_UNKNOWN, 'GET /v1/agent/connect/ca/leaf/web', token)
    const [warning] = await warned
    assertRefused(warning, TOKEN_UNKNOWN, 'GET /v1/agent/connect/ca/leaf/web', token)
    assert.doesNotMatch(inspect(error, { depth: 10 }) + inspect(web, { depth: 10 }), new RegExp(token))
  })

  await t.test('rejects requests without a token', async () => {
    const error = await rejection(join('web').ready({ timeoutMs: 1000 }))
    assertRefused(error.cause, NO_TOKEN, 'GET /v1/agent/connect/ca/leaf/web')
  })

  await t.test('rejects a token of another service', async () => {
    const token = await createToken('other')
    const web = joinWith('web', { token })
    const warned = nextEvent(web, 'warning')
    const error = await rejection(web.ready({ timeoutMs: 1000 }))
    assertRefused(error.cause, RIGHTS_REFUSED, 'GET /v1/agent/connect/ca/leaf/web', token)
    assertRefused((await warned)[0], RIGHTS_REFUSED, 'GET /v1/agent/connect/ca/leaf/web', token)
    // Calls that need a certificate fail with the same cause.
    for (const call of [() => web.dial('api', { timeoutMs: 1000 }), () => web.register({ port: 1 })]) {
      const callError = await rejection(call())
      const cause = callError instanceof AgentError ? callError : callError.cause
      assert.equal((cause as AgentError).code, 'ERR_CONNECT_AGENT_FORBIDDEN', callError.message)
    }
    assert.equal(await registered('web'), 0)
  })

  await t.test('accepts tokens with the service identity', async (t) => {
    const web = joinWith('web', { token: await createToken('web') })
    const apiToken = await createToken('api')
    const api = joinWith('api', { token: apiToken })
    const warnings: Error[] = []
    for (const each of [web, api]) each.on('warning', (error) => warnings.push(error))
    const listener = await offer(api, greet)
    await until('api is passing', () => registered('api').then((count) => count === 1))

    await t.test('and denies connections without an intention', async () => {
      const deniedNext = nextEvent(api, 'denied')
      const error = await rejection(dialAndRead(web, 'api'))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      const [denied] = await deniedNext
      assert.equal(denied.peer.service, 'web')
      assert.notEqual(denied.reason, '')
      assert.equal(denied.cause, undefined)
    })

    await t.test('and allows connections with an intention', async () => {
      await consul.consul(['intention', 'create', '-token', managementToken, '-allow', 'web', 'api'])
      const answer = await until('web is allowed', () => dialAndRead(web, 'api').catch(() => false as const))
      assert.equal(answer, 'hello web')
      assert.deepEqual(warnings, [])
    })

    await t.test('and reports that a token in use was deleted', async () => {
      const worker = joinWith('worker', { token: await createToken('worker') })
      await worker.register({ port: portOf(listener), check: { ttlMs: 1500 } })
      assert.equal(await registered('worker'), 1)
      const warned = nextEvent(
        worker,
        'warning',
        (error) => (error as NodeJS.ErrnoException).code === 'ERR_CONNECT_REGISTER',
      )
      await deleteToken('worker')
      const [{ message, cause }] = await warned
      assert.match(message, /could not be kept registered/)
      assert.equal((cause as AgentError).code, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
    })

    await t.test('and deregisters services that close', async () => {
      await api.close()
      assert.equal(await registered('api'), 0)
    })
  })

  await t.test('makes a service ready when its token file changes', async () => {
    const tokenFile = joinPath(temporaryFolder(t), 'token')
    await writeFile(tokenFile, `${randomUUID()}\n`, { mode: 0o600 })
    const late = joinWith('late', { tokenFile })
    const ready = late.ready({ timeoutMs: 20_000 })
    const [warning] = await nextEvent(late, 'warning')
    assertRefused(warning, TOKEN_UNKNOWN, 'GET /v1/agent/connect/ca/leaf/late')
    assert.throws(() => late.tlsServerOptions(), { code: 'ERR_CONNECT_NOT_READY' })
    await writeFile(tokenFile, `${await createToken('late')}\n`)
    await ready
    assert.match(late.leaf?.uri ?? '', /\/svc\/late$/)
  })

  await t.test('makes a service ready when its token gets permissions', async () => {
    const token = await createToken('other', 'promoted')
    const promoted = joinWith('promoted', { token })
    const ready = promoted.ready({ timeoutMs: 20_000 })
    await nextEvent(promoted, 'warning')
    await grant('promoted')
    await ready
    assert.match(promoted.leaf?.uri ?? '', /\/svc\/promoted$/)
  })

  await t.test('executes queries that the token cannot read, by distance or for all instances', async () => {
    const geo = joinWith('geo', { token: await createToken('geo') })
    const near = joinWith('near', { token: await createToken('near') })
    await consul.consul(['intention', 'create', '-token', managementToken, '-allow', 'near', 'geo'])
    for (const [i, node] of ['n1', 'n2', 'n3'].entries()) {
      const host = `127.0.3.${i + 1}`
      const listener = await geo.listen({ host, port: 0 }, (socket) => socket.end(node))
      const definition = { ID: node, Service: 'geo', Port: portOf(listener), Connect: { Native: true } }
      const body = { Node: node, Address: host, Service: definition }
      await asManager('/v1/catalog/register', 'PUT', body)
      const Coord = { Vec: [(3 - i) / 100, 0, 0, 0, 0, 0, 0, 0], Error: 0.1, Adjustment: 0, Height: 1e-5 }
      await asManager('/v1/coordinate/update', 'PUT', { Node: node, Segment: '', Coord })
    }
    await until('the coordinates are known', async () => {
      const known = await asManager<{ Node: string }[]>('/v1/coordinate/nodes', 'GET')
      return known.filter(({ Node }) => /^n\d$/.test(Node)).length === 3
    })
    const queries = { nearest: { Service: 'geo', Near: 'n3' }, any: { Service: 'geo' } }
    for (const [Name, definition] of Object.entries(queries)) {
      await asManager('/v1/query', 'POST', { Name, Service: definition })
    }
    await until('near is allowed', () => dialAndRead(near, { query: 'any' }).catch(() => false as const))
    const answers = async (query: string): Promise<string[]> => {
      const all = await Promise.all(Array.from({ length: 40 }, () => dialAndRead(near, { query })))
      return [...new Set(all)].sort()
    }
    assert.deepEqual(await answers('nearest'), ['n3'])
    assert.deepEqual(await answers('any'), ['n1', 'n2', 'n3'])
  })

  interface Token {
    readonly AccessorID: string
    readonly SecretID: string
  }

  /** Creates a token with the identity of a service. Returns its secret. */
  async function createToken(service: string, label = service): Promise<string> {
    const body = { Description: label, Local: true, ServiceIdentities: [{ ServiceName: service }] }
    return (await asManager<Token>('/v1/acl/token', 'PUT', body)).SecretID
  }

  async function deleteToken(label: string): Promise<void> {
    await asManager(`/v1/acl/token/${await accessor(label)}`, 'DELETE')
  }

  async function grant(label: string): Promise<void> {
    const id = await accessor(label)
    const body = { AccessorID: id, Local: true, ServiceIdentities: [{ ServiceName: label }] }
    await asManager(`/v1/acl/token/${id}`, 'PUT', body)
  }

  async function accessor(label: string): Promise<string> {
    const tokens = await asManager<(Token & { Description: string })[]>('/v1/acl/tokens', 'GET')
    return tokens.find(({ Description }) => Description === label)!.AccessorID
  }

  async function registered(name: string): Promise<number> {
    return (await asManager<unknown[]>(`/v1/health/connect/${name}`, 'GET')).length
  }

  async function asManager<T>(path: string, method: string, body?: unknown): Promise<T> {
    const headers = { 'x-consul-token': managementToken }
    return agentJson<T>(consul, path, {
      method,
      headers,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  }
})

const RIGHTS_REFUSED = [
  'ERR_CONNECT_AGENT_FORBIDDEN',
  /answered 403 "Permission denied.*"; grant \S+ on "\w+" to /,
]
const NO_TOKEN = [
  'ERR_CONNECT_AGENT_FORBIDDEN',
  /no token was sent; set agent.token to a token with \S+ on "web"/,
]
const TOKEN_UNKNOWN = ['ERR_CONNECT_AGENT_TOKEN_UNKNOWN', /answered 403 "ACL not found"/]

function assertRefused(
  error: unknown,
  [code, message]: readonly (string | RegExp)[],
  request: string,
  token?: string,
): void {
  assert.ok(error instanceof AgentError, inspect(error))
  assert.equal(error.code, code)
  assert.equal(error.status, 403)
  assert.equal(error.request, request)
  assert.match(error.message, message as RegExp)
  if (token !== undefined) assert.ok(!error.message.includes(token), 'the token is in the message')
}
