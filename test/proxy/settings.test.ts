import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { type Settings, readSettings } from '../../examples/proxy/src/settings.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-settings-'))
after(() => {
  rmSync(folder, { recursive: true })
})
let files = 0

/** A file with this text, or with this as JSON. */
function file(content: unknown): string {
  const path = join(folder, `${(files += 1)}.json`)
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

const LISTENING = ['-service', 'web', '-service-addr', '127.0.0.1:8080', '-listen', ':8443']

/** The configuration of a proxy that has it from its flags or a file. */
function configOf({ source }: Settings) {
  assert.ok(source.kind === 'static')
  return source.config
}

function selectorOf({ source }: Settings) {
  assert.ok(source.kind === 'agent')
  return source.selector
}

describe('settings: flags', () => {
  it('mean what they mean to the built-in proxy', () => {
    const settings = readSettings(
      [...LISTENING, '-upstream', 'db:5432', '-register', '-register-id', 'a'],
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

  it('may have one dash or two, and their value after an equals sign', () => {
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
    it(`-upstream ${text}`, () => {
      const [upstream] = configOf(readSettings(['-service', 'web', '-upstream', text], {})).upstreams
      assert.deepEqual(JSON.parse(JSON.stringify(upstream?.target)), target)
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
    it(`-service-addr ${text}`, () => {
      const settings = readSettings(['-service', 'web', '-listen', ':8443', '-service-addr', text], {})
      assert.deepEqual(configOf(settings).listener?.application, application)
    })
  }

  it('without an effect are accepted with a warning', () => {
    const { warnings } = readSettings(['-service', 'web', '-pprof-addr', ':6060', '-stale'], {})
    assert.deepEqual(warnings, [
      '-stale: ignored',
      '-pprof-addr: ignored; set NODE_OPTIONS=--inspect to profile the proxy',
    ])
  })

  it('name the proxy whose configuration the agent has', () => {
    assert.deepEqual(selectorOf(readSettings(['-proxy-id', 'a'], {})), { proxyId: 'a' })
    assert.deepEqual(selectorOf(readSettings(['-sidecar-for', 'a'], {})), { sidecarFor: 'a' })
  })

  it('open the admin address on the loopback, unless a host is given', () => {
    const admin = (text: string) => readSettings(['-service', 'web', '-admin-addr', text], {}).admin
    assert.deepEqual(admin(':9000'), { host: '127.0.0.1', port: 9000 })
    assert.deepEqual(admin('9000'), { host: '127.0.0.1', port: 9000 })
    assert.deepEqual(admin('0.0.0.0:9000'), { host: '0.0.0.0', port: 9000 })
  })

  it('take as many workers as there are cores', () => {
    assert.equal(
      readSettings(['-service', 'web', '-workers', 'auto'], {}).workers,
      Math.min(64, availableParallelism()),
    )
    assert.equal(readSettings(['-service', 'web', '-workers', '3'], {}).workers, 3)
  })
})

describe('settings: environment', () => {
  it('names the proxy where no flag does', () => {
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
    what: string,
    flags: string[],
    env: Record<string, string>,
    expected: Record<string, string | undefined>,
  ][] = [
    [
      'Consul’s own',
      [],
      { CONSUL_HTTP_ADDR: 'a:1', CONSUL_HTTP_TOKEN: 't' },
      { CONSUL_HTTP_ADDR: 'a:1', CONSUL_HTTP_TOKEN: 't' },
    ],
    [
      'flags before it',
      ['-http-addr', 'b:1', '-datacenter', 'dc2'],
      { CONSUL_HTTP_ADDR: 'a:1' },
      { CONSUL_HTTP_ADDR: 'b:1', CONSUL_DATACENTER: 'dc2' },
    ],
    [
      'the token of a managed proxy',
      [],
      { CONNECT_PROXY_TOKEN: 'p', CONSUL_HTTP_TOKEN: 't', CONSUL_HTTP_TOKEN_FILE: '/f' },
      { CONSUL_HTTP_TOKEN: 'p', CONSUL_HTTP_TOKEN_FILE: undefined },
    ],
    [
      'a token file before that',
      ['-token-file', '/g'],
      { CONNECT_PROXY_TOKEN: 'p' },
      { CONSUL_HTTP_TOKEN_FILE: '/g' },
    ],
    [
      'a token before a token file',
      ['-token', 'x'],
      { CONSUL_HTTP_TOKEN_FILE: '/f' },
      { CONSUL_HTTP_TOKEN: 'x', CONSUL_HTTP_TOKEN_FILE: undefined },
    ],
    [
      'HTTPS',
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
  for (const [what, flags, env, expected] of environments) {
    it(`leads to the agent: ${what}`, () => {
      const { agent } = readSettings(['-service', 'web', ...flags], env)
      for (const [name, value] of Object.entries(expected)) assert.equal(agent.env?.[name], value, name)
    })
  }

  it('is a better place for a token than the command line', () => {
    const { warnings } = readSettings(['-service', 'web', '-token', 'secret-7'], {})
    assert.deepEqual(warnings, ['-token: visible in the process list; use -token-file or CONSUL_HTTP_TOKEN'])
  })
})

describe('settings: a file', () => {
  it('has the configuration, and what the command line has', () => {
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

  it('gives way to flags', () => {
    const path = file({ service: 'web', bind_port: 8443, local_service_port: 8080, log_level: 'warn' })
    const settings = readSettings(
      ['-config-file', path, '-listen', '127.0.0.1:9443', '-log-level', 'info'],
      {},
    )
    const { listener } = configOf(settings)
    assert.deepEqual([listener?.host, listener?.port, settings.log.level], ['127.0.0.1', 9443, 'info'])
  })

  it('may name a proxy of the agent', () => {
    assert.deepEqual(selectorOf(readSettings(['-config-file', file({ proxy_id: 'a' })], {})), {
      proxyId: 'a',
    })
  })
})

describe('settings: what is wrong', () => {
  const wrong: [args: () => string[], message: RegExp][] = [
    [
      () => [],
      /^no configuration: expected -sidecar-for, -proxy-id, -service, or -config-file \(see -help\)$/,
    ],
    [() => ['-servcie', 'web'], /^unknown flag: -servcie \(see -help\)$/],
    [() => ['web'], /^Unexpected argument 'web'/],
    [() => ['-service'], /argument missing/],
    [() => ['-service', 'web', '-log-json=maybe'], /^-log-json: expected true or false, got "maybe"$/],
    [() => ['-proxy-id', 'a', '-sidecar-for', 'b'], /^-proxy-id, -sidecar-for: set only one of them$/],
    [() => ['-proxy-id', ''], /^-proxy-id, -sidecar-for: expected an ID, got ""$/],
    [
      () => ['-proxy-id', 'a', '-upstream', 'db:1'],
      /^upstreams: not allowed with -proxy-id or -sidecar-for; the agent has the configuration of a$/,
    ],
    [
      () => ['-sidecar-for', 'a', '-service', 'web'],
      /^service: not allowed with -proxy-id or -sidecar-for; /,
    ],
    [() => ['-service', 'web', '-listen', ':1'], /^-listen: expected -service-addr as well/],
    [
      () => ['-service', 'web', '-listen', 'x'],
      /^-listen: expected \[HOST\]:PORT with a port from 1 to 65535, got "x"$/,
    ],
    [() => [...LISTENING.slice(0, 4), '-listen', ':0'], /^-listen: expected \[HOST\]:PORT .*, got ":0"$/],
    [() => ['-service', 'web', '-service-addr', 'h:'], /^-service-addr: expected .*, got "h:"$/],
    [
      () => ['-service', 'web', '-upstream', 'db'],
      /^-upstream: expected NAME\[\.service\|\.query\]:\[HOST:\]PORT\[\?.*\], got "db"$/,
    ],
    [() => ['-service', 'web', '-upstream', 'db:70000'], /^-upstream: expected .*, got "70000"$/],
    [
      () => ['-service', 'web', '-upstream', 'db:1?tags=a'],
      /^-upstream: unknown parameter "tags"; expected one of tag, near, filter$/,
    ],
    [
      () => ['-service', 'web', '-upstream', 'db:1?near=a&near=b'],
      /^-upstream: expected near once; it is repeated$/,
    ],
    [() => ['-service', 'web', '-upstream', 'db:1?tag='], /^-upstream: expected a value for tag, got ""$/],
    [
      () => ['-service', 'web', '-upstream', 'db.query:1?tag=a'],
      /^upstreams\[0\]\.tags: expected destination_type service, got prepared_query$/,
    ],
    [
      () => [
        '-config-file',
        file({ service: 'web', upstreams: [{ destination_name: 'db', local_bind_port: 1, tag: ['a'] }] }),
      ],
      /^upstreams\[0\]\.tag: expected one of tags, filter, near, got an unknown key$/,
    ],
    [() => ['-service', 'a/b'], /^service: expected a Consul name .*, got the string "a\/b"$/],
    [() => ['-service', 'web', '-register'], /^-register: expected -listen as well/],
    [() => ['-proxy-id', 'a', '-register'], /^-register: not allowed with -proxy-id or -sidecar-for; /],
    [() => ['-service', 'web', '-register-id', 'a'], /^-register-id: expected -register as well$/],
    [
      () => ['-service', 'web', '-log-level', 'loud'],
      /^-log-level: expected one of trace, debug, info, warn, error, got "loud"$/,
    ],
    [
      () => ['-service', 'web', '-workers', '0'],
      /^-workers: expected auto or a number from 1 to 64, got "0"$/,
    ],
    [() => ['-service', 'web', '-workers', 'many'], /^-workers: expected auto/],
    [
      () => ['-service', 'web', '-ecdh-curve', 'X25518'],
      /^-ecdh-curve: expected groups supported by OpenSSL, such as X25519:P-256, got "X25518"$/,
    ],
    [() => ['-service', 'web', '-ecdh-curve='], /^-ecdh-curve: expected groups/],
    [() => ['-service', 'web', '-admin-addr', 'x'], /^-admin-addr: expected \[HOST\]:PORT/],
    [
      () => ['-service', 'web', '-token', 'a', '-token-file', 'b'],
      /^-token, -token-file: set only one of them; -token-file is safer$/,
    ],
    [() => ['-config-file', join(folder, 'nowhere')], /^-config-file: cannot read .*nowhere \(ENOENT\)$/],
    [() => ['-config-file', file('[]')], /^.*json: expected a JSON object, got an array$/],
    [
      () => ['-config-file', file('{"service":\n  "web",\n}')],
      /^.*\.json(:3:1)?: invalid JSON; expected a JSON object$/,
    ],
    [
      () => ['-config-file', file({ service: 'web', token: 's' })],
      /^token: not allowed in a configuration file; use token_file$/,
    ],
    [
      () => ['-config-file', file({ service: 'web', log_json: 'yes' })],
      /^log_json: expected a boolean, got "yes"$/,
    ],
    [() => ['-config-file', file({ proxy_id: 7 })], /^proxy_id: expected a string, got 7$/],
    [
      () => ['-config-file', file({ service: 'web', bind_port: 'x' })],
      /^bind_port: expected a port from 0 to 65535, got the string "x"$/,
    ],
  ]
  for (const [args, message] of wrong) {
    it(message.source, () => {
      assert.throws(
        () => readSettings(args(), {}),
        (error: Error) => {
          assert.match(error.message, message)
          assert.match(error.name, /^(UsageError|OptionError)$/)
          return true
        },
      )
    })
  }

  it('is told without what a file holds', () => {
    const path = file('{"service": "web", "token_file": secret-7')
    assert.throws(
      () => readSettings(['-config-file', path], {}),
      (error: Error) => !error.message.includes('secret-7') && error.cause === undefined,
    )
  })
})
