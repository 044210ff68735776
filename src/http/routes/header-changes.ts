import type { HeaderChanges } from '../../agent/endpoints/chain-nodes.js'
import { byteString } from '../../matching/byte-string.js'
import { isJoined } from '../../matching/header-matcher.js'
import { pairsOf } from '../header-lines.js'

/** RFC 9110 section 5.6.2, in lower case. */
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/

/** Bytes that RFC 9110 section 5.5 does not allow in a value: control characters other than the tab. */
const FORBIDDEN = /[\x00-\x08\x0a-\x1f\x7f]/

/** Headers that say how a message is sent over a connection, which the HTTP client or server decides. */
const FRAMING: ReadonlySet<string> = new Set([
  ...['connection', 'content-length', 'expect', 'keep-alive', 'proxy-connection', 'te', 'trailer'],
  ...['transfer-encoding', 'upgrade'],
])

/**
 * Drops the changes that cannot be followed, and converts the values of the others to the bytes that are sent.
 * @param ignored - receives the problem of each dropped change
 */
export function checkChanges(changes: HeaderChanges, ignored: (problem: string) => void): HeaderChanges {
  const report = (name: string, problem: string | undefined): boolean => {
    if (problem !== undefined) ignored(`header ${JSON.stringify(name)}: ${problem}`)
    return problem === undefined
  }
  const lines = (list: HeaderChanges['set']): (readonly [string, string])[] =>
    list
      .filter(([name, value]) => report(name, problemOfName(name) ?? problemOfValue(value)))
      .map(([name, value]) => [name, byteString(value.replaceAll('%%', '%'))])
  return {
    remove: changes.remove.filter((name) => report(name, problemOfName(name))),
    set: lines(changes.set),
    add: lines(changes.add),
  }
}

function problemOfName(name: string): string | undefined {
  if (name === 'host' || name.startsWith(':')) return 'must not be changed'
  if (!TOKEN.test(name)) return 'not a valid name'
  return FRAMING.has(name) ? 'depends on the connection, and must not be changed' : undefined
}

function problemOfValue(value: string): string | undefined {
  // The same at Envoy.
  if (value === '') return 'an empty value changes nothing'
  if (FORBIDDEN.test(value)) return 'the value has a control character'
  // Envoy replaces commands such as `%PROTOCOL%`, and refuses a single percent sign.
  const hasCommand = value.replaceAll('%%', '').includes('%')
  return hasCommand ? 'the value has a command of Envoy (`%…%`), which is not supported' : undefined
}

/**
 * Changes headers in the order of Envoy: removes lines, then sets them, then adds some. New lines follow the others. A
 * header that Envoy keeps in one line gets a new value after a comma instead.
 * @param lines - name, value, name, value, and so on; the names in any case
 * @param changes - checked ones
 * @returns a new list
 */
export function applyChanges(lines: readonly string[], changes: HeaderChanges): string[] {
  const removed = new Set(changes.remove)
  for (const [name] of changes.set) removed.add(name)
  const changed = pairsOf(lines).filter(([name]) => !removed.has(name.toLowerCase()))
  // The last one of a name counts.
  for (const [name, value] of new Map(changes.set)) changed.push([name, value])
  for (const [name, value] of changes.add) addLine(changed, name, value)
  return changed.flat()
}

function addLine(lines: [name: string, value: string][], name: string, value: string): void {
  const line = isJoined(name) ? lines.findLast(([other]) => other.toLowerCase() === name) : undefined
  if (line === undefined) lines.push([name, value])
  else line[1] = line[1] === '' ? value : `${line[1]},${value}`
}
