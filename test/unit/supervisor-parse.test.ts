import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import fc from 'fast-check'
import { ConfigurationError } from '../../examples/supervisor/src/configuration/error.js'
import { readFiles } from '../../examples/supervisor/src/configuration/files.js'
import { parseHcl, parseJson } from '../../examples/supervisor/src/configuration/parse.js'
import { snakeCase, unwrapBlocks } from '../../examples/supervisor/src/configuration/shape.js'

const PATH = '/etc/connect.d/redis.json'
const SECRET = '5f0c1e9a-5ec7-e7aa-a11a-0123456789ab'

/** The error with which it fails. */
function errorOf(act: () => unknown): Error {
  try {
    act()
  } catch (error) {
    assert.ok(error instanceof Error)
    return error
  }
  assert.fail('nothing was thrown')
}

/** All that somebody could read of an error. */
function everythingIn(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return `${error.message}\n${error.stack ?? ''}\n${error.cause === undefined ? '' : everythingIn(error.cause)}`
}

function nested(open: string, close: string, depth: number): string {
  return open.repeat(depth) + '1' + close.repeat(depth)
}

describe('supervisor: JSON', () => {
  const mistakes: [what: string, text: string, message: string][] = [
    ['nothing', '', '1:1: expected JSON: value expected'],
    ['blank lines', '\n\n', '3:1: expected JSON: value expected'],
    ['an object that does not end', '{', '1:2: expected JSON: close brace expected'],
    ['a list that does not end', '{"a":[1', '1:8: expected JSON: close bracket expected'],
    ['a comma at the end', '{\n  "a": 1,\n}', '3:1: expected JSON: property name expected'],
    ['no comma', '{"a":1\n  "b":2}', '2:3: expected JSON: comma expected'],
    ['no colon', '{"a" 1}', '1:6: expected JSON: colon expected'],
    ['no value', '{"a":\n}', '2:1: expected JSON: value expected'],
    ['more after the end', '{"a":1}\n{"b":2}', '2:1: expected JSON: end of file expected'],
    ['a word', '{"a":tru}', '1:6: expected JSON: invalid symbol'],
    ['a key without quotes', '{a:1}', '1:2: expected JSON: invalid symbol'],
    ['single quotes', "{'a':1}", '1:2: expected JSON: invalid symbol'],
    ['a string over two lines', '{"a":\n"x\ny"}', '2:1: expected JSON: unexpected end of string'],
    ['an escape that there is not', '{"a":"\\q"}', '1:6: expected JSON: invalid escape character'],
    ['a control character', '{"a":"\u0001"}', '1:6: expected JSON: invalid character'],
    ['a comment', '{\n  // why\n  "a":1}', '2:3: expected JSON: invalid comment token'],
    ['a comment inside a line', '{"a":1 /* why */}', '1:8: expected JSON: invalid comment token'],
    ['a leading zero', '{"a":01}', '1:7: expected JSON: comma expected'],
    ['a byte order mark', '\ufeff{"a":1}', '1:1: expected JSON: invalid symbol'],
    ['a zero byte', '{"a":1}\0', '1:8: expected JSON: invalid symbol'],
    ['a line end of Windows', '{"a":1,\r\n "b":}', '2:6: expected JSON: value expected'],
    ['a list', '[]', '1:1: expected an object, got a list'],
    ['null', 'null', '1:1: expected an object, got null'],
    ['a string', '"x"', '1:1: expected an object, got "x"'],
    ['a number', '5', '1:1: expected an object, got the number 5'],
    ['a key that is there twice', '{"a":1,\n "a":2}', '2:2: duplicate key "a"'],
    ['one inside', '{"a":{"b":1,\n\n  "b":1}}', '3:3: duplicate key "b"'],
    ['one inside a list', '{"a":[1,{"b":1,"b":2}]}', '1:16: duplicate key "b"'],
    ['one in two spellings of the text', '{"a":1,"\\u0061":2}', '1:8: duplicate key "a"'],
    ['one with a name that objects have', '{"__proto__":1,"__proto__":2}', '1:16: duplicate key "__proto__"'],
  ]
  for (const [what, text, message] of mistakes) {
    it(`is refused with line and column: ${what}`, () => {
      const error = errorOf(() => parseJson(PATH, text))
      assert.equal(error.name, 'ConfigurationError')
      assert.equal(error.message, `${PATH}:${message}`)
    })
  }

  it('may have the same key in several objects', () => {
    const text = '{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":2},["x","x"]],"x":{"x":{"x":"x"}}}'
    assert.deepEqual(parseJson(PATH, text), JSON.parse(text))
  })

  it('takes __proto__ for a key like any other', () => {
    const parsed = parseJson(PATH, '{"__proto__":{"polluted":true},"a":{"__proto__":{"polluted":true}}}')
    assert.deepEqual(Object.keys(parsed), ['__proto__', 'a'])
    assert.equal(Object.getPrototypeOf(parsed), Object.prototype)
    assert.equal(Reflect.get({}, 'polluted'), undefined)
    assert.equal(Reflect.get(parsed, 'polluted'), undefined)
  })

  it('gives what JSON.parse gives, for every object', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom(0, 2), (object, indent) => {
        const text = JSON.stringify(object, undefined, indent)
        assert.deepEqual(parseJson(PATH, text), JSON.parse(text))
      }),
    )
  })

  it('fails with line and column wherever it is torn', () => {
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

  for (const [what, text] of [
    ['lists that do not end', '['.repeat(100_000)],
    ['objects that do not end', '{"a":'.repeat(100_000)],
    ['objects that do', nested('{"a":', '}', 100_000)],
    ['lists in an object', `{"a":${nested('[', ']', 100_000)}}`],
  ] as const) {
    it(`is refused when it is nested too deep: ${what}`, () => {
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
    it(`says nothing of a token in ${JSON.stringify(text)}`, () => {
      const error = errorOf(() => parseJson(PATH, text))
      assert.ok(error instanceof ConfigurationError)
      assert.ok(!everythingIn(error).includes(SECRET.slice(0, 8)), error.message)
    })
  }
})

describe('supervisor: HCL', () => {
  const texts: [what: string, text: string, content: object][] = [
    ['an empty file', '', {}],
    [
      'values',
      'a = "x"\nb = 1\nc = 1.5\nd = true\ne = -1\nf = []\ng = [1, 2,]',
      { a: 'x', b: 1, c: 1.5, d: true, e: -1, f: [], g: [1, 2] },
    ],
    ['comments', '# one\n// two\n/* three\n four */ a = 1 # five', { a: 1 }],
    [
      'a block',
      'service {\n  name = "redis"\n  port = 6379\n}',
      { service: [{ name: 'redis', port: 6379 }] },
    ],
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
    ['what is filled in elsewhere', 'a = "${b}"', { a: '${b}' }],
    ['escapes', 'a = "\\"\\n\\u00e9"', { a: '"\né' }],
    ['JSON', '\n {"a":{"b":[{"c":1}]}}', { a: { b: [{ c: 1 }] } }],
  ]
  for (const [what, text, content] of texts) {
    it(`is read as Consul reads it: ${what}`, async () => {
      assert.deepEqual(await parseHcl(PATH, text), content)
    })
  }

  it('takes __proto__ for a key like any other', async () => {
    const parsed = await parseHcl(PATH, '__proto__ { polluted = true }\na { __proto__ = "x" }')
    assert.deepEqual(Object.keys(parsed), ['__proto__', 'a'])
    assert.equal(Reflect.get({}, 'polluted'), undefined)
    assert.equal(Reflect.get(parsed, 'polluted'), undefined)
  })

  const mistakes: [what: string, text: string, message: RegExp][] = [
    ['a key alone', '\na', /^2:3: expected HCL: key /],
    ['no value', 'service {\n  name = "x"\n  port = }', /^3:\d+: expected HCL: /],
    ['a block that does not end', 'service {', /^1:\d+: expected HCL: object expected closing RBRACE/],
    ['a brace too many', 'a = 1\n}', /^2:1: expected HCL: /],
    ['a string that does not end', 'a = "x', /^1:\d: expected HCL: literal not terminated$/],
    ['a list that does not end', 'a = [1,', /^1:\d: expected HCL: /],
    ['a heredoc that does not end', 'a = <<END\nx', /^2:2: expected HCL: heredoc not terminated$/],
    ['a word', '\n\n  a = tru', /^3:7: expected HCL: Unknown token/],
    ['a colon', 'a: 1', /^1:2: expected HCL: illegal char$/],
    ['a list', '[1]', /^1:1: expected HCL: /],
    ['JSON', '{"a":1,}', /^1:8: expected JSON: property name expected$/],
    ['JSON with a key twice', '{\n"a":1,"a":2}', /^2:7: duplicate key "a"$/],
  ]
  for (const [what, text, message] of mistakes) {
    it(`is refused with line and column: ${what}`, async () => {
      const error = await parseHcl(PATH, text).catch((failed: unknown) => failed)
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
    it(`says nothing of a token in ${JSON.stringify(text)}`, async () => {
      const error = await parseHcl(PATH, text).catch((failed: unknown) => failed)
      assert.ok(error instanceof ConfigurationError)
      for (const part of SECRET.split('-')) assert.ok(!everythingIn(error).includes(part), error.message)
    })
  }

  for (const [what, text] of [
    ['lists', `a = ${nested('[', ']', 3_000)}`],
    ['blocks', `${'a {'.repeat(2_000)}${'}'.repeat(2_000)}`],
  ] as const) {
    it(`is refused when it is nested too deep, and does no harm to the next: ${what}`, async () => {
      await assert.rejects(parseHcl(PATH, text), { name: 'ConfigurationError' })
      assert.deepEqual(await parseHcl(PATH, 'a = 1'), { a: 1 })
    })
  }

  for (const [open, close] of [
    ['a {', '}'],
    ['a = {', '}'],
    ['a = [', ']'],
    ['[', ']'],
  ] as const) {
    it(`is refused before the parser sees it when it is nested too deep: ${open}`, async () => {
      const text = `a = 1\nb = ${nested(open, close, 20_000)}`
      await assert.rejects(parseHcl(PATH, text), {
        name: 'ConfigurationError',
        message: `${PATH}: expected at most 256 open brackets`,
      })
    })
  }

  it('has the same bounds on nesting and keys as JSON', async () => {
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

  it('keeps files apart that are read at the same time', async () => {
    const files = await Promise.all(
      ['a = 1', 'b = ', 'c = {', 'd = 4'].map((text) =>
        parseHcl(PATH, text).catch((error: unknown) => (error as Error).name),
      ),
    )
    assert.deepEqual(files, [{ a: 1 }, {}, 'ConfigurationError', { d: 4 }])
  })
})

describe('supervisor: blocks', () => {
  const shapes: [what: string, content: object, unblocked: object][] = [
    [
      'of one object',
      { connect: [{ proxy: [{ allow_managed_root: true }] }] },
      { connect: { proxy: { allow_managed_root: true } } },
    ],
    ['that are objects already', { connect: { proxy: {} } }, { connect: { proxy: {} } }],
    [
      'of a service',
      { service: [{ name: 'a', connect: [{ proxy: [{ config: [{ x: [{ y: 1 }] }] }] }] }] },
      { service: [{ name: 'a', connect: { proxy: { config: { x: { y: 1 } } } } }] },
    ],
    [
      'of several services',
      { services: [{ name: 'a', meta: [{ x: 'y' }] }, { name: 'b' }] },
      { services: [{ name: 'a', meta: { x: 'y' } }, { name: 'b' }] },
    ],
    [
      'of checks',
      { service: [{ checks: [{ header: [{ X: ['y'] }] }] }] },
      { service: [{ checks: [{ header: { X: ['y'] } }] }] },
    ],
    ['of one check', { service: [{ check: [{ ttl: '1s' }] }] }, { service: [{ check: { ttl: '1s' } }] }],
    [
      'of upstreams',
      { service: { connect: [{ proxy: [{ upstreams: [{ config: [{ a: 1 }] }] }] }] } },
      { service: { connect: { proxy: { upstreams: [{ config: { a: 1 } }] } } } },
    ],
    [
      'of upstreams in config',
      { service: { connect: { proxy: { config: [{ upstreams: [{ a: 1 }] }] } } } },
      { service: { connect: { proxy: { config: { upstreams: [{ a: 1 }] } } } } },
    ],
    [
      'of a sidecar',
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
      'in the spelling of requests',
      {
        Services: [{ Checks: [{ TTL: '1s' }], Connect: [{ SidecarService: [{ Checks: [{ TTL: '1s' }] }] }] }],
      },
      { Services: [{ Checks: [{ TTL: '1s' }], Connect: { SidecarService: { Checks: [{ TTL: '1s' }] } } }] },
    ],
    [
      'that are lists of something else',
      { service: { tags: ['a'], nothing: [], mixed: [1, { a: 1 }] } },
      { service: { tags: ['a'], nothing: [], mixed: [1, { a: 1 }] } },
    ],
    [
      'that are for the agent alone',
      { node_meta: [{}, {}], encrypt: 'x', ports: { dns: 1 } },
      { ports: { dns: 1 } },
    ],
    [
      'of all that is read',
      { service: 1, services: 2, connect: 3, ports: 4, data_dir: 5, log_level: 6, log_json: 7, bind_addr: 8 },
      { service: 1, services: 2, connect: 3, ports: 4, data_dir: 5, log_level: 6, log_json: 7, bind_addr: 8 },
    ],
  ]
  for (const [what, content, unblocked] of shapes) {
    it(`are objects where one is meant: ${what}`, () => {
      assert.deepEqual(unwrapBlocks(PATH, content as Record<string, unknown>), unblocked)
    })
  }

  it('are refused where one is meant and there are two', () => {
    const twice = { connect: [{ proxy: [{}, {}] }] }
    assert.throws(() => unwrapBlocks(PATH, twice), {
      name: 'ConfigurationError',
      message: `${PATH}: connect.proxy: expected one block, found 2`,
    })
  })

  // Consul 1.8.7 takes this definition, and answers with the list as it was written.
  it('are left alone where nobody but the proxy knows what is meant', () => {
    const proxy = { config: { routes: [{ a: 1 }, { b: 2 }] } }
    const content = { service: { name: 'x', connect: { proxy } } }
    assert.deepEqual(unwrapBlocks(PATH, content), content)
  })

  it('may not be nested deeper than they can be looked at', () => {
    const text = `{"service":${nested('{"a":', '}', 4_000)}}`
    const error = errorOf(() => unwrapBlocks(PATH, parseJson(PATH, text)))
    assert.equal(error.name, 'ConfigurationError', error.message)
  })

  for (const place of ['meta', 'proxy', 'check', 'weights', 'tagged_addresses', 'connect']) {
    it(`are refused where Consul has one of a service, and there are two: ${place}`, () => {
      const content = { services: [{ name: 'x', [place]: [{ a: 'b' }, { c: 'd' }] }] }
      assert.throws(() => unwrapBlocks(PATH, content), {
        message: `${PATH}: services.${place}: expected one block, found 2`,
      })
    })
  }

  it('may be nested as deep as anybody does it, and no deeper', () => {
    const content = (depth: number): Record<string, unknown> =>
      JSON.parse(`{"service":${nested('{"a":', '}', depth)}}`) as Record<string, unknown>
    assert.deepEqual(unwrapBlocks(PATH, content(60)), content(60))
    assert.throws(() => unwrapBlocks(PATH, content(70)), {
      name: 'ConfigurationError',
      message: `${PATH}: expected at most 64 levels of nesting`,
    })
  })

  it('do no harm with a key that objects have', () => {
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
    it(`of ${JSON.stringify(request)} is ${JSON.stringify(file)}`, () => {
      assert.equal(snakeCase(request), file)
    })
  }

  it('stay the same when they are in snake_case already', () => {
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

  /** A folder with these files. */
  function folder(files: Readonly<Record<string, string>>): string {
    const path = join(root, String((folders += 1)))
    mkdirSync(path)
    for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
    return path
  }

  async function namesOf(...paths: string[]): Promise<string[]> {
    return (await readFiles(paths)).map(({ path }) => path)
  }

  it('of a folder are read in lexical order', async () => {
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

  it('come with what they say', async () => {
    const path = folder({ 'a.json': '{"n":[{"m":1}]}', 'b.hcl': 'n { m = 1 }' })
    assert.deepEqual(await readFiles([path]), [
      { path: join(path, 'a.json'), content: { n: [{ m: 1 }] } },
      { path: join(path, 'b.hcl'), content: { n: [{ m: 1 }] } },
    ])
  })

  it('with other endings, and what is further inside, are left out', async () => {
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

  it('may be links to files elsewhere', async () => {
    const [path, elsewhere] = [folder({}), folder({ 'real.txt': '{"a":1}' })]
    symlinkSync(join(elsewhere, 'real.txt'), join(path, 'a.json'))
    symlinkSync(elsewhere, join(path, 'b.json'))
    assert.deepEqual(await readFiles([path]), [{ path: join(path, 'a.json'), content: { a: 1 } }])
  })

  it('are read in the order in which they are given', async () => {
    const [first, second] = [folder({ 'z.json': '{}' }), folder({ 'a.json': '{}', 'b.json': '{}' })]
    assert.deepEqual(await namesOf(join(second, 'b.json'), first, second), [
      join(second, 'b.json'),
      join(first, 'z.json'),
      join(second, 'a.json'),
      join(second, 'b.json'),
    ])
  })

  it('may be none, of an empty folder', async () => {
    assert.deepEqual(await readFiles([folder({})]), [])
  })

  const refused: [what: string, make: () => string, message: (path: string) => string][] = [
    ['does not exist', () => join(root, 'none.json'), (path) => `${path}: cannot be read (ENOENT)`],
    [
      'is in no folder',
      () => join(folder({ 'a.json': '' }), 'a.json', 'b.json'),
      (path) => `${path}: cannot be read (ENOTDIR)`,
    ],
    [
      'leads to itself',
      () => {
        const path = join(folder({}), 'a.json')
        symlinkSync(path, path)
        return path
      },
      (path) => `${path}: cannot be read (ELOOP)`,
    ],
    [
      'is too large',
      () => {
        const path = join(folder({ 'a.json': '' }), 'a.json')
        truncateSync(path, 16 * 1024 * 1024 + 1)
        return path
      },
      (path) => `${path}: file is larger than 16777216 bytes`,
    ],
    [
      'has no ending',
      () => join(folder({ a: '{}' }), 'a'),
      (path) => `${path}: expected a file that ends in .json or .hcl`,
    ],
    [
      'has another ending',
      () => join(folder({ 'a.yaml': '{}' }), 'a.yaml'),
      (path) => `${path}: expected a file that ends in .json or .hcl`,
    ],
    [
      'has an ending in capitals',
      () => join(folder({ 'a.JSON': '{}' }), 'a.JSON'),
      (path) => `${path}: expected a file that ends in .json or .hcl`,
    ],
  ]
  for (const [what, make, message] of refused) {
    it(`are refused by name: one that ${what}`, async () => {
      const path = make()
      await assert.rejects(readFiles([path]), { name: 'ConfigurationError', message: message(path) })
    })
  }

  it('of a folder are refused by name as well', async () => {
    const path = folder({ 'a.json': '{}', 'b.json': '{"a":1,\n}', 'c.json': '{}' })
    await assert.rejects(readFiles([path]), {
      message: `${join(path, 'b.json')}:2:1: expected JSON: property name expected`,
    })
  })

  it('are not refused for being large', async () => {
    const path = folder({ 'a.json': `{"a":"${'x'.repeat(1_000_000)}"}` })
    const [file] = await readFiles([path])
    assert.equal((file?.content['a'] as string).length, 1_000_000)
  })
})
