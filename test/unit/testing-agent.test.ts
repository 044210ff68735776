import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { get } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { TestAgent, TestCa } from '../../src/testing/index.js'

const cli = fileURLToPath(new URL('../../src/testing/cli.ts', import.meta.url))
const entry = new URL('../../src/testing/index.ts', import.meta.url).href

/** Runs node with the loader of these tests. Sends SIGTERM when the output contains `stopAfter`. */
async function node(args: string[], stopAfter?: string): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, ['--import', 'tsx', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const collect = (chunk: Buffer): void => {
    output += chunk.toString()
    if (stopAfter !== undefined && output.includes(stopAfter)) child.kill('SIGTERM')
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  await once(child, 'close')
  return { code: child.exitCode, output }
}

void describe('the lifetime of the agent', () => {
  it('keeps its port and its state over a restart', async () => {
    await using agent = await TestAgent.start()
    const { address, ca } = agent
    agent.registerService({ Name: 'web', Port: 1 })
    await agent.stop()
    await assert.rejects(fetch(`${agent.url}/v1/agent/services`), TypeError)
    await agent.restart()
    assert.equal(agent.address, address)
    assert.equal(agent.ca, ca)
    assert.match(await (await fetch(`${agent.url}/v1/agent/services`)).text(), /"web"/)
  })

  it('drops its state on request, except for the trust domain and the management token', async () => {
    await using agent = await TestAgent.start({ acl: { enabled: true } })
    const { ca, trustDomain, managementToken } = agent
    agent.setIntention('a', 'b', 'deny')
    await agent.restart({ forget: true })
    assert.notEqual(agent.ca, ca)
    assert.equal(agent.trustDomain, trustDomain)
    assert.equal(agent.managementToken, managementToken)
    assert.deepEqual(await (await fetch(`${agent.url}/v1/connect/intentions`)).json(), [])
  })

  it('closes with pending requests, and a second time', async () => {
    const agent = await TestAgent.start()
    agent.pause()
    const request = fetch(`${agent.url}/v1/agent/services`)
    await agent.waitForRequests('/', 1)
    await Promise.all([agent.close(), assert.rejects(request, TypeError)])
    await agent.close()
  })

  it('rejects if the port is in use', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const address = other.address()
    const port = typeof address === 'object' && address ? address.port : 0
    await assert.rejects(TestAgent.start({ port }), { code: 'EADDRINUSE' })
    other.close()
  })

  it('leaves nothing open that keeps the process alive', async () => {
    const program = `
      import { TestAgent } from ${JSON.stringify(entry)}
      const agent = await TestAgent.start({ leafTtlMs: 60_000, dns: {} })
      const Checks = [
        { TTL: '100s', DeregisterCriticalServiceAfter: '100s' },
        { TCP: '127.0.0.1:9', Interval: '10s' },
      ]
      agent.registerService({ Name: 'web', Checks })
      const leaf = agent.url + '/v1/agent/connect/ca/leaf/web'
      const index = (await fetch(leaf)).headers.get('x-consul-index')
      const watch = fetch(leaf + '?index=' + index).catch(() => undefined)
      await agent.waitForBlocked('/v1/agent/connect/ca/leaf')
      agent.fault('/v1/kv', { delayMs: 100_000 })
      const slow = fetch(agent.url + '/v1/kv/a').catch(() => undefined)
      await agent.waitForRequests('/v1/kv', 1)
      await agent.close()
      await Promise.all([watch, slow])
      console.log('closed')
    `
    const { code, output } = await node(['--input-type=module', '--eval', program])
    assert.deepEqual({ code, output }, { code: 0, output: 'closed\n' })
  })
})

void describe('the listener of the agent', () => {
  it('listens on a Unix socket', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'consul-connect-'))
    const socketPath = join(directory, 'agent.sock')
    {
      await using agent = await TestAgent.start({ socketPath })
      assert.equal(agent.address, `unix://${socketPath}`)
      assert.equal(agent.url, agent.address)
      const request = get({ socketPath, path: '/v1/agent/self' })
      const [response] = (await once(request, 'response')) as [{ statusCode?: number }]
      assert.equal(response.statusCode, 200)
    }
    await rm(directory, { recursive: true })
  })

  it('serves TLS and requires a client certificate', async () => {
    const ca = TestCa.create()
    const server = ca.issue({ ips: ['127.0.0.1'] })
    const client = ca.issue({ service: 'client' })
    const tls = { key: server.privateKeyPem, cert: server.chainPem, ca: ca.rootPem, requestCert: true }
    await using agent = await TestAgent.start({ tls })
    const url = `${agent.url}/v1/agent/self`
    const ask = async (identity: { key?: string; cert?: string }): Promise<number | undefined> => {
      const request = httpsRequest(url, { ca: ca.rootPem, agent: false, ...identity }).end()
      const [response] = (await once(request, 'response')) as [{ statusCode?: number; resume: () => void }]
      response.resume()
      return response.statusCode
    }
    assert.match(agent.url, /^https:/)
    assert.equal(await ask({ key: client.privateKeyPem, cert: client.chainPem }), 200)
    await assert.rejects(ask({}))
  })
})

void describe('a token', () => {
  it('grants what its rules say', async () => {
    await using agent = await TestAgent.start({ acl: { enabled: true, defaultPolicy: 'deny' } })
    const web = agent.createToken({ services: { web: 'write' }, intentions: { web: 'write' } })
    const reader = agent.createToken({ services: { '*': 'read' } })
    const root = agent.createToken({ management: true })
    const leaf = async (token: string | undefined, service: string): Promise<number> => {
      const headers: Record<string, string> = token === undefined ? {} : { Authorization: `Bearer ${token}` }
      return (await fetch(`${agent.url}/v1/agent/connect/ca/leaf/${service}`, { headers })).status
    }
    assert.deepEqual(
      await Promise.all([web, reader, root, undefined, 'bad'].map((token) => leaf(token, 'web'))),
      [200, 403, 200, 403, 403],
    )
    assert.equal(await leaf(web, 'db'), 403)
    const intend = async (token: string, destination: string): Promise<number> => {
      const body = JSON.stringify({ SourceName: 'a', DestinationName: destination, Action: 'deny' })
      const url = `${agent.url}/v1/connect/intentions?token=${token}`
      return (await fetch(url, { method: 'POST', body })).status
    }
    assert.equal(await intend(web, 'web'), 200)
    assert.equal(await intend(web, 'db'), 403)
    assert.equal(await intend(reader, 'db'), 403)
    assert.equal(await intend(agent.managementToken ?? '', 'db'), 200)
  })
})

void describe('the command-line program', () => {
  it('runs an agent until SIGTERM', async () => {
    const { code, output } = await node(
      [cli, '--port', '0', '--dns-port', '0', '--default', 'deny'],
      'Ctrl-C',
    )
    assert.equal(code, 0)
    assert.match(
      output,
      /^Consul agent: http:\/\/127\.0\.0\.1:\d+ .*\nDNS: 127\.0\.0\.1:\d+\n.*for development and tests only.*\n$/,
    )
  })

  it('serves no DNS with --dns-port off', async () => {
    const { code, output } = await node([cli, '--port', '0', '--dns-port', 'off'], 'Ctrl-C')
    assert.equal(code, 0)
    assert.doesNotMatch(output, /DNS/)
  })

  it('reports a mistake in one line', async () => {
    const mistakes: Record<string, string[]> = {
      'agent: --port: expected a port from 0 to 65535, got the string "x" (see --help)\n': ['--port', 'x'],
      'agent: --dns-port: expected a port from 0 to 65535, got the number 70000 (see --help)\n': [
        '--dns-port',
        '70000',
      ],
      'agent: --default: expected allow or deny, got "maybe" (see --help)\n': ['--default', 'maybe'],
      "agent: Unknown option '--bogus' (see --help)\n": ['--bogus'],
    }
    const runs = Object.entries(mistakes).map(async ([expected, args]) => {
      assert.deepEqual(await node([cli, ...args]), { code: 1, output: expected })
    })
    await using agent = await TestAgent.start()
    const port = agent.address.split(':')[1] ?? ''
    const inUse = `agent: port ${port}: already in use; stop the program that listens on it, or set --port or --dns-port\n`
    assert.deepEqual(await node([cli, '--port', port, '--dns-port', 'off']), { code: 1, output: inUse })
    await Promise.all(runs)
  })

  it('prints its usage', async () => {
    const { code, output } = await node([cli, '--help'])
    assert.equal(code, 0)
    assert.match(output, /^Usage: /)
  })
})
