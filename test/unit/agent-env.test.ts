import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { agentOptionsFromEnv } from '../../src/agent/env.js'
import { OptionError } from '../../src/base/errors.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-env-'))
after(() => {
  rmSync(folder, { recursive: true })
})
function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
function newFolder(name: string): string {
  mkdirSync(join(folder, name))
  return join(folder, name)
}
const [ca, cert, key] = [file('ca.pem', 'the ca'), file('cert.pem', 'the cert'), file('key.pem', 'the key')]
const [empty, full] = [newFolder('empty'), newFolder('full')]
newFolder('full/nested')
file('full/a.pem', 'first')
file('full/b.pem', 'second')
newFolder('empty/nested')

describe('agentOptionsFromEnv', () => {
  const cases: [rule: string, env: Record<string, string | undefined>, options: object][] = [
    ['nothing', {}, {}],
    ['other variables are not read', { CONSUL_FORMAT: 'json', PATH: '/bin' }, {}],
    ['the address', { CONSUL_HTTP_ADDR: 'a:1' }, { address: 'a:1' }],
    ['the token', { CONSUL_HTTP_TOKEN: 't' }, { token: 't' }],
    ['the token file', { CONSUL_HTTP_TOKEN_FILE: '/f' }, { tokenFile: '/f' }],
    [
      'the token file beats the token',
      { CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '/f' },
      { tokenFile: '/f' },
    ],
    ['an empty token file does not', { CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '' }, { token: 't' }],
    ['user and password', { CONSUL_HTTP_AUTH: 'u:p' }, { auth: { username: 'u', password: 'p' } }],
    ['a password with colons', { CONSUL_HTTP_AUTH: 'u:p:q' }, { auth: { username: 'u', password: 'p:q' } }],
    ['a user alone', { CONSUL_HTTP_AUTH: 'u' }, { auth: { username: 'u', password: '' } }],
    ['an empty password', { CONSUL_HTTP_AUTH: 'u:' }, { auth: { username: 'u', password: '' } }],
    ['the namespace', { CONSUL_NAMESPACE: 'n' }, { namespace: 'n' }],
    ['the partition', { CONSUL_PARTITION: 'p' }, { partition: 'p' }],
    ['the datacenter', { CONSUL_DATACENTER: 'd' }, { datacenter: 'd' }],
    ['an authority by its file', { CONSUL_CACERT: ca }, { tls: { ca: ['the ca'] } }],
    [
      'authorities by their folder, not the folders in it',
      { CONSUL_CAPATH: full },
      { tls: { ca: ['first', 'second'] } },
    ],
    [
      'the file beats the folder',
      { CONSUL_CACERT: ca, CONSUL_CAPATH: '/nowhere' },
      { tls: { ca: ['the ca'] } },
    ],
    [
      'a client certificate and its key',
      { CONSUL_CLIENT_CERT: cert, CONSUL_CLIENT_KEY: key },
      { tls: { cert: 'the cert', key: 'the key' } },
    ],
    ['the name of the server', { CONSUL_TLS_SERVER_NAME: 's' }, { tls: { serverName: 's' } }],
  ]
  for (const [rule, env, options] of cases) {
    it(rule, () => {
      assert.deepEqual(agentOptionsFromEnv(env), options)
    })
  }

  it('an empty variable is absent', () => {
    const names = ['ADDR', 'TOKEN', 'TOKEN_FILE', 'AUTH', 'SSL', 'SSL_VERIFY'].map(
      (name) => `CONSUL_HTTP_${name}`,
    )
    const others = [
      'CACERT',
      'CAPATH',
      'CLIENT_CERT',
      'CLIENT_KEY',
      'TLS_SERVER_NAME',
      'NAMESPACE',
      'PARTITION',
      'DATACENTER',
    ]
    const env = Object.fromEntries(
      [...names, ...others.map((name) => `CONSUL_${name}`)].map((name) => [name, '']),
    )
    assert.deepEqual(agentOptionsFromEnv(env), {})
  })

  const booleans: [texts: string[], value: boolean][] = [
    [['1', 't', 'T', 'true', 'TRUE', 'True'], true],
    [['0', 'f', 'F', 'false', 'FALSE', 'False'], false],
  ]
  for (const [texts, value] of booleans) {
    it(`${texts.join(', ')} are ${value ? 'true' : 'false'}`, () => {
      for (const text of texts) {
        assert.deepEqual(agentOptionsFromEnv({ CONSUL_HTTP_SSL: text }), { ssl: value })
        assert.deepEqual(agentOptionsFromEnv({ CONSUL_HTTP_SSL_VERIFY: text }), { tls: { verify: value } })
      }
    })
  }

  it('anything else is an error, and no guess: verification is never turned off by a typing error', () => {
    for (const name of ['CONSUL_HTTP_SSL', 'CONSUL_HTTP_SSL_VERIFY']) {
      for (const text of ['no', 'yes', 'off', 'on', 'tRUE', 'false ', '2', '-1', ' ', 'null']) {
        assert.throws(
          () => agentOptionsFromEnv({ [name]: text }),
          { name: 'OptionError', option: name },
          text,
        )
      }
    }
  })

  it('a file that cannot be read is an error that names the variable and the path', () => {
    const missing = join(folder, 'missing')
    for (const name of ['CONSUL_CACERT', 'CONSUL_CAPATH', 'CONSUL_CLIENT_CERT', 'CONSUL_CLIENT_KEY']) {
      assert.throws(
        () => agentOptionsFromEnv({ [name]: missing }),
        (error) =>
          error instanceof OptionError &&
          error.option === name &&
          error.actual === JSON.stringify(missing) &&
          (error.cause as NodeJS.ErrnoException).code === 'ENOENT',
        name,
      )
    }
    assert.throws(() => agentOptionsFromEnv({ CONSUL_CACERT: folder }), OptionError)
  })

  it('a folder without a file is an error: the system would be trusted instead', () => {
    assert.throws(() => agentOptionsFromEnv({ CONSUL_CAPATH: empty }), {
      option: 'CONSUL_CAPATH',
      actual: 'an empty one',
    })
  })
})
