// Invalid configurations, and failures of proxies, the agent, the disk, and the state.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import { WAIT_MS, until } from '../fixtures/mesh.js'
import {
  Host,
  IDLE,
  type Setup,
  kill,
  managed,
  servicesOf,
  settings,
  settingsFor,
  startHost,
  startIdle,
} from './connect-supervisor.js'
import { isAlive } from './processes.js'
import { waitBound } from '../fixtures/bounds.js'

/** Starts a supervisor that must fail, and returns its message. */
async function startFailure(host: Host, flags: readonly string[] = []): Promise<string> {
  const supervisor = host.spawn(flags)
  assert.equal(await supervisor.ended(), 1)
  return supervisor.text.trim()
}

const TWICE = {
  services: [
    { name: 'a', port: 1 },
    { name: 'b', id: 'a', port: 2 },
  ],
}

for (const [problem, files, expected] of [
  ['invalid JSON', { 'x.json': '{\n  "service": {,\n}' }, /x\.json:2:15: expected JSON/],
  ['invalid HCL', { 'x.hcl': 'service {\n  name = \n}\n' }, /x\.hcl:\d+:\d+: expected HCL/],
  [
    'a duplicate service id',
    { 'x.json': TWICE },
    /service b: duplicate service id a, already used in .*x\.json/,
  ],
  [
    'an unsupported exec_mode',
    { 'x.json': managed('a', { exec_mode: 'script' }) },
    /service a: connect\.proxy: exec_mode: expected "daemon", the only supported mode, got "script"/,
  ],
  [
    'an invalid setting of a proxy',
    { 'x.json': managed('a', { config: { handshake_timeout_ms: 'soon' } }) },
    /service a: connect\.proxy: .*handshake_timeout_ms.*soon/,
  ],
  [
    'a reversed port range',
    { 'x.json': { ports: { proxy_min_port: 9, proxy_max_port: 8 } } },
    /ports: proxy_min_port 9 is greater than proxy_max_port 8/,
  ],
] as [string, Setup['files'], RegExp][]) {
  test(`start and check reject a configuration with ${problem}`, async (t) => {
    const host = new Host(t, { agent: '127.0.0.1:1', files })
    assert.match(await startFailure(host), expected)
    const { code, error } = await host.run('check', host.configuration)
    assert.equal(code, 1)
    assert.match(error, expected)
  })
}

test('check accepts a valid configuration, warns of unknown settings, and rejects a missing command', async (t) => {
  const host = new Host(t, {
    agent: '127.0.0.1:1',
    files: {
      'a.json': managed('a', { config: { handshake_timeout: 3 } }),
      'b.hcl': 'service { name = "b" }',
    },
  })
  const { code, out, error } = await host.run('check', host.configuration)
  assert.deepEqual([code, out], [0, 'configuration is valid: 2 services, 1 with a managed proxy\n'])
  assert.match(error, /warning: .*a\.json: service a: .*handshake_timeout/)
  host.write('c.json', managed('c', { command: ['./not-there'] }))
  const missing = await host.run('check', host.configuration)
  assert.equal(missing.code, 1)
  assert.match(missing.error, /service c: command: .*\/conf\/not-there does not exist/)
})

test('reports a missing or non-executable command until it can be run', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', { command: ['./proxy'] }) })
  const supervisor = await host.start()
  await supervisor.logged('proxy does not exist')
  const program = join(host.configuration, 'proxy')
  writeFileSync(program, '#!/bin/sh\nexec sleep 1000\n', { mode: 0o644 })
  supervisor.signal('SIGHUP')
  // Root may execute a file if any user may, so the file has no execute bit at all.
  const { problem } = await host.row('a', ({ problem = '' }) => problem.includes('not executable'))
  assert.match(problem ?? '', /conf\/proxy is not executable by this user/)
  chmodSync(program, 0o755)
  supervisor.signal('SIGHUP')
  await host.running('a')
})

test('restarts a proxy that keeps exiting after 0, 0, 2, 4, and 8 s, as Consul 1.5 did', async (t) => {
  const { host } = await startHost(t, {})
  const times = join(host.configuration, 'times')
  const program = join(host.configuration, 'proxy')
  writeFileSync(program, `#!/bin/sh\ndate +%s%N >> ${times}\nexit 7\n`, { mode: 0o755 })
  host.write('a.json', managed('a', { command: [program] }))
  await host.start()
  const starts = await until(
    'six starts',
    () => {
      const starts = readFileSync(times, 'utf8')
        .trim()
        .split('\n')
        .map((ns) => Number(BigInt(ns) / 1_000_000n))
      return starts.length >= 6 && starts
    },
    waitBound(30_000),
  )
  const gaps = starts.slice(1, 6).map((at, i) => (at - (starts[i] ?? 0)) / 1_000)
  t.diagnostic(`seconds between starts: ${gaps.join(' ')}`)
  for (const [i, expected] of [0, 0, 2, 4, 8].entries()) {
    const gap = gaps[i] ?? Infinity
    assert.ok(
      gap >= expected && gap < expected + 1,
      `start ${i + 2} came after ${gap} s, expected ${expected} s`,
    )
  }
  await host.row('a', ({ lastExit, restarts }) => lastExit === 'exit code 7' && restarts === 5)
})

test('starts as many proxies as the port range allows, and more when the range is enlarged', async (t) => {
  const [port = 0, more = 0] = await freePorts(2)
  const { host } = await startHost(t, {
    'agent.json': settingsFor([port]),
    'a.json': managed('a', IDLE),
    'b.json': managed('b', IDLE),
  })
  const supervisor = await host.start()
  const { msg } = await supervisor.logged('no free port')
  assert.match(msg, new RegExp(`no free port from ${port} to ${port}; enlarge the range`))
  await until('one proxy runs', () => host.processes().length === 1)
  host.write('agent.json', settingsFor([port, more]))
  supervisor.signal('SIGHUP')
  await Promise.all([host.running('a'), host.running('b')])
})

test('skips ports that other programs use, also when a proxy loses its port', async (t) => {
  const range = await freePorts(3)
  const { host } = await startHost(t, { 'agent.json': settingsFor(range), 'a.json': managed('a', IDLE) })
  const others = await Promise.all(
    range.map(async (port) => {
      const server = createServer().listen(port, '127.0.0.1')
      t.after(() => server.close())
      await once(server, 'listening')
      return server
    }),
  )
  const supervisor = await host.start()
  const { msg } = await supervisor.logged('no free port')
  assert.match(msg, /other programs use 3 of them/)
  others[1]?.close()
  const first = await host.running('a')
  assert.equal(first.port, range[1])
  // Another program takes the port before the proxy is restarted.
  others[2]?.close()
  const thief = createServer()
  t.after(() => thief.close())
  kill(first.pid)
  thief.listen(first.port, '127.0.0.1')
  await once(thief, 'listening')
  await host.row('a', ({ port, state }) => port === range[2] && state === 'running')
})

test('does not start without a writable data directory', async (t) => {
  const host = new Host(t, { agent: '127.0.0.1:1', files: { 'agent.json': await settings() } })
  // A file in place of the directory stops root as well.
  writeFileSync(host.dataDir, '')
  assert.match(
    await startFailure(host),
    /data_dir: .*data\/proxy cannot be used \(E[A-Z]+\): expected a directory that only this user can write to/,
  )
})

test('starts no proxy while the state cannot be written, and keeps running proxies', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  // The state of one proxy fits in 2 KiB; that of four does not.
  const supervisor = host.spawn([], ['bash', '-c', 'trap "" XFSZ; ulimit -f 2; exec "$@"', 'bash'])
  const { pid } = await host.running('a')
  for (const name of ['b', 'c', 'd']) host.write(`${name}.json`, managed(name, IDLE))
  supervisor.signal('SIGHUP')
  const { msg } = await supervisor.logged('cannot write the state')
  assert.match(msg, /cannot write the state to .*data\/proxy: EFBIG/)
  const { passes } = await host.status()
  await until('the next pass', async () => (await host.status()).passes > passes)
  assert.deepEqual(host.processes(), [pid])
  for (const name of ['b', 'c', 'd']) host.write(`${name}.json`, {})
  supervisor.signal('SIGHUP')
  await until('the state is written', () => Object.keys(host.snapshot().Proxies).join() === 'a-proxy')
  await supervisor.stop('SIGKILL')
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
})

test('does not start with a truncated or newer state file, and leaves the file and the proxies alone', async (t) => {
  const { host, supervisor: first, pid } = await startIdle(t)
  await first.stop('SIGKILL')
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  const whole = readFileSync(path, 'utf8')
  for (const [content, expected] of [
    [whole.slice(0, whole.length / 2), /not valid JSON .*: the file is truncated/],
    [whole.replace('"Version":1', '"Version":2'), /unsupported version 2 \(this supervisor supports 1\)/],
  ] as [string, RegExp][]) {
    writeFileSync(path, content)
    const message = await startFailure(host)
    assert.match(message, expected)
    assert.match(message, /Nothing was changed, and running proxies keep running\. .*move it away/)
    assert.equal(readFileSync(path, 'utf8'), content)
    assert.ok(isAlive(pid))
  }
  writeFileSync(path, whole)
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
})

test('does not start a second supervisor in the same data directory', async (t) => {
  const { host } = await startHost(t, {})
  const first = await host.start()
  assert.match(
    await startFailure(host),
    new RegExp(`another supervisor already uses this data_dir \\(pid ${first.pid}\\)`),
  )
})

test('starts proxies when the agent becomes reachable', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  await agent.stop()
  const supervisor = await host.start()
  await supervisor.logged('no answer from the agent')
  assert.equal(host.processes().length, 0)
  await agent.restart()
  await host.running('a')
  await supervisor.logged('agent is reachable again')
})

test('restarts crashed proxies that were registered before, without the agent', async (t) => {
  const { agent, host, supervisor: first, row: before } = await startIdle(t)
  await agent.stop()
  await first.logged('no answer from the agent')
  kill(before.pid)
  const second = await host.row('a', ({ pid, state }) => state === 'running' && pid !== before.pid)
  await first.stop('SIGKILL')
  kill(second.pid!)
  await until('the process has ended', () => !isAlive(second.pid!))
  await host.start()
  assert.notEqual((await host.running('a')).pid, second.pid)
})

test('registers services again with an agent that lost them, and keeps proxies running', async (t) => {
  const { agent, host, supervisor, pid } = await startIdle(t)
  await until('the second pass', async () => (await host.status()).passes > 1)
  await agent.stop()
  await supervisor.logged('no answer from the agent')
  await agent.restart({ forget: true })
  await until(
    'the agent has both services',
    async () =>
      Object.keys(await servicesOf(agent))
        .sort()
        .join() === 'a,a-proxy',
  )
  assert.equal((await host.running('a')).pid, pid)
})

test('as root, starts no proxy without allow_managed_root, and registers the service alone', async (t) => {
  const { agent, host } = await startHost(t, { 'agent.json': {}, 'a.json': managed('a', IDLE) })
  const isRoot = process.getuid?.() === 0
  const supervisor = await host.start()
  if (!isRoot) {
    // The setting applies to root only.
    await host.running('a')
    return
  }
  const { msg } = await supervisor.logged('no proxy is started as root')
  assert.match(
    msg,
    /run the supervisor as another user, or set connect \{ proxy \{ allow_managed_root = true \} \}/,
  )
  await host.row('a', ({ state, problem = '' }) => state === 'refused' && problem.includes('as root'))
  assert.equal(host.processes().length, 0)
  await until(
    'only the service is registered',
    async () => Object.keys(await servicesOf(agent)).join() === 'a',
  )
})

test('rotates the log of a proxy at its size limit, while the proxy keeps writing', async (t) => {
  const { host } = await startHost(
    t,
    {
      'a.json': managed('a', {
        command: ['sh', '-c', 'while :; do head -c 40000 /dev/zero | tr "\\\\0" x; sleep 0.1; done'],
      }),
    },
    { flags: ['-proxy-log-bytes', '100000', '-proxy-log-files', '1'] },
  )
  await host.start()
  await host.running('a')
  const log = join(host.dataDir, 'proxy', 'logs', 'a-proxy-stdout.log')
  await until('the log is rotated', () => readFileSync(`${log}.1`).length > 100_000, waitBound(25_000))
  assert.ok(isAlive((await host.running('a')).pid))
  const before = readFileSync(log).length
  await until('the proxy writes more', () => readFileSync(log).length !== before)
})

test('rejects invalid flags and commands in one line', async (t) => {
  const host = new Host(t, { agent: '127.0.0.1:1', files: {} })
  const bin = join(import.meta.dirname, '..', '..', 'examples', 'supervisor', 'bin.js')
  for (const [args, expected] of [
    [[], /expected -config-file or -config-dir/],
    [
      ['-config-dir', host.configuration],
      /data_dir: required, .* set it in the configuration or with -data-dir/,
    ],
    [
      ['-config-dir', host.configuration, '-data-dir', 'relative'],
      /data_dir: expected an absolute path, got "relative"/,
    ],
    [['-config-dir', '/not/there', '-dev'], /\/not\/there: cannot be read \(ENOENT\)/],
    [['-bogus'], /unknown flag: -bogus \(see -help\)/],
    [['bogus'], /unknown command: "bogus" \(see -help\)/],
    [['status'], /expected -data-dir, or a configuration with data_dir/],
    [['logs', 'x', '-data-dir', host.dataDir], /no logs found for "x"/],
    [['stop', '-data-dir', host.dataDir], /stop: expected the id of one proxy/],
    [['stop', 'x', '-data-dir', host.dataDir], /no supervisor is running with data_dir/],
    [
      ['-config-dir', host.configuration, '-dev', '-log-level', 'loud'],
      /-log-level: expected one of .*, got "loud"/,
    ],
  ] as [string[], RegExp][]) {
    const child = spawn(process.execPath, [bin, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: WAIT_MS,
    })
    const [message] = await Promise.all([text(child.stderr), once(child, 'close')])
    assert.equal(child.exitCode, 1, args.join(' '))
    assert.match(message, expected)
    assert.equal(message.trim().split('\n').length, 1, message)
  }
})
