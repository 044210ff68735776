// The settings of the sidecar from flags, the environment, and a configuration file.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { type Settings, readSettings } from '../../examples/proxy/src/cli/settings.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-settings-'))
after(() => {
  rmSync(folder, { recursive: true })
})
let files = 0

/** Writes a configuration file of text or JSON, and returns its path. */
function file(content: unknown): string {
  const path = join(folder, `${(files += 1)}.json`)
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

/** The configuration in settings from flags or a file. */
function configOf({ source }: Settings) {
  assert.ok(source.kind === 'static')
  return source.config
}

/** The registered proxy in settings that name one. */
function selectorOf({ source }: Settings) {
  assert.ok(source.kind === 'agent')
  return source.selector
}

describe('settings: flags', () => {
  it('are compatible with `consul connect proxy`', () => {
    const settings = readSettings(
      [
        ...['-service', 'web', '-service-addr', '127.0.0.1:8080', '-listen', ':8443'],
        ...['-upstream', 'db:5432', '-register', '-register-id', 'a'],
      ],
      {},
    )
    const { service, listener, upstreams } = configOf(settings)
    assert.equal(service, 'web')
    assert.deepEqual(
      [listener?.host, listener?.port, listener?.application],
      ['0.0.0.0', 8443, { host: '127.0.0.1', port: 8080 }],
    )
    assert.deepEqual(upstreams[0]?.bind, { host: '127.0.0.1', port: 5432 })
    assert.deepEqual(settings.registration, { idSuffix: 'a' })
    assert.deepEqual(settings.log, { level: undefined, json: false })
    assert.deepEqual([settings.admin, settings.workers, settings.warnings], [undefined, 1, []])
  })

  it('accept one dash or two, and values after an equals sign', () => {
    const settings = readSettings(
      ['--service=web', '--upstream=db:5432', '-log-json=true', '--log-level', 'DEBUG'],
      {},
    )
    assert.equal(configOf(settings).upstreams.length, 1)
    assert.deepEqual(settings.log, { level: 'debug', json: true })
    assert.equal(readSettings(['-service=web', '-log-json=false'], {}).log.json, false)
    assert.equal(readSettings(['-service', 'web', '-log-level', 'ERR'], {}).log.level, 'error')
  })

  const upstreams: [text: string, target: object, bind: object][] = [
    ['db:5432', { service: 'db' }, { host: '127.0.0.1', port: 5432 }],
    ['db.service:5432', { service: 'db' }, { host: '127.0.0.1', port: 5432 }],
    ['nearest-db.query:5432', { query: 'nearest-db' }, { host: '127.0.0.1', port: 5432 }],
    ['db.v2:5432', { service: 'db.v2' }, { host: '127.0.0.1', port: 5432 }],
    ['db:127.0.0.9:5432', { service: 'db' }, { host: '127.0.0.9', port: 5432 }],
    ['db:[::1]:5432', { service: 'db' }, { host: '::1', port: 5432 }],
    ['db:/run/db.sock', { service: 'db' }, { path: '/run/db.sock' }],
    ['db:unix:///run/db.sock', { service: 'db' }, { path: '/run/db.sock' }],
    ['.query:5432', { service: '.query' }, { host: '127.0.0.1', port: 5432 }],
    [
      'db:5432?tag=primary&tag=v2&near=_agent&filter=Service.Meta.v+%3D%3D+2',
      { service: 'db', tags: ['primary', 'v2'], near: '_agent', filter: 'Service.Meta.v == 2' },
      { host: '127.0.0.1', port: 5432 },
    ],
    [
      'db:/run/db.sock?filter=Node.Meta.rack == "7"',
      { service: 'db', filter: 'Node.Meta.rack == "7"' },
      { path: '/run/db.sock' },
    ],
    ['db.query:5432?near=node-1', { query: 'db', near: 'node-1' }, { host: '127.0.0.1', port: 5432 }],
  ]
  for (const [text, target, bind] of upstreams) {
    it(`accept -upstream ${text}`, () => {
      const [upstream] = configOf(readSettings(['-service', 'web', '-upstream', text], {})).upstreams
      assert.deepEqual(JSON.parse(JSON.stringify(upstream?.destination)), target)
      assert.deepEqual(upstream?.bind, bind)
    })
  }

  const applications: [text: string, application: object][] = [
    ['127.0.0.1:80', { host: '127.0.0.1', port: 80 }],
    [':80', { host: '127.0.0.1', port: 80 }],
    ['80', { host: '127.0.0.1', port: 80 }],
    ['[::1]:80', { host: '::1', port: 80 }],
    ['/run/app.sock', { path: '/run/app.sock' }],
    ['unix:///run/app.sock', { path: '/run/app.sock' }],
  ]
  for (const [text, application] of applications) {
    it(`accept -service-addr ${text}`, () => {
      const settings = readSettings(['-service', 'web', '-listen', ':8443', '-service-addr', text], {})
      assert.deepEqual(configOf(settings).listener?.application, application)
    })
  }

  it('without effect produce a warning', () => {
    const { warnings } = readSettings(['-service', 'web', '-pprof-addr', ':6060', '-stale'], {})
    assert.deepEqual(warnings, [
      '-stale: ignored',
      '-pprof-addr: ignored; set NODE_OPTIONS=--inspect to profile the proxy',
    ])
  })

  it('select a proxy that is registered with the agent', () => {
    assert.deepEqual(selectorOf(readSettings(['-proxy-id', 'a'], {})), { proxyId: 'a' })
    assert.deepEqual(selectorOf(readSettings(['-sidecar-for', 'a'], {})), { sidecarFor: 'a' })
  })

  it('-admin-addr defaults to loopback', () => {
    const admin = (text: string) => readSettings(['-service', 'web', '-admin-addr', text], {}).admin
    assert.deepEqual(admin(':9000'), { host: '127.0.0.1', port: 9000 })
    assert.deepEqual(admin('9000'), { host: '127.0.0.1', port: 9000 })
    assert.deepEqual(admin('0.0.0.0:9000'), { host: '0.0.0.0', port: 9000 })
  })

  it('-workers accepts a number, or auto for one per core', () => {
    assert.equal(
      readSettings(['-service', 'web', '-workers', 'auto'], {}).workers,
      Math.min(64, availableParallelism()),
    )
    assert.equal(readSettings(['-service', 'web', '-workers', '3'], {}).workers, 3)
  })
})

describe('settings: environment', () => {
  it('selects a registered proxy, unless a flag selects one', () => {
    assert.deepEqual(selectorOf(readSettings([], { CONNECT_PROXY_ID: 'a' })), { proxyId: 'a' })
    assert.deepEqual(selectorOf(readSettings([], { CONNECT_SIDECAR_FOR: 'a', CONNECT_PROXY_ID: '' })), {
      sidecarFor: 'a',
    })
    assert.deepEqual(selectorOf(readSettings(['-proxy-id', 'b'], { CONNECT_SIDECAR_FOR: 'a' })), {
      proxyId: 'b',
    })
    assert.equal(configOf(readSettings(['-service', 'web'], { CONNECT_PROXY_ID: 'a' })).service, 'web')
  })

  const environments: [
    name: string,
    flags: string[],
    env: Record<string, string>,
    expected: Record<string, string | undefined>,
  ][] = [
    [
      'the variables of Consul',
      [],
      { CONSUL_HTTP_ADDR: 'a:1', CONSUL_HTTP_TOKEN: 't' },
      { CONSUL_HTTP_ADDR: 'a:1', CONSUL_HTTP_TOKEN: 't' },
    ],
    [
      'flags over variables',
      ['-http-addr', 'b:1', '-datacenter', 'dc2'],
      { CONSUL_HTTP_ADDR: 'a:1' },
      { CONSUL_HTTP_ADDR: 'b:1', CONSUL_DATACENTER: 'dc2' },
    ],
    [
      'CONNECT_PROXY_TOKEN over other tokens',
      [],
      { CONNECT_PROXY_TOKEN: 'p', CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '/f' },
      { CONSUL_HTTP_TOKEN: 'p', CONSUL_HTTP_TOKEN_FILE: undefined },
    ],
    [
      '-token-file over CONNECT_PROXY_TOKEN',
      ['-token-file', '/g'],
      { CONNECT_PROXY_TOKEN: 'p' },
      { CONSUL_HTTP_TOKEN_FILE: '/g' },
    ],
    [
      '-token over CONSUL_HTTP_TOKEN_FILE',
      ['-token', 'x'],
      { CONSUL_HTTP_TOKEN_FILE: '/f' },
      { CONSUL_HTTP_TOKEN: 'x', CONSUL_HTTP_TOKEN_FILE: undefined },
    ],
    [
      'the flags of HTTPS',
      ['-ca-file', 'a', '-ca-path', 'b', '-client-cert', 'c', '-client-key', 'd', '-tls-server-name', 'e'],
      {},
      {
        CONSUL_CACERT: 'a',
        CONSUL_CAPATH: 'b',
        CONSUL_CLIENT_CERT: 'c',
        CONSUL_CLIENT_KEY: 'd',
        CONSUL_TLS_SERVER_NAME: 'e',
      },
    ],
  ]
  for (const [name, flags, env, expected] of environments) {
    it(`configures the connection to the agent: ${name}`, () => {
      const { agent } = readSettings(['-service', 'web', ...flags], env)
      for (const [key, value] of Object.entries(expected)) assert.equal(agent.env?.[key], value, key)
    })
  }

  it('is recommended for a token in place of the command line', () => {
    const { warnings } = readSettings(['-service', 'web', '-token', 'secret-7'], {})
    assert.deepEqual(warnings, ['-token: visible in the process list; use -token-file or CONSUL_HTTP_TOKEN'])
  })
})

describe('settings: a file', () => {
  it('contains the configuration of the proxy, and values of flags', () => {
    const path = file({
      service: 'web',
      bind_port: 8443,
      local_service_port: 8080,
      upstreams: [{ destination_name: 'db', local_bind_port: 5432 }],
      register: true,
      register_id: 'a',
      admin_addr: ':9000',
      workers: 2,
      log_level: 'warn',
      http_addr: '10.0.0.1:8500',
    })
    const settings = readSettings(['-config-file', path], {})
    assert.equal(configOf(settings).upstreams.length, 1)
    assert.deepEqual(settings.registration, { idSuffix: 'a' })
    assert.deepEqual([settings.admin?.port, settings.workers, settings.log.level], [9000, 2, 'warn'])
    assert.equal(settings.agent.env?.['CONSUL_HTTP_ADDR'], '10.0.0.1:8500')
  })

  it('yields to flags', () => {
    const path = file({ service: 'web', bind_port: 8443, local_service_port: 8080, log_level: 'warn' })
    const settings = readSettings(
      ['-config-file', path, '-listen', '127.0.0.1:9443', '-log-level', 'info'],
      {},
    )
    const { listener } = configOf(settings)
    assert.deepEqual([listener?.host, listener?.port, settings.log.level], ['127.0.0.1', 9443, 'info'])
  })

  it('may select a registered proxy', () => {
    assert.deepEqual(selectorOf(readSettings(['-config-file', file({ proxy_id: 'a' })], {})), {
      proxyId: 'a',
    })
  })
})

describe('settings: errors', () => {
  const commandLines: [flags: string, message: RegExp][] = [
    ['', /^no configuration: expected -sidecar-for, -proxy-id, -service, or -config-file \(see -help\)$/],
    ['-servcie web', /^unknown flag: -servcie \(see -help\)$/],
    ['web', /^Unexpected argument 'web'/],
    ['-service', /argument missing/],
    ['-service web -log-json=maybe', /^-log-json: expected true or false, got "maybe"$/],
    ['-proxy-id a -sidecar-for b', /^-proxy-id, -sidecar-for: set only one of them$/],
    ['-proxy-id=', /^-proxy-id, -sidecar-for: expected an ID, got ""$/],
    [
      '-proxy-id a -upstream db:1',
      /^upstreams: not allowed with -proxy-id or -sidecar-for; the agent has the configuration of a$/,
    ],
    ['-sidecar-for a -service web', /^service: not allowed with -proxy-id or -sidecar-for; /],
    ['-service web -listen :1', /^-listen: expected -service-addr as well/],
    ['-service web -listen x', /^-listen: expected \[HOST:\]PORT with a port from 1 to 65535, got "x"$/],
    [
      '-service web -service-addr 127.0.0.1:8080 -listen :0',
      /^-listen: expected \[HOST:\]PORT .*, got ":0"$/,
    ],
    ['-service web -service-addr h:', /^-service-addr: expected .*, got "h:"$/],
    [
      '-service web -upstream db',
      /^-upstream: expected NAME\[\.service\|\.query\]:\[HOST:\]PORT\[\?.*\], got "db"$/,
    ],
    ['-service web -upstream db:70000', /^-upstream: expected .*, got "70000"$/],
    [
      '-service web -upstream db:1?tags=a',
      /^-upstream: unknown parameter "tags"; expected one of tag, near, filter$/,
    ],
    ['-service web -upstream db:1?near=a&near=b', /^-upstream: expected near once; it is repeated$/],
    ['-service web -upstream db:1?tag=', /^-upstream: expected a value for tag, got ""$/],
    [
      '-service web -upstream db.query:1?tag=a',
      /^upstreams\[0\]\.tags: expected destination_type service, got prepared_query$/,
    ],
    ['-service a/b', /^service: expected a Consul name .*, got the string "a\/b"$/],
    ['-service web -register', /^-register: expected -listen as well/],
    ['-proxy-id a -register', /^-register: not allowed with -proxy-id or -sidecar-for; /],
    ['-service web -register-id a', /^-register-id: expected -register as well$/],
    [
      '-service web -log-level loud',
      /^-log-level: expected one of trace, debug, info, warn, error, got "loud"$/,
    ],
    ['-service web -workers 0', /^-workers: expected auto or a number from 1 to 64, got "0"$/],
    ['-service web -workers many', /^-workers: expected auto/],
    [
      '-service web -ecdh-curve X25518',
      /^-ecdh-curve: expected groups supported by OpenSSL, such as X25519:P-256, got "X25518"$/,
    ],
    ['-service web -ecdh-curve=', /^-ecdh-curve: expected groups/],
    ['-service web -admin-addr x', /^-admin-addr: expected \[HOST:\]PORT/],
    [
      '-service web -token a -token-file b',
      /^-token, -token-file: set only one of them; -token-file is safer$/,
    ],
    ['-config-file /nowhere', /^-config-file: cannot read \/nowhere \(ENOENT\)$/],
  ]
  for (const [flags, message] of commandLines) {
    it(`rejects the command line "${flags}"`, () => {
      expectError(flags.split(' ').filter(Boolean), message)
    })
  }

  const contents: [content: unknown, message: RegExp][] = [
    [
      { service: 'web', upstreams: [{ destination_name: 'db', local_bind_port: 1, tag: ['a'] }] },
      /^upstreams\[0\]\.tag: expected one of tags, filter, near, got an unknown key$/,
    ],
    ['[]', /^.*json: expected a JSON object, got an array$/],
    ['{"service":\n  "web",\n}', /^.*\.json(:3:1)?: invalid JSON; expected a JSON object$/],
    [{ service: 'web', token: 's' }, /^token: not allowed in a configuration file; use token_file$/],
    [{ service: 'web', log_json: 'yes' }, /^log_json: expected a boolean, got "yes"$/],
    [{ proxy_id: 7 }, /^proxy_id: expected a string, got 7$/],
    [{ service: 'web', bind_port: 'x' }, /^bind_port: expected a port from 0 to 65535, got the string "x"$/],
  ]
  for (const [content, message] of contents) {
    it(`rejects a file with ${JSON.stringify(content)}`, () => {
      expectError(['-config-file', file(content)], message)
    })
  }

  it('do not contain the text of an invalid file', () => {
    const path = file('{"service": "web", "token_file": secret-7')
    assert.throws(
      () => readSettings(['-config-file', path], {}),
      (error: Error) => !error.message.includes('secret-7') && error.cause === undefined,
    )
  })
})

function expectError(args: string[], message: RegExp): void {
  assert.throws(
    () => readSettings(args, {}),
    (error: Error) => {
      assert.match(error.message, message)
      assert.match(error.name, /^(UsageError|OptionError)$/)
      return true
    },
  )
}
