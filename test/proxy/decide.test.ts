import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { WAIT_MS } from '../fixtures/mesh.js'

async function ruled(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start({ version: '1.15', defaultPolicy: 'deny' })
  t.after(() => agent.close())
  agent.setIntention('web', 'api', [
    { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
    { Action: 'allow', HTTP: { PathPrefix: '/', Methods: ['GET'] } },
    { Action: 'allow', HTTP: { Header: [{ Name: 'x-role', Exact: 'editor' }] } },
  ])
  agent.setIntention('jobs', 'api', 'allow')
  const body = JSON.stringify({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  await fetch(`${agent.url}/v1/config`, { method: 'PUT', body })
  return agent
}

const bin = join(import.meta.dirname, '..', '..', 'examples', 'proxy', 'bin.js')

/** Runs the command. */
function decide(
  agent: TestAgent,
  ...args: string[]
): Promise<{ readonly code: unknown; readonly out: string; readonly error: string }> {
  const all = [bin, 'decide', '-http-addr', agent.address, ...args]
  return new Promise((resolve) => {
    execFile(process.execPath, all, { env: {}, timeout: WAIT_MS }, (failure, out, error) => {
      resolve({ code: failure === null ? 0 : failure.code, out, error })
    })
  })
}

describe('connect-proxy decide', () => {
  it('says what is decided about a request, and why', async (t) => {
    const agent = await ruled(t)
    const ends = ['-service', 'api', '-source', 'web']
    const cases: [args: string[], code: number, out: RegExp][] = [
      [['/x'], 0, /^allowed: allowed by permission 2 of intention default\/web => default\/api\n$/],
      [['/admin'], 2, /^denied: denied by permission 1 of intention default\/web => default\/api\n$/],
      [['/x/../admin?y'], 2, /^denied: .*permission 1 .*\nthe rules see the path \/admin\?y\n$/],
      [
        ['-method', 'POST', '/x'],
        2,
        /^denied: no permission of intention .* the default policy denies it\n$/,
      ],
      [['-method=POST', '-header', 'X-Role: editor', '/x'], 0, /^allowed: allowed by permission 3 /],
      [[], 2, /^denied: intention default\/web => default\/api has permissions/],
    ]
    for (const [args, code, out] of cases) {
      const found = await decide(agent, ...ends, ...args)
      assert.deepEqual([found.code, found.error], [code, ''], args.join(' '))
      assert.match(found.out, out)
    }
  })

  it('says what is decided about a source without permissions', async (t) => {
    const agent = await ruled(t)
    const found = await decide(agent, '-service', 'api', '-source', 'jobs', '-method', 'POST', '/admin')
    assert.deepEqual(found, {
      code: 0,
      out: 'allowed: allowed by intention default/jobs => default/api\n',
      error: '',
    })
  })

  const mistakes: [args: string[], message: RegExp][] = [
    [['-source', 'web', '/x'], /^connect-proxy decide: -service: the name of the destination is missing\n$/],
    [['-service', 'api', '/x'], /-source: the name of the service that connects is missing/],
    [['-service', 'api', '-source', 'web', '/x', '/y'], /expected one path, got "\/x \/y"/],
    [['-service', 'api', '-source', 'web', '-method', 'GET'], /a path is missing/],
    [['-service', 'api', '-source', 'web', '-header', 'x', '/x'], /-header: expected 'NAME: VALUE', got "x"/],
    [['-service', 'api', '-source', '', '/x'], /-source: the name/],
    [['-bogus'], /unknown flag: -bogus/],
  ]
  it('explains mistakes', async (t) => {
    const agent = await ruled(t)
    for (const [args, message] of mistakes) {
      const { code, out, error } = await decide(agent, ...args)
      assert.deepEqual([code, out], [1, ''], args.join(' '))
      assert.match(error, message)
    }
  })

  it('prints its help', async (t) => {
    const agent = await ruled(t)
    const { code, out } = await decide(agent, '-help')
    assert.equal(code, 0)
    assert.match(out, /^Usage: connect-proxy decide -service NAME -source NAME/)
  })
})
