import { LIBRARY } from '../test/fixtures/foreign-text/library.js'
import { NETWORK } from '../test/fixtures/foreign-text/network.js'
import { PROXY_CONFIGURATION, PROXY_FLAGS } from '../test/fixtures/foreign-text/proxy.js'
import {
  type ForeignTextParser,
  LONGEST_TEXT,
  processorTime,
  shapesOf,
} from '../test/fixtures/foreign-text/suite.js'
import { SUPERVISOR } from '../test/fixtures/foreign-text/supervisor.js'
import { EMBEDDED_AGENT } from '../test/fixtures/foreign-text/testing.js'
import { type Benchmark, round } from './measure.js'

const TABLES: Readonly<Record<string, readonly ForeignTextParser[]>> = {
  library: LIBRARY,
  network: NETWORK,
  'configuration of a proxy': PROXY_CONFIGURATION,
  'flags of a proxy': PROXY_FLAGS,
  supervisor: SUPERVISOR,
  'embedded agent': EMBEDDED_AGENT,
}
const TRIES = 5

/** Every parser is synchronous, so its processor time is the time for which it blocks the event loop. */
const benchmark: Benchmark = {
  question: 'How long does 64 KiB of hostile text block the event loop?',
  run: () => Promise.resolve(Object.fromEntries(Object.entries(TABLES).map(measureTable))),
}
export default benchmark

function measureTable([name, parsers]: [string, readonly ForeignTextParser[]]): [
  string,
  Record<string, number>,
] {
  const longest = parsers.map((parser) =>
    Math.max(...shapesOf(parser).map(({ text }) => shortest(parser, text))),
  )
  return [name, { parsers: parsers.length, 'longest block, ms': round(Math.max(...longest), 1) }]
}

/** The shortest of several runs: longer ones include other work of the machine. */
function shortest(parser: ForeignTextParser, text: (size: number) => string): number {
  const input = text(LONGEST_TEXT)
  return Math.min(...Array.from({ length: TRIES }, () => processorTime(parser, input)))
}
