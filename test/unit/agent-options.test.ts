import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import type { AgentOptions, Environment } from '../../src/agent/options.js'
import { type AgentSettings, agentSettings, settingsKey } from '../../src/agent/settings.js'
import { OptionError } from '../../src/base/errors.js'
import { TestCa } from '../../src/testing/index.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-options-'))
after(() => {
  rmSync(folder, { recursive: true })
})
const ca = TestCa.create()
const [client, stranger] = [ca.issue(), ca.issue()]
const pemFile = join(folder, 'ca.pem')
writeFileSync(pemFile, ca.rootPem)

function settings(options: AgentOptions = {}, env: Environment = {}): AgentSettings {
  return agentSettings({ env, ...options })
}

function refusal(options: unknown, env: Environment = {}): OptionError {
  try {
    settings(options as AgentOptions, env)
  } catch (error) {
    assert.ok(error instanceof OptionError, `threw ${String(error)}`)
    return error
  }
  throw new Error(`accepted ${inspect(options)}`)
}

describe('agentSettings', () => {
  it('has the documented defaults', () => {
    assert.deepEqual(settings(), {
      address: { scheme: 'http', host: '127.0.0.1:8500', prefix: '', socketPath: undefined },
      dnsAddress: { host: '127.0.0.1', port: 8600 },
      token: undefined,
      tokenFile: undefined,
      auth: undefined,
      tls: {},
      namespace: undefined,
      partition: undefined,
      datacenter: undefined,
      meshGatewayService: 'mesh-gateway',
      timeoutMs: 10_000,
      maxBlockingQueries: 32,
      waitMs: 300_000,
    })
  })

  it('reads process.env unless the options contain an environment', (t) => {
    const before = process.env['CONSUL_HTTP_ADDR']
    t.after(() => {
      if (before === undefined) delete process.env['CONSUL_HTTP_ADDR']
      else process.env['CONSUL_HTTP_ADDR'] = before
    })
    process.env['CONSUL_HTTP_ADDR'] = 'from-process:1'
    assert.equal(agentSettings().address.host, 'from-process:1')
    assert.equal(settings().address.host, '127.0.0.1:8500')
  })

  const winners: [rule: string, options: AgentOptions, env: Environment, expected: Partial<AgentSettings>][] =
    [
      [
        'the address',
        { address: 'a:1' },
        { CONSUL_HTTP_ADDR: 'b:2' },
        { address: { scheme: 'http', host: 'a:1', prefix: '', socketPath: undefined } },
      ],
      ['the token', { token: 'a' }, { CONSUL_HTTP_TOKEN: 'b' }, { token: 'a', tokenFile: undefined }],
      [
        'a token over a token file',
        { token: 'a' },
        { CONSUL_HTTP_TOKEN_FILE: '/b' },
        { token: 'a', tokenFile: undefined },
      ],
      [
        'a token file over a token',
        { tokenFile: '/a' },
        { CONSUL_HTTP_TOKEN: 'b' },
        { token: undefined, tokenFile: '/a' },
      ],
      [
        'user and password',
        { auth: { username: 'a', password: '' } },
        { CONSUL_HTTP_AUTH: 'b:c' },
        { auth: { username: 'a', password: '' } },
      ],
      ['the namespace', { namespace: 'a' }, { CONSUL_NAMESPACE: 'b' }, { namespace: 'a' }],
      ['the partition', { partition: 'a' }, { CONSUL_PARTITION: 'b' }, { partition: 'a' }],
      ['the datacenter', { datacenter: 'a' }, { CONSUL_DATACENTER: 'b' }, { datacenter: 'a' }],
      [
        'tls.verify',
        { tls: { verify: true } },
        { CONSUL_HTTP_SSL_VERIFY: 'false' },
        { tls: { verify: true } },
      ],
      [
        'tls.serverName, while the CA comes from the environment',
        { tls: { serverName: 'a' } },
        { CONSUL_TLS_SERVER_NAME: 'b', CONSUL_CACERT: pemFile },
        { tls: { ca: [ca.rootPem], serverName: 'a' } },
      ],
    ]
  for (const [rule, options, env, expected] of winners) {
    it(`prefers an option to the environment: ${rule}`, () => {
      const found = settings(options, env)
      assert.deepEqual({ ...found, ...expected }, found)
    })
  }

  it('takes absent options from the environment', () => {
    const env = {
      CONSUL_HTTP_ADDR: 'unix:///run/consul.sock',
      CONSUL_HTTP_TOKEN_FILE: '/token',
      CONSUL_HTTP_AUTH: 'u:p',
      CONSUL_HTTP_SSL: 'true',
      CONSUL_CACERT: pemFile,
      CONSUL_NAMESPACE: 'n',
      CONSUL_PARTITION: 'p',
      CONSUL_DATACENTER: 'd',
    }
    assert.deepEqual(settings({}, env), {
      // TLS over a Unix socket.
      address: { scheme: 'https', host: 'localhost', prefix: '', socketPath: '/run/consul.sock' },
      dnsAddress: { host: '127.0.0.1', port: 8600 },
      token: undefined,
      tokenFile: '/token',
      auth: { username: 'u', password: 'p' },
      tls: { ca: [ca.rootPem] },
      namespace: 'n',
      partition: 'p',
      datacenter: 'd',
      meshGatewayService: 'mesh-gateway',
      timeoutMs: 10_000,
      maxBlockingQueries: 32,
      waitMs: 300_000,
    })
  })

  const dns: [address: string | undefined, dnsAddress: string | undefined, host: string, port: number][] = [
    // By default, the host of the HTTP API and port 8600.
    [undefined, undefined, '127.0.0.1', 8600],
    ['10.0.0.1', undefined, '10.0.0.1', 8600],
    ['10.0.0.1:1234', undefined, '10.0.0.1', 8600],
    ['agent.example:8501', undefined, 'agent.example', 8600],
    ['https://agent.example', undefined, 'agent.example', 8600],
    ['https://agent.example:8501/consul', undefined, 'agent.example', 8600],
    ['[::1]:8500', undefined, '::1', 8600],
    ['http://[2001:db8::7]:8500/consul', undefined, '2001:db8::7', 8600],
    ['http://[2001:db8::7]', undefined, '2001:db8::7', 8600],
    ['unix:///run/consul.sock', undefined, '127.0.0.1', 8600],
    // The option dnsAddress.
    ['10.0.0.1:1234', '10.0.0.53:53', '10.0.0.53', 53],
    ['unix:///run/consul.sock', '[::1]:8600', '::1', 8600],
    [undefined, 'dns.example:53', 'dns.example', 53],
    [undefined, '[fe80::1%eth0]:53', 'fe80::1%eth0', 53],
  ]
  for (const [address, dnsAddress, host, port] of dns) {
    it(`uses DNS at ${host} port ${port} for address ${address}, dnsAddress ${dnsAddress}`, () => {
      const found = settings({
        ...(address !== undefined && { address }),
        ...(dnsAddress !== undefined && { dnsAddress }),
      })
      assert.deepEqual(found.dnsAddress, { host, port })
    })
  }

  it('uses the host of CONSUL_HTTP_ADDR for DNS', () => {
    assert.equal(settings({}, { CONSUL_HTTP_ADDR: '10.0.0.9:80' }).dnsAddress.host, '10.0.0.9')
  })

  it('takes one or several CAs, and a client certificate with its key', () => {
    const tls = {
      ca: ca.rootPem,
      cert: client.chainPem,
      key: client.privateKeyPem,
      serverName: 's',
      verify: false,
    }
    assert.deepEqual(settings({ tls }).tls, { ...tls, ca: [ca.rootPem] })
    assert.equal(settings({ tls: { ca: [ca.rootPem, client.certificatePem] } }).tls.ca?.length, 2)
  })

  const bad: [option: string, options: unknown, env?: Environment][] = [
    ['agent.adress', { adress: 'a' }],
    ['agent.address', { address: '' }],
    ['agent.address', { address: 'ftp://a' }],
    ['CONSUL_HTTP_ADDR', {}, { CONSUL_HTTP_ADDR: 'ftp://a' }],
    ['agent.token', { token: '' }],
    ['agent.token', { token: 'two words' }],
    ['agent.token', { token: 'line\r\nX-Evil: 1' }],
    ['CONSUL_HTTP_TOKEN', {}, { CONSUL_HTTP_TOKEN: 'two words' }],
    ['agent.tokenFile', { tokenFile: '' }],
    ['agent.tokenFile', { token: 'a', tokenFile: '/b' }],
    ['agent.auth', { auth: 'u:p' }],
    ['agent.auth.username', { auth: {} }],
    ['agent.auth.username', { auth: { username: '', password: 'p' } }],
    ['agent.auth.username', { auth: { username: 'a:b', password: 'p' } }],
    ['agent.auth.password', { auth: { username: 'a' } }],
    ['CONSUL_HTTP_AUTH.username', {}, { CONSUL_HTTP_AUTH: ':p' }],
    ['agent.namespace', { namespace: 'a/b' }],
    ['agent.partition', { partition: '' }],
    ['agent.datacenter', { datacenter: '..' }],
    ['CONSUL_NAMESPACE', {}, { CONSUL_NAMESPACE: 'a/b' }],
    ['agent.timeoutMs', { timeoutMs: 0 }],
    ['agent.dnsAddress', { dnsAddress: '10.0.0.1' }],
    ['agent.dnsAddress', { dnsAddress: 8600 }],
    ['agent.tls', { tls: null }],
    ['agent.tls', { tls: [] }],
    ['agent.tls.CA', { tls: { CA: ca.rootPem } }],
    ['agent.tls.verify', { tls: { verify: 'false' } }],
    ['agent.tls.serverName', { tls: { serverName: '' } }],
    ['agent.tls.ca', { tls: { ca: '' } }],
    ['agent.tls.ca', { tls: { ca: 'none' } }],
    // With an empty list, Node.js would trust the system CAs.
    ['agent.tls.ca', { tls: { ca: [] } }],
    ['agent.tls.ca', { tls: { ca: null } }],
    ['agent.tls.ca', { tls: { ca: 5 } }],
    ['agent.tls.ca', { tls: { ca: [ca.rootPem, 'none'] } }],
    ['agent.tls.ca', { tls: { ca: [5] } }],
    ['CONSUL_CACERT or CONSUL_CAPATH', {}, { CONSUL_CACERT: fileURLToPath(import.meta.url) }],
    ['agent.tls', { tls: { cert: client.certificatePem } }],
    ['agent.tls', { tls: { key: client.privateKeyPem } }],
    ['agent.tls', {}, { CONSUL_CLIENT_CERT: pemFile }],
    ['agent.tls.cert', { tls: { cert: 'none', key: client.privateKeyPem } }],
    ['agent.tls.key', { tls: { cert: client.certificatePem, key: 'none' } }],
    ['agent.tls.key', { tls: { cert: client.certificatePem, key: stranger.privateKeyPem } }],
  ]
  for (const [option, options, env] of bad) {
    it(`refuses ${option}: ${inspect(options, { breakLength: Infinity }).slice(0, 60)} ${env === undefined ? '' : inspect(env).slice(0, 40)}`, () => {
      assert.equal(refusal(options, env).option, option)
    })
  }

  it('takes the CA from the environment when tls.ca is undefined', () => {
    const tls = { ca: undefined } as unknown as NonNullable<AgentOptions['tls']>
    assert.deepEqual(settings({ tls }, { CONSUL_CACERT: pemFile }).tls.ca, [ca.rootPem])
  })

  it('shows no token, password, or key in an error', () => {
    const encrypted = generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      privateKeyEncoding: { type: 'pkcs8', format: 'pem', cipher: 'aes-128-cbc', passphrase: 'x' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    }).privateKey
    const { certificatePem } = client
    const secrets: [secret: string, options: unknown, env?: Environment][] = [
      ['hunter2 x', { token: 'hunter2 x' }],
      ['hunter2\n', {}, { CONSUL_HTTP_TOKEN: 'hunter2\n' }],
      ['hunter2', { token: ['hunter2'] }],
      ['hunter2', { auth: { username: 'a:b', password: 'hunter2' } }],
      ['hunter2', {}, { CONSUL_HTTP_AUTH: ':hunter2' }],
      ['hunter2', { tls: { cert: certificatePem, key: 'hunter2' } }],
      [encrypted.slice(40, 80), { tls: { cert: certificatePem, key: encrypted } }],
      [stranger.privateKeyPem.slice(40, 80), { tls: { cert: certificatePem, key: stranger.privateKeyPem } }],
    ]
    for (const [secret, options, env] of secrets) {
      const shown = inspect(refusal(options, env), { depth: 9, showHidden: true })
      assert.ok(!shown.includes(secret.trim()), shown)
    }
  })
})

describe('settingsKey', () => {
  const base = settings({ address: 'a:1', token: 't' })

  it('is equal for equal settings', () => {
    assert.equal(settingsKey(base), settingsKey(settings({ token: 't', address: 'http://a:1' })))
  })

  const variants: AgentOptions[] = [
    { address: 'b:1' },
    { address: 'https://a:1' },
    { address: 'a:1/prefix' },
    { address: 'unix:///a:1' },
    { token: 'u' },
    { tokenFile: 't' },
    { auth: { username: 'u', password: 'p' } },
    { namespace: 'n' },
    { partition: 'n' },
    { datacenter: 'n' },
    { timeoutMs: 5 },
    { dnsAddress: 'a:1' },
    { tls: { verify: false } },
    { tls: { ca: ca.rootPem } },
    { tls: { serverName: 's' } },
    { tls: { cert: client.certificatePem, key: client.privateKeyPem } },
  ]
  it('differs for every option that decides what the agent sees', () => {
    const keys = variants.map((options) => {
      const { tokenFile, ...rest } = options
      return settingsKey(
        settings({ address: 'a:1', ...(tokenFile === undefined ? { token: 't' } : { tokenFile }), ...rest }),
      )
    })
    assert.equal(new Set([settingsKey(base), ...keys]).size, variants.length + 1)
  })
})
