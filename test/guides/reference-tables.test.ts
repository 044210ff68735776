// The tables of operations.md and options.md against the code and against what the programs export.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openLog } from '../../examples/proxy/src/log.js'
import { Metrics as SidecarMetrics } from '../../examples/proxy/src/metrics.js'
import { Traffic } from '../../examples/proxy/src/traffic.js'
import { Metrics as SupervisorMetrics } from '../../examples/supervisor/src/operator/metrics.js'
import * as library from '../../src/index.js'
import { log } from '../../src/base/log.js'

const root = join(import.meta.dirname, '..', '..')

describe('guides/operations.md', () => {
  const text = readFileSync(join(root, 'guides', 'operations.md'), 'utf8')
  const events = /interface ServiceEvents \{([^]*?)\n\}/.exec(source('src/service/service-events.ts'))
  const channels = source('src/service/diagnostics.ts')
  for (const [heading, names] of [
    ['## Error codes', Object.keys(library.ERROR_CODES)],
    ['## Events', [...(events?.[1] ?? '').matchAll(/^ {2}(\w+): \[/gm)].map(([, name]) => name ?? '')],
    ['## Diagnostics channels', [...channels.matchAll(/^ {2}'([^']+)':/gm)].map(([, name]) => name ?? '')],
    ['### Decision basis', literalsOf('src/authorize/authorizer.ts', 'DecisionBasis')],
    ['### Close reasons', literalsOf('examples/proxy/src/traffic.ts', 'CloseReason')],
  ] as const) {
    it(`has exactly the names of the source in the table under "${heading}"`, () => {
      assert.ok(names.length >= 6, `only ${names.join(', ')}`)
      const rows = tableAfter(text, new RegExp(`^${heading}$`, 'm'))
      assert.deepEqual(rows.flatMap(([name = '']) => namesIn(name)).sort(), [...names].sort())
    })
  }

  it('has every name of DEBUG', () => {
    const names = Object.values(log).map(({ namespace }) => namespace)
    assert.deepEqual(
      names.filter((name) => !text.includes(`\`${name}\``)),
      [],
    )
  })

  it('has no other name of DEBUG', () => {
    const names: readonly string[] = Object.values(log).map(({ namespace }) => namespace)
    const written = [...text.matchAll(/`(connect:\w+)`/g)].map(([, name]) => name ?? '')
    assert.deepEqual(
      written.filter((name) => !names.includes(name)),
      [],
    )
  })

  for (const [heading, exported] of [
    ['Sidecar metrics', sidecarMetrics],
    ['Supervisor metrics', supervisorMetrics],
  ] as const) {
    it(`has the names and labels under "${heading}" that the program exports`, async () => {
      assert.deepEqual(documentedMetrics(text, heading), await exported())
    })
  }
})

describe('guides/options.md', () => {
  const sections = readFileSync(join(root, 'guides', 'options.md'), 'utf8')
  for (const [heading, file, name] of [
    ['Service options', 'src/service/service-options.ts', 'ServiceOptions'],
    ['Agent options', 'src/agent/options.ts', 'AgentOptions'],
    ['Dial options', 'src/service/dial-options.ts', 'DialOptions'],
    ['Forward options', 'src/service/dial-options.ts', 'ForwardOptions'],
    ['Listen options', 'src/service/listen-options.ts', 'ListenOptions'],
    ['Registration options', 'src/service/register-options.ts', 'RegisterOptions'],
  ] as const) {
    it(`has the options of ${name}, and their defaults in milliseconds and counts`, () => {
      const rows = tableAfter(sections, new RegExp(`^## ${heading}$`, 'm'))
      const options = optionsOf(file, name)
      assert.ok(options.size >= 4)
      // `tls.ca`, `.cert` are members of `tls`.
      const written = new Map(
        rows.flatMap(([names = '', given = '']) =>
          namesIn(names).map((each): [string, string] => [each.split('.')[0] ?? '', given]),
        ),
      )
      written.delete('')
      assert.deepEqual(new Set(written.keys()), new Set(options.keys()))
      for (const [option, value] of options)
        if (value !== undefined) assert.match(written.get(option) ?? '', new RegExp(`\\b${value}\\b`), option)
    })
  }
})

function source(file: string): string {
  return readFileSync(join(root, file), 'utf8')
}

/** The strings of a union type. */
function literalsOf(file: string, type: string): string[] {
  const [, union = ''] = new RegExp(`type ${type} =([^]*?)\\n\\n`).exec(source(file)) ?? []
  return [...union.matchAll(/'(\w+)'/g)].map(([, literal]) => literal ?? '')
}

/** The members of an interface, each with its default where that is a number. */
function optionsOf(file: string, name: string): Map<string, string | undefined> {
  const [, base, body = ''] =
    new RegExp(`interface ${name} (?:extends (\\w+) )?\\{([^]*?)\\n\\}`).exec(source(file)) ?? []
  let comment = ''
  const options = base === undefined ? new Map<string, string | undefined>() : optionsOf(file, base)
  for (const line of body.split('\n')) {
    const [, option] = /^ {2}readonly (\w+)\??:/.exec(line) ?? []
    if (option === undefined) comment += line
    else {
      options.set(option, /@default (\d{2,})\b/.exec(comment)?.[1])
      comment = ''
    }
  }
  return options
}

/** The rows of the first table after a heading or a line, without its head. */
function tableAfter(text: string, start: RegExp): string[][] {
  const from = start.exec(text)
  assert.ok(from !== null, `no ${String(start)}`)
  const lines = text.slice(from.index).split('\n')
  const head = lines.findIndex((line) => line.startsWith('|'))
  const table = lines.slice(head + 2)
  const end = table.findIndex((line) => !line.startsWith('|'))
  return table.slice(0, end === -1 ? undefined : end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
}

function namesIn(cell: string): string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name ?? '')
}

/** The metrics of a table, each with its labels. Where a row has several of both, a `;` divides the labels. */
function documentedMetrics(text: string, heading: string): Map<string, string[]> {
  return new Map(
    tableAfter(text, new RegExp(`^## ${heading}$`, 'm')).flatMap(([names = '', labels = '']) => {
      const groups = labels.split(';').map((group) => namesIn(group).sort())
      return namesIn(names).map((name, i): [string, string[]] => [name, groups[i] ?? groups[0] ?? []])
    }),
  )
}

function sidecarMetrics(): Map<string, string[]> {
  const metrics = new SidecarMetrics(new Traffic(openLog({ level: 'error', json: true })))
  // The types of prom-client leave out the labels.
  const declared = metrics.registry.getMetricsAsArray() as unknown as { name: string; labelNames: string[] }[]
  metrics.close()
  const prefix = 'connect_proxy_'
  return new Map(
    declared
      .filter(({ name }) => name.startsWith(prefix))
      .map(({ name, labelNames }) => [name.slice(prefix.length), [...labelNames].sort()]),
  )
}

/** From a text with a sample of each metric, since the supervisor shows nothing else of its registry. */
async function supervisorMetrics(): Promise<Map<string, string[]>> {
  const proxy = {
    service: 'web',
    proxy: 'web-proxy',
    port: 21000,
    pid: 1,
    state: 'running',
    restarts: 1,
  } as const
  const proxies = [{ ...proxy, uptimeS: 1, lastExit: undefined, token: 'valid', problem: undefined }] as const
  const status = { agent: 'ok', isWorking: true, passes: 1, services: 1, proxies }
  const text = await new SupervisorMetrics(
    () => status,
    () => [],
  ).text()
  return new Map(
    [...text.matchAll(/^connect_supervisor_(\w+)(?:\{(.*?)\})? /gm)].map(([, name = '', labels = '']) => [
      name,
      [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label ?? '').sort(),
    ]),
  )
}
