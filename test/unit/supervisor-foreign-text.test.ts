// The parsers of the supervisor that read text from files, requests, and command lines.
import { combine } from '../../examples/supervisor/src/configuration/configuration.js'
import { readDefinition } from '../../examples/supervisor/src/configuration/definition.js'
import { keysOf, unbracketed } from '../../examples/supervisor/src/configuration/keys.js'
import { expectShallowText } from '../../examples/supervisor/src/configuration/depth.js'
import { type Json, parseJson } from '../../examples/supervisor/src/configuration/parse.js'
import { closestKey } from '../../examples/supervisor/src/configuration/typos.js'
import { parseSnapshot } from '../../examples/supervisor/src/state/snapshot.js'
import { snakeCase } from '../../examples/supervisor/src/configuration/shape.js'
import { printable } from '../../examples/proxy/src/printable.js'
import { isLocalHost } from '../../examples/proxy/src/local-server.js'
import { foreignTextSuite } from '../fixtures/foreign-text.js'

const PATH = '/etc/connect.d/web.json'

function one(content: Json): unknown {
  return combine([{ path: PATH, content }])
}

/** Reads a request with this definition, as the registration API does. */
function requested(definition: Json): unknown {
  return readDefinition(definition, {
    origin: 'the request',
    folder: undefined,
    isForeign: true,
    warn: () => undefined,
  })
}

function web(config: Json, upstreams: readonly Json[] = []): Json {
  return { service: { name: 'web', port: 80, connect: { proxy: { config, upstreams } } } }
}

foreignTextSuite('supervisor', [
  { name: 'snake_case of a key', parse: snakeCase, characters: '_A' },
  { name: 'the keys of an object', parse: (text) => keysOf(PATH, { [text]: 1 }), characters: '_A' },
  { name: 'a JSON file', parse: (text) => parseJson(PATH, text), characters: '{}[]":,\\' },
  {
    name: 'a JSON file with one service',
    parse: (text) => parseJson(PATH, text),
    characters: '{,',
    prefixes: ['{"service":'],
    nested: [
      ['{"a":', '}'],
      ['[', ']'],
    ],
  },
  {
    // What follows runs in a worker thread with a bound of 10 s.
    name: 'an HCL file, before its parser',
    parse: (text) => {
      expectShallowText(PATH, text)
    },
    characters: '{}[]"=#/',
    prefixes: ['a = '],
    nested: [
      ['a {', '}'],
      ['a = [', ']'],
    ],
  },
  { name: 'a key like another', parse: (text) => closestKey(text, ['connect', text]), characters: '_A' },
  {
    name: 'a state file',
    parse: parseSnapshot,
    characters: '{}[]":,\\',
    prefixes: ['{"Version":', '{"Version":1,"Proxies":'],
    nested: [
      ['{"a":', '}'],
      ['[', ']'],
      ['{"Version":[', ']}'],
    ],
    expected: /it is|it has|the file/,
  },
  {
    name: 'an id in a state file',
    parse: (text) => parseSnapshot(JSON.stringify({ Version: 1, Proxies: { [text]: {} } })),
    characters: '-/.',
    prefixes: ['-proxy'],
    expected: /./,
  },
  {
    name: 'a key of a request',
    parse: (text) => requested({ name: 'web', [text]: 1 }),
    characters: '_A',
  },
  { name: 'the name of a service', parse: (name) => requested({ name }), characters: '/.\u202e' },
  { name: 'bind_addr', parse: (text) => one({ bind_addr: text }), characters: '[]{}:' },
  {
    name: 'local_service_address',
    parse: (text) => one(web({ local_service_address: text })),
    characters: ':[]',
  },
  {
    name: 'local_bind_address of an upstream',
    parse: (text) => one(web({}, [{ destination_name: 'db', local_bind_port: 1, local_bind_address: text }])),
    characters: ':[]',
  },
  { name: 'an address in brackets', parse: unbracketed, characters: '[]' },
  { name: 'a Host header', parse: isLocalHost, characters: ':[].' },
  { name: 'text for a message', parse: printable, characters: '\u202e\u200b' },
])
