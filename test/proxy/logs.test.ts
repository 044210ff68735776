import assert from 'node:assert/strict'
import { type Server, createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { AgentLogLevel } from '../../examples/proxy/src/agent-log-level.js'
import type { LogLevel } from '../../examples/proxy/src/log.js'
import { WAIT_MS, readAll, startMesh } from '../fixtures/mesh.js'
import { echo, localConnect, nextData, spawnProxy, startApplication, startPair } from './connect-proxy.js'

describe('the log of a sidecar', () => {
  it('shows service discovery, certificates, and the ground of each decision at debug', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const { inbound, outbound, port, publicPort } = await startPair(t, agent.address, application.port)
    const socket = localConnect(t, port)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
    const found = await outbound.logged('service discovery')
    assert.deepEqual([found['upstream'], found['addresses']], ['api', [`127.0.0.1:${publicPort}`]])
    const decided = await inbound.logged('authorization')
    assert.deepEqual([decided['service'], decided['authorized'], decided['basis']], ['api', true, 'default'])
    assert.match(String(decided['peer']), /^spiffe:.*\/svc\/web$/)
    assert.match(String(decided['reason']), /./)
    const certificate = await inbound.logged(({ msg, uri }) => msg === 'certificate' && uri !== undefined)
    assert.match(String(certificate['serial']), /^[0-9a-f:]+$/)
    agent.setIntention('web', 'api', 'deny')
    await assert.rejects(readAll(socket))
    const denied = localConnect(t, port)
    denied.write('x')
    await inbound.logged(
      ({ msg, authorized, basis }) =>
        msg === 'authorization' && authorized === false && basis === 'intention',
    )
    const steps = ['agent request', 'dial', 'inbound handshake']
    assert.equal(
      [...inbound.lines, ...outbound.lines].some(({ msg }) => steps.includes(msg)),
      false,
    )
  })

  it('shows every step at trace', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const trace = ['-log-level', 'trace']
    const pair = await startPair(t, agent.address, application.port, { inbound: trace, outbound: trace })
    const socket = localConnect(t, pair.port)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
    await pair.outbound.logged('dial')
    await pair.outbound.logged('agent request')
    await pair.inbound.logged('inbound handshake')
  })
})

/** An agent whose answer about itself is `answer`. */
async function startAgent(t: TestContext, answer: () => { status: number; body: object }): Promise<string> {
  const server: Server = createServer((request, response) => {
    const { status, body } = request.url === '/v1/agent/self' ? answer() : { status: 404, body: {} }
    response.writeHead(status).end(JSON.stringify(body))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

describe('the log level of the agent', () => {
  it('is followed, in each form that agents report it in', async (t) => {
    const answers: [answer: { status: number; body: object }, level: LogLevel][] = [
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'DEBUG' } } } }, 'debug'],
      [{ status: 200, body: { DebugConfig: { LogLevel: 'ERR' } } }, 'error'],
      // An agent that is away, or answers nonsense, changes nothing.
      [{ status: 500, body: {} }, 'error'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'WARN' } } } }, 'warn'],
      [{ status: 403, body: {} }, 'info'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'TRACE' } } } }, 'trace'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'loud' } } } }, 'info'],
    ]
    let asked = 0
    const over = new AbortController()
    const address = await startAgent(t, () => {
      const [answer] = answers[Math.min(asked, answers.length - 1)]!
      asked += 1
      if (asked > answers.length) over.abort()
      return answer
    })
    const levels: LogLevel[] = []
    const following = new AgentLogLevel({ address, env: {} }, (level) => levels.push(level), 1)
    await once(over.signal, 'abort', { signal: AbortSignal.timeout(WAIT_MS) })
    await following.close()
    assert.deepEqual(levels, ['debug', 'error', 'warn', 'info', 'trace', 'info'])
  })

  it('applies to a sidecar without -log-level only', async (t) => {
    const body = { DebugConfig: { Logging: { LogLevel: 'DEBUG' } } }
    const address = await startAgent(t, () => ({ status: 200, body }))
    const flags = ['-service', 'web', '-http-addr', address, '-log-json']
    const proxy = spawnProxy(t, flags)
    assert.equal((await proxy.logged('log level set from the agent'))['level'], 'debug')
    const other = spawnProxy(t, [...flags, '-log-level', 'info'])
    await other.logged('configuration applied')
    await other.stop()
    assert.equal(
      other.lines.some(({ msg }) => msg === 'log level set from the agent'),
      false,
    )
  })
})

describe('the command line of a sidecar', () => {
  for (const [flags, expected, code] of [
    [['-version'], /^connect-proxy v\d+\.\d+\.\d+\n$/, 0],
    [['-h'], /^Usage: connect-proxy \[flags\]/, 0],
    [['-x'], /^connect-proxy: unknown flag: -x \(see -help\)\n$/, 1],
  ] as const) {
    it(`answers ${flags.join(' ')}`, async (t) => {
      const proxy = spawnProxy(t, flags)
      assert.equal(await proxy.ended(), code)
      assert.match(proxy.text, expected)
    })
  }
})
