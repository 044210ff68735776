// Texts from registrations, configuration files and the command line of the sidecar.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { readFile } from '../../examples/proxy/src/file.js'
import { readSettings } from '../../examples/proxy/src/settings.js'
import { parseProxyConfig } from '../../src/index.js'
import { foreignTextSuite } from '../fixtures/foreign-text.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-foreign-text-'))
after(() => {
  rmSync(folder, { recursive: true })
})
const path = join(folder, 'proxy.json')

function parseFile(text: string): unknown {
  writeFileSync(path, text)
  return readFile(path)
}

/** A value of the configuration of a proxy. */
function value(key: string, characters: string, prefixes: readonly string[] = []) {
  return {
    name: key,
    parse: (text: string) => parseProxyConfig({ service: 'web', [key]: text }),
    characters,
    prefixes,
  }
}

/** A value of an upstream. */
function upstreamValue(key: string, characters: string, prefixes: readonly string[] = []) {
  return {
    name: `upstreams[].${key}`,
    parse: (text: string) =>
      parseProxyConfig({
        service: 'web',
        upstreams: [{ destination_name: 'db', local_bind_port: 1, [key]: text }],
      }),
    characters,
    prefixes,
  }
}

/** The value of a flag. */
function flag(name: string, characters: string, prefixes: readonly string[] = []) {
  return {
    name: `-${name}`,
    parse: (text: string) => readSettings(['-service', 'web', `-${name}=${text}`], {}),
    characters,
    prefixes,
    // Node.js names a flag that takes no such value.
    expected: /expected|unknown/i,
  }
}

foreignTextSuite('configuration of a proxy', [
  { ...value('service', '/.') },
  value('bind_address', ':.%[]'),
  value('bind_port', '0.-e'),
  value('local_service_address', ':.%[]', ['[', '[::', 'a:', ':']),
  value('local_service_socket_path', '/.', ['/', 'unix://']),
  value('drain_timeout_ms', '0.-e'),
  upstreamValue('destination_name', '/.:'),
  upstreamValue('destination_type', '_'),
  upstreamValue('datacenter', '/.'),
  upstreamValue('local_bind_address', ':.%[]'),
  upstreamValue('local_bind_port', '0.-e'),
  upstreamValue('local_bind_socket_path', '/.', ['/']),
  upstreamValue('connect_timeout_ms', '0.-e'),
  upstreamValue('filter', '()"=`'),
  {
    name: 'key',
    parse: (text) => {
      const { warnings } = parseProxyConfig({ service: 'web', [text]: 1 })
      // A warning must not repeat the whole key either.
      throw new Error(`expected ${warnings.join()}`)
    },
    characters: 'AZ_-.',
  },
  {
    name: 'configuration file',
    parse: parseFile,
    characters: '{}[]":,\\',
    prefixes: ['{"a":'],
    nested: [
      ['[', ']'],
      ['{"a":', '}'],
    ],
  },
])

foreignTextSuite('command line of the sidecar', [
  {
    name: 'a flag',
    parse: (text) => readSettings([text], {}),
    characters: '-=_',
    prefixes: ['-', '--', '-service='],
    expected: /expected|unknown|unexpected/i,
  },
  flag('service-addr', ':[].', ['[', ':', 'unix://']),
  flag('listen', ':[].', ['[', ':']),
  flag('admin-addr', ':[].', ['[', ':']),
  flag('upstream', ':.?&=%[]/', ['db:', 'db:1?', 'db:1?tag=', 'db:1?filter=', 'db.query:', 'db:[']),
  flag('workers', '0.-e'),
  flag('log-level', 'aE'),
  flag('log-json', 'tf'),
  flag('ecdh-curve', ':-'),
  flag('http-addr', ':/[]@?#', ['http://', 'http://a/', 'unix://']),
])
