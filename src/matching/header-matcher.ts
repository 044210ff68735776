import type { HeaderRule } from '../agent/endpoints/http-rules.js'
import { byteString, lowerCase } from './byte-string.js'
import { compilePattern } from './pattern.js'

/**
 * Headers of which Envoy joins several lines to one value, separated by commas, before it applies a rule. A rule sees
 * each line of any other header. Found by asking Envoy 1.40.
 */
const JOINED: ReadonlySet<string> = new Set([
  ...['accept', 'accept-encoding', 'access-control-request-headers', 'access-control-request-method'],
  'access-control-request-private-network',
  ...['authorization', 'cache-control', 'content-encoding', 'content-type', 'expect'],
  ...['grpc-accept-encoding', 'grpc-timeout', 'host', 'if-match', 'if-modified-since', 'if-none-match'],
  ...['if-range', 'if-unmodified-since', 'origin', 'pragma', 'referer', 'user-agent', 'via'],
  ...['x-client-trace-id', 'x-envoy-attempt-count', 'x-envoy-decorator-operation'],
  ...['x-envoy-downstream-service-cluster', 'x-envoy-downstream-service-node', 'x-envoy-external-address'],
  ...[
    'x-envoy-original-path',
    'x-forwarded-client-cert',
    'x-forwarded-for',
    'x-forwarded-host',
    'x-forwarded-port',
  ],
  ...['x-forwarded-proto', 'x-request-id'],
])

/** Whether Envoy keeps a header in one line. */
export function isJoined(name: string): boolean {
  return JOINED.has(name)
}

/** Headers of one connection, which Envoy removes before it applies a rule. */
const REMOVED: ReadonlySet<string> = new Set(['keep-alive', 'proxy-connection', 'transfer-encoding'])

/** Whether the lines of a header meet a rule. */
export type LinesMatcher = (lines: readonly string[]) => boolean

/**
 * Compiles a rule on a header. A condition on the value holds if it holds for any line; inverted, if there are lines and
 * it holds for none. So an absent header meets no condition on its value, not even an inverted one.
 * @throws PatternError
 */
export async function compileHeaderRule(rule: HeaderRule): Promise<LinesMatcher> {
  const { name, kind, invert } = rule
  if (REMOVED.has(name)) return () => kind === 'present' && invert
  if (kind === 'present') return (lines) => lines.length > 0 !== invert
  const matches = await compileValue(kind, rule)
  if (!JOINED.has(name)) return (lines) => lines.length > 0 && lines.some(matches) !== invert
  return (lines) => lines.length > 0 && matches(joined(lines)) !== invert
}

function joined(lines: readonly string[]): string {
  return lines.filter((line) => line !== '').join(',')
}

async function compileValue(
  kind: Exclude<HeaderRule['kind'], 'present'>,
  rule: HeaderRule,
): Promise<(line: string) => boolean> {
  if (kind === 'regex') {
    const pattern = await compilePattern(rule.value)
    return (line) => pattern.matches(line)
  }
  const bytes = byteString(rule.value)
  if (!rule.ignoreCase) return (line) => COMPARISONS[kind](line, bytes)
  const lower = lowerCase(bytes)
  return (line) => COMPARISONS[kind](lowerCase(line), lower)
}

const COMPARISONS: Readonly<
  Record<Exclude<HeaderRule['kind'], 'present' | 'regex'>, (line: string, value: string) => boolean>
> = {
  exact: (line, value) => line === value,
  prefix: (line, value) => line.startsWith(value),
  suffix: (line, value) => line.endsWith(value),
  contains: (line, value) => line.includes(value),
}
