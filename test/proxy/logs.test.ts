import assert from 'node:assert/strict'
import { type Server, createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { AgentLogLevel } from '../../examples/proxy/src/operator/agent-log-level.js'
import type { LogLevel } from '../../examples/proxy/src/operator/log.js'
import { WAIT_MS, readAll } from '../fixtures/mesh.js'
import { connectEcho, localConnect, spawnProxy, startEchoPair } from './connect-proxy.js'

describe('the log of a sidecar', () => {
  it('shows service discovery, certificates, and the basis of decisions at level debug', async (t) => {
    const { agent, inbound, outbound, port, publicPort } = await startEchoPair(t)
    const socket = await connectEcho(t, port)
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
    localConnect(t, port).write('x')
    await inbound.logged(
      ({ msg, authorized, basis }) =>
        msg === 'authorization' && authorized === false && basis === 'intention',
    )
    const traceMessages = ['agent request', 'dial', 'inbound handshake']
    assert.equal(
      [...inbound.lines, ...outbound.lines].some(({ msg }) => traceMessages.includes(msg)),
      false,
    )
  })

  it('shows agent requests, dials, and handshakes at level trace', async (t) => {
    const trace = ['-log-level', 'trace']
    const pair = await startEchoPair(t, { inbound: trace, outbound: trace })
    await connectEcho(t, pair.port)
    await pair.outbound.logged('dial')
    await pair.outbound.logged('agent request')
    await pair.inbound.logged('inbound handshake')
  })
})

/** Starts a server that answers `/v1/agent/self` with `answer`. */
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
  it('is applied in every form that agents report it in', async (t) => {
    const answers: [answer: { status: number; body: object }, level: LogLevel][] = [
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'DEBUG' } } } }, 'debug'],
      [{ status: 200, body: { DebugConfig: { LogLevel: 'ERR' } } }, 'error'],
      // The level stays when the agent fails.
      [{ status: 500, body: {} }, 'error'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'WARN' } } } }, 'warn'],
      [{ status: 403, body: {} }, 'info'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'TRACE' } } } }, 'trace'],
      [{ status: 200, body: { DebugConfig: { Logging: { LogLevel: 'loud' } } } }, 'info'],
    ]
    let requests = 0
    const done = new AbortController()
    const address = await startAgent(t, () => {
      const [answer] = answers[Math.min(requests, answers.length - 1)]!
      requests += 1
      if (requests > answers.length) done.abort()
      return answer
    })
    const levels: LogLevel[] = []
    const following = new AgentLogLevel({ address, env: {} }, (level) => levels.push(level), 1)
    await once(done.signal, 'abort', { signal: AbortSignal.timeout(WAIT_MS) })
    await following.close()
    assert.deepEqual(levels, ['debug', 'error', 'warn', 'info', 'trace', 'info'])
  })

  it('applies only to a sidecar without -log-level', async (t) => {
    const body = { DebugConfig: { Logging: { LogLevel: 'DEBUG' } } }
    const address = await startAgent(t, () => ({ status: 200, body }))
    const flags = ['-service', 'web', '-http-addr', address, '-log-json']
    const proxy = spawnProxy(t, flags)
    assert.equal((await proxy.logged('log level set from the agent'))['level'], 'debug')
    const fixed = spawnProxy(t, [...flags, '-log-level', 'info'])
    await fixed.logged('configuration applied')
    await fixed.stop()
    assert.equal(
      fixed.lines.some(({ msg }) => msg === 'log level set from the agent'),
      false,
    )
  })
})

describe('the command line of a sidecar', () => {
  for (const [flags, expected, code] of [
    [['-version'], /^connect-proxy v\d+\.\d+\.\d+\n$/, 0],
    [['-help'], /^Usage: connect-proxy \[flags\]\n/, 0],
    [['-h'], /^Usage: connect-proxy \[flags\]\n/, 0],
    [
      ['-service', 'web', '-upstream', 'db'],
      /^connect-proxy: -upstream: expected NAME\[\.service\|\.query\]:\[HOST:\]PORT\[\?tag=TAG&near=NODE&filter=EXPRESSION\], got "db"\n$/,
      1,
    ],
  ] as const) {
    it(`prints one text for ${flags.join(' ')}, and exits with code ${code}`, async (t) => {
      const proxy = spawnProxy(t, flags)
      assert.equal(await proxy.ended(), code)
      assert.match(proxy.text, expected)
    })
  }
})
