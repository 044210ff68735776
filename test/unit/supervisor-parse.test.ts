import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import fc from 'fast-check'
import { ConfigurationError } from '../../examples/supervisor/src/configuration/error.js'
import { readFiles } from '../../examples/supervisor/src/configuration/files.js'
import { parseHcl, parseJson } from '../../examples/supervisor/src/configuration/parse.js'
import { unwrapBlocks } from '../../examples/supervisor/src/configuration/shape.js'
import { snakeCase } from '../../examples/supervisor/src/configuration/spelling.js'

const PATH = '/etc/connect.d/redis.json'
const SECRET = '5f0c1e9a-5ec7-e7aa-a11a-0123456789ab'

/** Returns the error that `run` throws. */
function errorOf(run: () => unknown): Error {
  try {
    run()
  } catch (error) {
    assert.ok(error instanceof Error)
    return error
  }
  assert.fail('expected an error')
}

/** Returns the message and the stack of an error and of its causes. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return `${error.message}\n${error.stack ?? ''}\n${error.cause === undefined ? '' : textOf(error.cause)}`
}

function nested(open: string, close: string, depth: number): string {
  return open.repeat(depth) + '1' + close.repeat(depth)
}

describe('supervisor: JSON', () => {
  const invalid: [rule: string, text: string, message: string][] = [
    ['an empty text', '', '1:1: expected JSON: value expected'],
    ['blank lines', '\n\n', '3:1: expected JSON: value expected'],
    ['an unclosed object', '{', '1:2: expected JSON: close brace expected'],
    ['an unclosed list', '{"a":[1', '1:8: expected JSON: close bracket expected'],
    ['a trailing comma', '{\n  "a": 1,\n}', '3:1: expected JSON: property name expected'],
    ['a missing comma', '{"a":1\n  "b":2}', '2:3: expected JSON: comma expected'],
    ['a missing colon', '{"a" 1}', '1:6: expected JSON: colon expected'],
    ['a missing value', '{"a":\n}', '2:1: expected JSON: value expected'],
    ['text after the end', '{"a":1}\n{"b":2}', '2:1: expected JSON: end of file expected'],
    ['an unknown word', '{"a":tru}', '1:6: expected JSON: invalid symbol'],
    ['a key without quotes', '{a:1}', '1:2: expected JSON: invalid symbol'],
    ['single quotes', "{'a':1}", '1:2: expected JSON: invalid symbol'],
    ['a string over two lines', '{"a":\n"x\ny"}', '2:1: expected JSON: unexpected end of string'],
    ['an unknown escape', '{"a":"\\q"}', '1:6: expected JSON: invalid escape character'],
    ['a control character', '{"a":"\u0001"}', '1:6: expected JSON: invalid character'],
    ['a comment', '{\n  // why\n  "a":1}', '2:3: expected JSON: invalid comment token'],
    ['a comment inside a line', '{"a":1 /* why */}', '1:8: expected JSON: invalid comment token'],
    ['a leading zero', '{"a":01}', '1:7: expected JSON: comma expected'],
    ['a byte order mark', '\ufeff{"a":1}', '1:1: expected JSON: invalid symbol'],
    ['a zero byte', '{"a":1}\0', '1:8: expected JSON: invalid symbol'],
    ['a CRLF line end', '{"a":1,\r\n "b":}', '2:6: expected JSON: value expected'],
    ['a list', '[]', '1:1: expected an object, got a list'],
    ['null', 'null', '1:1: expected an object, got null'],
    ['a string', '"x"', '1:1: expected an object, got "x"'],
    ['a number', '5', '1:1: expected an object, got the number 5'],
    ['a duplicate key', '{"a":1,\n "a":2}', '2:2: duplicate key "a"'],
    ['a nested duplicate key', '{"a":{"b":1,\n\n  "b":1}}', '3:3: duplicate key "b"'],
    ['a duplicate key inside a list', '{"a":[1,{"b":1,"b":2}]}', '1:16: duplicate key "b"'],
    ['a duplicate key with an escape', '{"a":1,"\\u0061":2}', '1:8: duplicate key "a"'],
    ['a duplicate __proto__', '{"__proto__":1,"__proto__":2}', '1:16: duplicate key "__proto__"'],
  ]
  for (const [rule, text, message] of invalid) {
    it(`is rejected with line and column: ${rule}`, () => {
      const error = errorOf(() => parseJson(PATH, text))
      assert.equal(error.name, 'ConfigurationError')
      assert.equal(error.message, `${PATH}:${message}`)
    })
  }

  it('may have the same key in several objects', () => {
    const text = '{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":2},["x","x"]],"x":{"x":{"x":"x"}}}'
    assert.deepEqual(parseJson(PATH, text), JSON.parse(text))
  })

  it('treats __proto__ as an ordinary key', () => {
    const parsed = parseJson(PATH, '{"__proto__":{"polluted":true},"a":{"__proto__":{"polluted":true}}}')
    assert.deepEqual(Object.keys(parsed), ['__proto__', 'a'])
    assert.equal(Object.getPrototypeOf(parsed), Object.prototype)
    assert.equal(Reflect.get({}, 'polluted'), undefined)
    assert.equal(Reflect.get(parsed, 'polluted'), undefined)
  })

  it('is parsed like JSON.parse', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom(0, 2), (object, indent) => {
        const text = JSON.stringify(object, undefined, indent)
        assert.deepEqual(parseJson(PATH, text), JSON.parse(text))
      }),
    )
  })

  it('fails with line and column wherever it is truncated', () => {
    const text = JSON.stringify(
      { service: { name: 'é', tags: ['a', 'b'], port: 80, meta: { x: null } } },
      undefined,
      1,
    )
    for (let length = 0; length < text.length; length++) {
      const error = errorOf(() => parseJson(PATH, text.slice(0, length)))
      assert.match(error.message, /^\/etc\/connect\.d\/redis\.json:\d+:\d+: /)
    }
  })

  for (const [rule, text] of [
    ['unclosed lists', '['.repeat(100_000)],
    ['unclosed objects', '{"a":'.repeat(100_000)],
    ['objects', nested('{"a":', '}', 100_000)],
    ['lists in an object', `{"a":${nested('[', ']', 100_000)}}`],
  ] as const) {
    it(`is rejected when it is nested too deep: ${rule}`, () => {
      const error = errorOf(() => parseJson(PATH, text))
      assert.equal(error.name, 'ConfigurationError', error.message)
      assert.ok(error.message.startsWith(`${PATH}:`), error.message)
    })
  }

  const leaks = [
    `{"service":{"token":"${SECRET}"`,
    `{"service":{"token":"${SECRET}" "name":"x"}}`,
    `{"service":{"token":"${SECRET}`,
    `{"service":{"token":"${SECRET}\\q"}}`,
    `{"service":{"token":"${SECRET}\n"}}`,
    `{"service":{"token":${SECRET}}}`,
    `{"service":{"token":'${SECRET}'}}`,
    `{"token":"a","token":"${SECRET}"}`,
    `{"token":"${SECRET}","token":"${SECRET}"}`,
    SECRET,
    `{"token":"${SECRET}"}}`,
  ]
  for (const text of leaks) {
    it(`does not show the token in ${JSON.stringify(text)}`, () => {
      const error = errorOf(() => parseJson(PATH, text))
      assert.ok(error instanceof ConfigurationError)
      assert.ok(!textOf(error).includes(SECRET.slice(0, 8)), error.message)
    })
  }
})

describe('supervisor: HCL', () => {
  const texts: [rule: string, text: string, content: object][] = [
    ['an empty file', '', {}],
    [
      'values',
      'a = "x"\nb = 1\nc = 1.5\nd = true\ne = -1\nf = []\ng = [1, 2,]',
      { a: 'x', b: 1, c: 1.5, d: true, e: -1, f: [], g: [1, 2] },
    ],
    ['comments', '# one\n// two\n/* three\n four */ a = 1 # five', { a: 1 }],
    ['a block', 'service {\n  name = "a"\n  port = 1\n}', { service: [{ name: 'a', port: 1 }] }],
    [
      'blocks on one line',
      'service { name = "redis" port = 6379 connect { proxy {} } }',
      { service: [{ name: 'redis', port: 6379, connect: [{ proxy: [{}] }] }] },
    ],
    ['an object', 'service = { name = "redis" }', { service: [{ name: 'redis' }] }],
    [
      'several blocks',
      'services { name = "a" }\nservices { name = "b" }',
      { services: [{ name: 'a' }, { name: 'b' }] },
    ],
    [
      'a list of objects',
      'services = [{ name = "a" }, { name = "b" }]',
      { services: [{ name: 'a' }, { name: 'b' }] },
    ],
    ['a quoted key', 'meta { "a key" = "x" }', { meta: [{ 'a key': 'x' }] }],
    ['a heredoc', 'a = <<END\none\n  two\nEND\n', { a: 'one\n  two\n' }],
    ['an indented heredoc', 'a = <<-END\n   one\n     two\n  END\n', { a: ' one\n   two\n' }],
    ['an interpolation, unchanged', 'a = "${b}"', { a: '${b}' }],
    ['escapes', 'a = "\\"\\n\\u00e9"', { a: '"\né' }],
    ['JSON', '\n {"a":{"b":[{"c":1}]}}', { a: { b: [{ c: 1 }] } }],
  ]
  for (const [rule, text, content] of texts) {
    it(`is read as in Consul: ${rule}`, async () => {
      assert.deepEqual(await parseHcl(PATH, text), content)
    })
  }

  it('treats __proto__ as an ordinary key', async () => {
    const parsed = await parseHcl(PATH, '__proto__ { polluted = true }\na { __proto__ = "x" }')
    assert.deepEqual(Object.keys(parsed), ['__proto__', 'a'])
    assert.equal(Reflect.get({}, 'polluted'), undefined)
    assert.equal(Reflect.get(parsed, 'polluted'), undefined)
  })

  const invalid: [rule: string, text: string, message: RegExp][] = [
    ['a key without a value', '\na', /^2:3: expected HCL: key /],
    ['a missing value', 'service {\n  name = "x"\n  port = }', /^3:\d+: expected HCL: /],
    ['an unclosed block', 'service {', /^1:\d+: expected HCL: object expected closing RBRACE/],
    ['an extra brace', 'a = 1\n}', /^2:1: expected HCL: /],
    ['an unclosed string', 'a = "x', /^1:\d: expected HCL: literal not terminated$/],
    ['an unclosed list', 'a = [1,', /^1:\d: expected HCL: /],
    ['an unclosed heredoc', 'a = <<END\nx', /^2:2: expected HCL: heredoc not terminated$/],
    ['an unknown word', '\n\n  a = tru', /^3:7: expected HCL: Unknown token/],
    ['a colon', 'a: 1', /^1:2: expected HCL: illegal char$/],
    ['a list', '[1]', /^1:1: expected HCL: /],
    ['JSON', '{"a":1,}', /^1:8: expected JSON: property name expected$/],
    ['JSON with a duplicate key', '{\n"a":1,"a":2}', /^2:7: duplicate key "a"$/],
  ]
  for (const [rule, text, message] of invalid) {
    it(`is rejected with line and column: ${rule}`, async () => {
      const error = await parseHcl(PATH, text).catch((reason: unknown) => reason)
      assert.ok(error instanceof ConfigurationError)
      assert.ok(error.message.startsWith(`${PATH}:`), error.message)
      assert.match(error.message.slice(PATH.length + 1), message)
    })
  }

  for (const text of [
    `token = ${SECRET}`,
    `token = x${SECRET}`,
    `token = "${SECRET}`,
    `token = "a" "${SECRET}"`,
    `token "${SECRET}"`,
    `token x${SECRET}`,
    `token = <<END\n${SECRET}`,
    `token = [ "${SECRET}" "b" ]`,
    `service { token = '${SECRET}' }`,
  ]) {
    it(`does not show the token in ${JSON.stringify(text)}`, async () => {
      const error = await parseHcl(PATH, text).catch((reason: unknown) => reason)
      assert.ok(error instanceof ConfigurationError)
      for (const part of SECRET.split('-')) assert.ok(!textOf(error).includes(part), error.message)
    })
  }

  for (const [open, close] of [
    ['a {', '}'],
    ['a = {', '}'],
    ['a = [', ']'],
    ['[', ']'],
  ] as const) {
    it(`is rejected before it reaches the parser when it is nested too deep: ${open}`, async () => {
      const text = `a = 1\nb = ${nested(open, close, 20_000)}`
      await assert.rejects(parseHcl(PATH, text), {
        name: 'ConfigurationError',
        message: `${PATH}: expected at most 256 open brackets`,
      })
      assert.deepEqual(await parseHcl(PATH, 'a = 1'), { a: 1 })
    })
  }

  it('has the same limits on nesting and keys as JSON', async () => {
    await assert.rejects(
      parseHcl(PATH, 'a {'.repeat(100) + '}'.repeat(100)),
      /expected at most 64 levels of nesting/,
    )
    await assert.rejects(parseHcl(PATH, `${'a'.repeat(257)} = 1`), /expected keys of at most 256 characters/)
  })

  it('may have brackets in strings', async () => {
    const text = '{['.repeat(100)
    assert.deepEqual(await parseHcl(PATH, `a = "${text}"`), { a: text })
  })

  it('may be parsed concurrently', async () => {
    const files = await Promise.all(
      ['a = 1', 'b = ', 'c = {', 'd = 4'].map((text) =>
        parseHcl(PATH, text).catch((error: unknown) => (error as Error).name),
      ),
    )
    assert.deepEqual(files, [{ a: 1 }, {}, 'ConfigurationError', { d: 4 }])
  })
})

describe('supervisor: blocks', () => {
  const shapes: [kind: string, content: object, unwrapped: object][] = [
    [
      'a block of one object',
      { connect: [{ proxy: [{ allow_managed_root: true }] }] },
      { connect: { proxy: { allow_managed_root: true } } },
    ],
    ['an object that is not a block', { connect: { proxy: {} } }, { connect: { proxy: {} } }],
    [
      'blocks of a service',
      { service: [{ name: 'a', connect: [{ proxy: [{ config: [{ x: [{ y: 1 }] }] }] }] }] },
      { service: [{ name: 'a', connect: { proxy: { config: { x: { y: 1 } } } } }] },
    ],
    [
      'blocks of several services',
      { services: [{ name: 'a', meta: [{ x: 'y' }] }, { name: 'b' }] },
      { services: [{ name: 'a', meta: { x: 'y' } }, { name: 'b' }] },
    ],
    [
      'blocks of checks',
      { service: [{ checks: [{ header: [{ X: ['y'] }] }] }] },
      { service: [{ checks: [{ header: { X: ['y'] } }] }] },
    ],
    ['a single check', { service: [{ check: [{ ttl: '1s' }] }] }, { service: [{ check: { ttl: '1s' } }] }],
    [
      'blocks of upstreams',
      { service: { connect: [{ proxy: [{ upstreams: [{ config: [{ a: 1 }] }] }] }] } },
      { service: { connect: { proxy: { upstreams: [{ config: { a: 1 } }] } } } },
    ],
    [
      'blocks around upstreams in config',
      { service: { connect: { proxy: { config: [{ upstreams: [{ a: 1 }] }] } } } },
      { service: { connect: { proxy: { config: { upstreams: [{ a: 1 }] } } } } },
    ],
    [
      'blocks of a sidecar',
      {
        service: {
          connect: [
            {
              sidecar_service: [
                { checks: [{ ttl: '1s' }], proxy: [{ expose: [{ paths: [{ path: '/' }] }] }] },
              ],
            },
          ],
        },
      },
      {
        service: {
          connect: {
            sidecar_service: { checks: [{ ttl: '1s' }], proxy: { expose: { paths: [{ path: '/' }] } } },
          },
        },
      },
    ],
    [
      'blocks in the spelling of the API',
      {
        Services: [{ Checks: [{ TTL: '1s' }], Connect: [{ SidecarService: [{ Checks: [{ TTL: '1s' }] }] }] }],
      },
      { Services: [{ Checks: [{ TTL: '1s' }], Connect: { SidecarService: { Checks: [{ TTL: '1s' }] } } }] },
    ],
    // Consul 1.8.7 accepts this definition, and returns the list unchanged.
    [
      'not in the configuration of a proxy',
      { service: { connect: { proxy: { config: { routes: [{ a: 1 }, { b: 2 }] } } } } },
      { service: { connect: { proxy: { config: { routes: [{ a: 1 }, { b: 2 }] } } } } },
    ],
    [
      'not lists of other values',
      { service: { tags: ['a'], nothing: [], mixed: [1, { a: 1 }] } },
      { service: { tags: ['a'], nothing: [], mixed: [1, { a: 1 }] } },
    ],
    [
      'without the keys of the agent',
      { node_meta: [{}, {}], encrypt: 'x', ports: { dns: 1 } },
      { ports: { dns: 1 } },
    ],
    [
      'with all keys that are read',
      { service: 1, services: 2, connect: 3, ports: 4, data_dir: 5, log_level: 6, log_json: 7, bind_addr: 8 },
      { service: 1, services: 2, connect: 3, ports: 4, data_dir: 5, log_level: 6, log_json: 7, bind_addr: 8 },
    ],
    [
      'with these keys in every spelling that agents accept',
      { datadir: 1, LogLevel: 2, Services: [{ Check: [{ TTL: '1s' }] }] },
      { datadir: 1, LogLevel: 2, Services: [{ Check: { TTL: '1s' } }] },
    ],
  ]
  for (const [kind, content, unwrapped] of shapes) {
    it(`are unwrapped: ${kind}`, () => {
      assert.deepEqual(unwrapBlocks(PATH, content as Record<string, unknown>), unwrapped)
    })
  }

  const repeated: [place: string, content: Record<string, unknown>][] = [
    ['connect.proxy', { connect: [{ proxy: [{}, {}] }] }],
    ...['meta', 'proxy', 'check', 'weights', 'tagged_addresses', 'connect'].map(
      (key): [string, Record<string, unknown>] => [
        `services.${key}`,
        { services: [{ name: 'x', [key]: [{ a: 'b' }, { c: 'd' }] }] },
      ],
    ),
  ]
  for (const [place, content] of repeated) {
    it(`are rejected when there are two of ${place}`, () => {
      assert.throws(() => unwrapBlocks(PATH, content), {
        name: 'ConfigurationError',
        message: `${PATH}: ${place}: expected one block, found 2`,
      })
    })
  }

  it('may be nested 60 levels deep, not 70', () => {
    const content = (depth: number): Record<string, unknown> =>
      JSON.parse(`{"service":${nested('{"a":', '}', depth)}}`) as Record<string, unknown>
    assert.deepEqual(unwrapBlocks(PATH, content(60)), content(60))
    assert.throws(() => unwrapBlocks(PATH, content(70)), {
      name: 'ConfigurationError',
      message: `${PATH}: expected at most 64 levels of nesting`,
    })
  })

  it('may contain the key __proto__', () => {
    const content = JSON.parse('{"service":{"__proto__":{"polluted":true},"name":"x"}}') as Record<
      string,
      unknown
    >
    const { service } = unwrapBlocks(PATH, content) as { service: object }
    assert.deepEqual(Object.keys(service), ['__proto__', 'name'])
    assert.equal(Reflect.get(service, 'polluted'), undefined)
  })
})

describe('supervisor: spellings', () => {
  const keys: [request: string, file: string][] = [
    ['Name', 'name'],
    ['ID', 'id'],
    ['CheckID', 'check_id'],
    ['HTTP', 'http'],
    ['TTL', 'ttl'],
    ['EnableTagOverride', 'enable_tag_override'],
    ['TLSSkipVerify', 'tls_skip_verify'],
    ['GRPCUseTLS', 'grpc_use_tls'],
    ['DockerContainerID', 'docker_container_id'],
    ['DeregisterCriticalServiceAfter', 'deregister_critical_service_after'],
    ['LocalBindPort', 'local_bind_port'],
    ['DestinationServiceID', 'destination_service_id'],
    ['TCPCheckAddress', 'tcp_check_address'],
    ['DisableTCPCheck', 'disable_tcp_check'],
    ['SidecarService', 'sidecar_service'],
    ['camelCase', 'camel_case'],
    ['local_bind_port', 'local_bind_port'],
    ['lan_ipv4', 'lan_ipv4'],
    ['a-b', 'a-b'],
    ['A', 'a'],
    ['', ''],
  ]
  for (const [request, file] of keys) {
    it(`are converted from ${JSON.stringify(request)} to ${JSON.stringify(file)}`, () => {
      assert.equal(snakeCase(request), file)
    })
  }

  it('are unchanged in snake_case', () => {
    const word = fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/)
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 4 }), (words) => {
        assert.equal(snakeCase(words.join('_')), words.join('_'))
      }),
    )
  })
})

describe('supervisor: files', () => {
  const root = mkdtempSync(join(tmpdir(), 'supervisor-files-'))
  after(() => {
    rmSync(root, { recursive: true })
  })
  let folders = 0

  /** Creates a directory with these files. */
  function folder(files: Readonly<Record<string, string>>): string {
    const path = join(root, String((folders += 1)))
    mkdirSync(path)
    for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
    return path
  }

  async function namesOf(...paths: string[]): Promise<string[]> {
    return (await readFiles(paths)).map(({ path }) => path)
  }

  it('of a directory are read in lexical order', async () => {
    const path = folder({
      'b.json': '{"n":1}',
      '10.json': '{}',
      '9.hcl': 'n = 2',
      'B.json': '{}',
      'a.json': '{}',
      'ä.json': '{}',
    })
    const expected = ['10.json', '9.hcl', 'B.json', 'a.json', 'b.json', 'ä.json']
    assert.deepEqual(
      await namesOf(path),
      expected.map((name) => join(path, name)),
    )
  })

  it('are returned with their contents', async () => {
    const path = folder({ 'a.json': '{"n":[{"m":1}]}', 'b.hcl': 'n { m = 1 }' })
    assert.deepEqual(await readFiles([path]), [
      { path: join(path, 'a.json'), content: { n: [{ m: 1 }] } },
      { path: join(path, 'b.hcl'), content: { n: [{ m: 1 }] } },
    ])
  })

  it('with other suffixes, and in subdirectories, are ignored', async () => {
    const path = folder({
      'a.json': '{}',
      'b.json.bak': '?',
      'c.yaml': '?',
      json: '?',
      'd.JSON': '?',
      'e.hcl~': '?',
    })
    mkdirSync(join(path, 'inside'))
    writeFileSync(join(path, 'inside', 'f.json'), '?')
    mkdirSync(join(path, 'g.json'))
    writeFileSync(join(path, 'g.json', 'h.json'), '?')
    assert.deepEqual(await namesOf(path), [join(path, 'a.json')])
  })

  it('may be links to files', async () => {
    const [path, elsewhere] = [folder({}), folder({ 'real.txt': '{"a":1}' })]
    symlinkSync(join(elsewhere, 'real.txt'), join(path, 'a.json'))
    symlinkSync(elsewhere, join(path, 'b.json'))
    assert.deepEqual(await readFiles([path]), [{ path: join(path, 'a.json'), content: { a: 1 } }])
  })

  it('are read in the given order', async () => {
    const [first, second] = [folder({ 'z.json': '{}' }), folder({ 'a.json': '{}', 'b.json': '{}' })]
    assert.deepEqual(await namesOf(join(second, 'b.json'), first, second), [
      join(second, 'b.json'),
      join(first, 'z.json'),
      join(second, 'a.json'),
      join(second, 'b.json'),
    ])
  })

  it('may be absent in an empty directory', async () => {
    assert.deepEqual(await readFiles([folder({})]), [])
  })

  const SUFFIX = 'expected a file that ends in .json or .hcl'
  const rejected: [rule: string, make: () => string, problem: string][] = [
    ['a missing file', () => join(root, 'none.json'), 'cannot be read (ENOENT)'],
    [
      'a file below a file',
      () => join(folder({ 'a.json': '' }), 'a.json', 'b.json'),
      'cannot be read (ENOTDIR)',
    ],
    [
      'a link to itself',
      () => {
        const path = join(folder({}), 'a.json')
        symlinkSync(path, path)
        return path
      },
      'cannot be read (ELOOP)',
    ],
    [
      'a file above 16 MiB',
      () => {
        const path = join(folder({ 'a.json': '' }), 'a.json')
        truncateSync(path, 16 * 1024 * 1024 + 1)
        return path
      },
      'file is larger than 16777216 bytes',
    ],
    ['a file without a suffix', () => join(folder({ a: '{}' }), 'a'), SUFFIX],
    ['a file with another suffix', () => join(folder({ 'a.yaml': '{}' }), 'a.yaml'), SUFFIX],
    ['a file with a suffix in capitals', () => join(folder({ 'a.JSON': '{}' }), 'a.JSON'), SUFFIX],
  ]
  for (const [rule, make, problem] of rejected) {
    it(`are rejected by name: ${rule}`, async () => {
      const path = make()
      await assert.rejects(readFiles([path]), { name: 'ConfigurationError', message: `${path}: ${problem}` })
    })
  }

  it('are rejected by name in a directory', async () => {
    const path = folder({ 'a.json': '{}', 'b.json': '{"a":1,\n}', 'c.json': '{}' })
    await assert.rejects(readFiles([path]), {
      message: `${join(path, 'b.json')}:2:1: expected JSON: property name expected`,
    })
  })

  it('may have a megabyte', async () => {
    const path = folder({ 'a.json': `{"a":"${'x'.repeat(1_000_000)}"}` })
    const [file] = await readFiles([path])
    assert.equal((file?.content['a'] as string).length, 1_000_000)
  })
})
