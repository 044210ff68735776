// Compares the tables in operations.md and options.md with the source and with exported metrics.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openLog } from '../../examples/proxy/src/operator/log.js'
import { Metrics as SidecarMetrics } from '../../examples/proxy/src/operator/metrics.js'
import { Traffic } from '../../examples/proxy/src/listeners/traffic.js'
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
    ['### Decision basis', literalsOf('src/authorize/decision.ts', 'DecisionBasis')],
    ['### Close reasons', literalsOf('examples/proxy/src/listeners/traffic.ts', 'CloseReason')],
  ] as const) {
    it(`lists exactly the names in the source under "${heading}"`, () => {
      assert.ok(names.length >= 6, `only ${names.join(', ')}`)
      const rows = tableAfter(text, new RegExp(`^${heading}$`, 'm'))
      assert.deepEqual(rows.flatMap(([name = '']) => namesIn(name)).sort(), [...names].sort())
    })
  }

  it('lists exactly the names of DEBUG', () => {
    const documented = [...text.matchAll(/`(connect:\w+)`/g)].map(([, name]) => name ?? '')
    assert.deepEqual(new Set(documented), new Set(Object.values(log).map(({ namespace }) => namespace)))
  })

  for (const [heading, exported] of [
    ['Sidecar metrics', sidecarMetrics],
    ['Supervisor metrics', supervisorMetrics],
  ] as const) {
    it(`lists exactly the exported metrics and labels under "${heading}"`, async () => {
      assert.deepEqual(documentedMetrics(text, heading), await exported())
    })
  }
})

describe('guides/options.md', () => {
  const sections = readFileSync(join(root, 'guides', 'options.md'), 'utf8')
  for (const [heading, file, name] of [
    ['Service options', 'src/service/options/service-options.ts', 'ServiceOptions'],
    ['Agent options', 'src/agent/options.ts', 'AgentOptions'],
    ['Dial options', 'src/service/options/dial-options.ts', 'DialOptions'],
    ['Forward options', 'src/service/options/dial-options.ts', 'ForwardOptions'],
    ['Listen options', 'src/service/options/listen-options.ts', 'ListenOptions'],
    ['Serve options', 'src/adapters/requests/gate-options.ts', 'RequestOptions'],
    ['Registration options', 'src/service/options/register-options.ts', 'RegisterOptions'],
  ] as const) {
    it(`lists exactly the options of ${name}, with their numeric defaults`, () => {
      const rows = tableAfter(sections, new RegExp(`^## ${heading}$`, 'm'))
      const options = optionsOf(file, name)
      assert.ok(options.size >= 2)
      // `tls.ca` and `.cert` are keys of `tls`.
      const documented = new Map(
        rows.flatMap(([names = '', value = '']) =>
          namesIn(names).map((option): [string, string] => [option.split('.')[0] ?? '', value]),
        ),
      )
      documented.delete('')
      assert.deepEqual(new Set(documented.keys()), new Set(options.keys()))
      for (const [option, value] of options)
        if (value !== undefined)
          assert.match(documented.get(option) ?? '', new RegExp(`\\b${value}\\b`), option)
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

/** The properties of an interface, with their numeric defaults. */
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

/** The rows of the first table after a heading, without the header. */
function tableAfter(text: string, start: RegExp): string[][] {
  const heading = start.exec(text)
  assert.ok(heading !== null, `not found: ${String(start)}`)
  const lines = text.slice(heading.index).split('\n')
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

/** The metrics in a table with their labels. In a row of several metrics, `;` separates their labels. */
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
  // The types of prom-client lack the labels.
  const declared = metrics.registry.getMetricsAsArray() as unknown as { name: string; labelNames: string[] }[]
  metrics.close()
  const prefix = 'connect_proxy_'
  return new Map(
    declared
      .filter(({ name }) => name.startsWith(prefix))
      .map(({ name, labelNames }) => [name.slice(prefix.length), [...labelNames].sort()]),
  )
}

/** The metrics of the supervisor, from an exported text: its registry is private. */
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
