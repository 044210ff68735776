// Runs a script of requests against two agents and compares their answers.
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitBound } from '../fixtures/bounds.js'

interface Recorded {
  status: number
  headers: Record<string, string>
  body: unknown
}

/** A real agent repeats a change that its servers rejected after 15 to 30 s. */
const CHANGE_MS = waitBound(60_000)

export type Recording = Map<string, Recorded>

interface CallOptions {
  body?: unknown
  token?: string
}

/** An answer with its original JSON and its index. */
export interface Answered extends Recorded {
  index: string
}

interface Wanted {
  has?: string[]
  lacks?: string[]
}

/** Sends a request to one agent and records the answer under a label. */
export interface Recorder {
  (label: string, request: string, options?: CallOptions): Promise<Answered>
  /**
   * Repeats a request, without recording it, until its answer has and lacks these strings: changes of a real agent
   * reach the catalog one after the other.
   */
  until(request: string, wanted: Wanted, options?: CallOptions): Promise<void>
}

/** An intended difference. */
export interface Difference {
  /** The labels of the requests. */
  call: string | RegExp
  /** `status`, `body`, a header's name, or a path in the body. A RegExp matches whole paths. */
  what: string | RegExp
  reason: string
}

const comparedHeaders = [
  'content-type',
  'allow',
  'x-consul-index',
  'x-consul-knownleader',
  'x-consul-lastcontact',
  'x-consul-contenthash',
  'x-consul-effective-consistency',
  'x-cache',
  'age',
]

export function createRecorder(url: string): { record: Recorder; recording: Recording } {
  const recording: Recording = new Map()
  const call = async (request: string, { body, token }: CallOptions = {}): Promise<[Recorded, Answered]> => {
    const [method = '', path = ''] = request.split(' ')
    const response = await fetch(url + path, {
      method,
      signal: AbortSignal.timeout(waitBound(60_000)),
      headers: token === undefined ? {} : { 'X-Consul-Token': token },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type') === 'application/json'
    const parsed: unknown = isJson ? JSON.parse(text) : text
    const headers = Object.fromEntries(
      comparedHeaders.flatMap((name): [string, string][] => {
        const value = response.headers.get(name)
        return value === null ? [] : [[name, normalHeader(name, value)]]
      }),
    )
    const recorded = { status: response.status, headers, body: normal(parsed) }
    const index = response.headers.get('x-consul-index') ?? response.headers.get('x-consul-contenthash') ?? ''
    return [recorded, { ...recorded, body: parsed, index }]
  }
  const record = async (label: string, request: string, options?: CallOptions): Promise<Answered> => {
    assert.ok(!recording.has(label), `duplicate label: ${label}`)
    const [recorded, answered] = await call(request, options)
    recording.set(label, recorded)
    return answered
  }
  const until = async (
    request: string,
    { has = [], lacks = [] }: Wanted,
    options?: CallOptions,
  ): Promise<void> => {
    const deadline = Date.now() + CHANGE_MS
    for (;;) {
      const [, { body }] = await call(request, options)
      const text = JSON.stringify(body)
      if (has.every((part) => text.includes(part)) && !lacks.some((part) => text.includes(part))) return
      assert.ok(Date.now() < deadline, `${request}: expected ${JSON.stringify({ has, lacks })}, got ${text}`)
      await sleep(25)
    }
  }
  return { record: Object.assign(record, { until }), recording }
}

/** Returns a line for each difference without a row in the table, and for each row without a difference. */
export function compare(real: Recording, embedded: Recording, intended: readonly Difference[]): string[] {
  const used = new Set<Difference>()
  const problems: string[] = []
  for (const [label, expected] of real) {
    const actual = embedded.get(label)
    for (const [what, a, b] of differences({ ...expected }, { ...actual })) {
      const row = intended.find(
        (row) =>
          covers(row.call, label) &&
          (covers(row.what, what) || (typeof row.what === 'string' && what.startsWith(`${row.what}.`))),
      )
      if (row) used.add(row)
      else
        problems.push(
          `${label}: ${what} is ${JSON.stringify(a)} for the real agent, ${JSON.stringify(b)} here`,
        )
    }
  }
  for (const row of intended) {
    if (!used.has(row)) problems.push(`unused row of the table: ${String(row.call)} ${String(row.what)}`)
  }
  return problems
}

function covers(wanted: string | RegExp, text: string): boolean {
  return typeof wanted === 'string' ? wanted === text : wanted.test(text)
}

function differences(a: unknown, b: unknown, path = ''): [string, unknown, unknown][] {
  if (isRecord(a) && isRecord(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)])
    return [...keys].flatMap((key) => differences(a[key], b[key], path === '' ? key : `${path}.${key}`))
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [[path, a, b]]
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

function normalHeader(name: string, value: string): string {
  if (name === 'x-consul-index') return value === '1' ? '1' : '<index>'
  if (name === 'age' || name === 'x-consul-contenthash') return `<${name}>`
  return value
}

/** Replaces values that differ between any two agents with placeholders. */
function normal(value: unknown, key = ''): unknown {
  if (typeof value === 'string') return normalText(value, key)
  if (typeof value === 'number') return /Index$|^SerialNumber$/.test(key) && value > 0 ? '<number>' : value
  if (Array.isArray(value)) return inOrder(value.map((item) => normal(item, key)))
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [normalText(name, ''), normal(item, name)]),
  )
}

/** Sorts lists of tags, tokens, and roots, whose order in Consul is unspecified. */
function inOrder(items: unknown[]): unknown[] {
  const unordered = (item: unknown): boolean =>
    typeof item === 'string' || (isRecord(item) && ('AccessorID' in item || 'RootCert' in item))
  if (!items.every(unordered)) return items
  return items.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
}

function normalText(text: string, key: string): string {
  if (key === 'Hash' || key === 'ContentHash' || key === 'SerialNumber') return `<${key}>`
  return (
    text
      .replace(/-----BEGIN ([A-Z ]+)-----[^-]+-----END [A-Z ]+-----\n/g, '<$1>')
      .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<uuid>')
      .replace(/\b[0-9a-f]{2}(:[0-9a-f]{2}){7,}\b/g, '<hex>')
      .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, '<time>')
      .replace(/127\.0\.0\.1:\d{4,5}\b/g, '127.0.0.1:<port>')
      // The IDs of targets have a partition since Consul 1.11.
      .replaceAll('.default.default.', '.default.')
      // Consul starts at any service of a circle.
      .replace(/circular resolver redirect: \[[^\]]+\]/, 'circular resolver redirect: [<IDs>]')
  )
}
