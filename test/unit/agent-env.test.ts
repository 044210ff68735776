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
    ['returns nothing for an empty environment', {}, {}],
    ['ignores other variables', { CONSUL_FORMAT: 'json', PATH: '/bin' }, {}],
    ['reads the address', { CONSUL_HTTP_ADDR: 'a:1' }, { address: 'a:1' }],
    ['reads the token', { CONSUL_HTTP_TOKEN: 't' }, { token: 't' }],
    ['reads the path of the token file', { CONSUL_HTTP_TOKEN_FILE: '/f' }, { tokenFile: '/f' }],
    [
      'prefers the token file to the token',
      { CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '/f' },
      { tokenFile: '/f' },
    ],
    [
      'reads the token beside an empty token file',
      { CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '' },
      { token: 't' },
    ],
    ['reads user and password', { CONSUL_HTTP_AUTH: 'u:p' }, { auth: { username: 'u', password: 'p' } }],
    [
      'reads a password with colons',
      { CONSUL_HTTP_AUTH: 'u:p:q' },
      { auth: { username: 'u', password: 'p:q' } },
    ],
    ['reads a user without a password', { CONSUL_HTTP_AUTH: 'u' }, { auth: { username: 'u', password: '' } }],
    ['reads an empty password', { CONSUL_HTTP_AUTH: 'u:' }, { auth: { username: 'u', password: '' } }],
    ['reads the namespace', { CONSUL_NAMESPACE: 'n' }, { namespace: 'n' }],
    ['reads the partition', { CONSUL_PARTITION: 'p' }, { partition: 'p' }],
    ['reads the datacenter', { CONSUL_DATACENTER: 'd' }, { datacenter: 'd' }],
    ['reads the CA file', { CONSUL_CACERT: ca }, { tls: { ca: ['the ca'] } }],
    [
      'reads the files of the CA directory, without subdirectories',
      { CONSUL_CAPATH: full },
      { tls: { ca: ['first', 'second'] } },
    ],
    [
      'prefers the CA file to the CA directory',
      { CONSUL_CACERT: ca, CONSUL_CAPATH: '/nowhere' },
      { tls: { ca: ['the ca'] } },
    ],
    [
      'reads the client certificate and its key',
      { CONSUL_CLIENT_CERT: cert, CONSUL_CLIENT_KEY: key },
      { tls: { cert: 'the cert', key: 'the key' } },
    ],
    ['reads the server name', { CONSUL_TLS_SERVER_NAME: 's' }, { tls: { serverName: 's' } }],
  ]
  for (const [rule, env, options] of cases) {
    it(rule, () => {
      assert.deepEqual(agentOptionsFromEnv(env), options)
    })
  }

  it('treats an empty variable as absent', () => {
    const names =
      'HTTP_ADDR HTTP_TOKEN HTTP_TOKEN_FILE HTTP_AUTH HTTP_SSL HTTP_SSL_VERIFY CACERT CAPATH CLIENT_CERT ' +
      'CLIENT_KEY TLS_SERVER_NAME NAMESPACE PARTITION DATACENTER'
    const env = Object.fromEntries(names.split(' ').map((name) => [`CONSUL_${name}`, '']))
    assert.deepEqual(agentOptionsFromEnv(env), {})
  })

  const booleans: [texts: string[], value: boolean][] = [
    [['1', 't', 'T', 'true', 'TRUE', 'True'], true],
    [['0', 'f', 'F', 'false', 'FALSE', 'False'], false],
  ]
  for (const [texts, value] of booleans) {
    it(`reads ${texts.join(', ')} as ${value ? 'true' : 'false'}`, () => {
      for (const text of texts) {
        assert.deepEqual(agentOptionsFromEnv({ CONSUL_HTTP_SSL: text }), { ssl: value })
        assert.deepEqual(agentOptionsFromEnv({ CONSUL_HTTP_SSL_VERIFY: text }), { tls: { verify: value } })
      }
    })
  }

  it('rejects every other boolean, so that a typing error does not turn off verification', () => {
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

  it('names the variable and the path in the error for an unreadable file', () => {
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

  it('rejects a CA directory without files, because Node.js would trust the system CAs instead', () => {
    assert.throws(() => agentOptionsFromEnv({ CONSUL_CAPATH: empty }), {
      option: 'CONSUL_CAPATH',
      actual: 'an empty one',
    })
  })
})
