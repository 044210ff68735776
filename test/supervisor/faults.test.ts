// What an operator gets wrong, and what breaks without anybody's fault.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { Host, IDLE, type Setup, kill, managed, settings, startHost } from './connect-supervisor.js'
import { isAlive } from './processes.js'
import { waitBound } from '../fixtures/bounds.js'

/** What it says when it does not start. */
async function refused(host: Host, flags: readonly string[] = []): Promise<string> {
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

for (const [what, files, expected] of [
  ['no JSON', { 'x.json': '{\n  "service": {,\n}' }, /x\.json:2:15: expected JSON/],
  ['no HCL', { 'x.hcl': 'service {\n  name = \n}\n' }, /x\.hcl:\d+:\d+: expected HCL/],
  [
    'two services with one id',
    { 'x.json': TWICE },
    /service b: duplicate service id a, already used in .*x\.json/,
  ],
  [
    'another exec_mode',
    { 'x.json': managed('a', { exec_mode: 'script' }) },
    /service a: connect\.proxy: exec_mode: expected "daemon", the only supported mode, got "script"/,
  ],
  [
    'a value that is wrong for the proxy',
    { 'x.json': managed('a', { config: { handshake_timeout_ms: 'soon' } }) },
    /service a: connect\.proxy: .*handshake_timeout_ms.*soon/,
  ],
  [
    'a range of ports upside down',
    { 'x.json': { ports: { proxy_min_port: 9, proxy_max_port: 8 } } },
    /ports: proxy_min_port 9 is greater than proxy_max_port 8/,
  ],
] as [string, Setup['files'], RegExp][]) {
  test(`a configuration with ${what} is refused, and by check as well`, async (t) => {
    const host = new Host(t, { agent: '127.0.0.1:1', files })
    assert.match(await refused(host), expected)
    const { code, error } = await host.run('check', host.configuration)
    assert.equal(code, 1)
    assert.match(error, expected)
  })
}

test('check says that files are valid, and warns of what has no effect', async (t) => {
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
  const wrong = await host.run('check', host.configuration)
  assert.equal(wrong.code, 1)
  assert.match(wrong.error, /service c: command: .*\/conf\/not-there does not exist/)
})

test('a command that is not there, or not executable, is told until it is mended', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', { command: ['./proxy'] }) })
  const supervisor = await host.start()
  await supervisor.logged('proxy does not exist')
  const program = join(host.configuration, 'proxy')
  writeFileSync(program, '#!/bin/sh\nexec sleep 1000\n', { mode: 0o644 })
  supervisor.signal('SIGHUP')
  // Root may execute what anybody may: a file without any such right is refused to all.
  const { problem } = await host.row('a', ({ problem = '' }) => problem.includes('not executable'))
  assert.match(problem ?? '', /conf\/proxy is not executable by this user/)
  chmodSync(program, 0o755)
  supervisor.signal('SIGHUP')
  await host.running('a')
})

test('a proxy that ends at once, for ever, is started on the schedule of the original', async (t) => {
  const { host } = await startHost(t, {})
  const times = join(host.configuration, 'times')
  const program = join(host.configuration, 'proxy')
  writeFileSync(program, `#!/bin/sh\ndate +%s%N >> ${times}\nexit 7\n`, { mode: 0o755 })
  host.write('a.json', managed('a', { command: [program] }))
  await host.start()
  const starts = await until(
    'six starts',
    () => {
      const found = readFileSync(times, 'utf8')
        .trim()
        .split('\n')
        .map((ns) => Number(BigInt(ns) / 1_000_000n))
      return found.length >= 6 && found
    },
    30_000,
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

test('a range of one port for two services: one runs, the other says what to do', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, { agent: agent.address, files: {} })
  const [port = 0, more = 0] = await freePorts(2)
  const range = (max: number): object => ({
    bind_addr: '127.0.0.1',
    ports: { proxy_min_port: port, proxy_max_port: max },
    connect: { proxy: { allow_managed_root: true } },
  })
  host.write('agent.json', range(port))
  host.write('a.json', managed('a', IDLE))
  host.write('b.json', managed('b', IDLE))
  const supervisor = await host.start()
  const { msg } = await supervisor.logged('no free port')
  assert.match(msg, new RegExp(`no free port from ${port} to ${port}; enlarge the range`))
  await until('one of them runs', () => host.processes().length === 1)
  host.write('agent.json', range(more))
  supervisor.signal('SIGHUP')
  await Promise.all([host.running('a'), host.running('b')])
})

test('ports that other programs have are left to them', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, { agent: agent.address, files: { 'a.json': managed('a', IDLE) } })
  const range = await freePorts(3)
  host.write('agent.json', {
    bind_addr: '127.0.0.1',
    ports: { proxy_min_port: range[0], proxy_max_port: range.at(-1) },
    connect: { proxy: { allow_managed_root: true } },
  })
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
  // And one that is taken while it does not run is not fought for.
  others[2]?.close()
  kill(first.pid, 'SIGSTOP')
  const thief = createServer()
  t.after(() => thief.close())
  kill(first.pid, 'SIGKILL')
  thief.listen(first.port, '127.0.0.1')
  await once(thief, 'listening')
  const after = await host.row('a', ({ port, state }) => port === range[2] && state === 'running')
  assert.notEqual(after.port, first.port)
})

test('a data dir that may not be written to', async (t) => {
  const host = new Host(t, { agent: '127.0.0.1:1', files: { 'agent.json': await settings() } })
  // A file where a folder should be is in the way of root as well.
  writeFileSync(host.dataDir, '')
  assert.match(
    await refused(host),
    /data_dir: .*data\/proxy cannot be used \(E[A-Z]+\): expected a directory that only this user can write to/,
  )
})

test('a disk that takes no more: what runs goes on, and nothing is started that could not be found again', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  // Two KiB are enough for the state of one, and not for that of four.
  const supervisor = host.spawn([], ['bash', '-c', 'trap "" XFSZ; ulimit -f 2; exec "$@"', 'bash'])
  const { pid } = await host.running('a')
  for (const name of ['b', 'c', 'd']) host.write(`${name}.json`, managed(name, IDLE))
  supervisor.signal('SIGHUP')
  const { msg } = await supervisor.logged('cannot write the state')
  assert.match(msg, /cannot write the state to .*data\/proxy: EFBIG/)
  const { passes } = await host.status()
  await until('it has been tried again', async () => (await host.status()).passes > passes)
  assert.deepEqual(host.processes(), [pid])
  for (const name of ['b', 'c', 'd']) host.write(`${name}.json`, {})
  supervisor.signal('SIGHUP')
  await until('the state is whole', () => Object.keys(host.snapshot().Proxies).join() === 'a-proxy')
  await supervisor.stop('SIGKILL')
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
})

test('a state file that is torn, or from the future, stops nothing and loses nothing', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  const { pid } = await host.running('a')
  await first.stop('SIGKILL')
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  const whole = readFileSync(path, 'utf8')
  for (const [content, expected] of [
    [whole.slice(0, whole.length / 2), /not valid JSON .*: the file is truncated/],
    [whole.replace('"Version":1', '"Version":2'), /unsupported version 2 \(this supervisor supports 1\)/],
  ] as [string, RegExp][]) {
    writeFileSync(path, content)
    const said = await refused(host)
    assert.match(said, expected)
    assert.match(said, /Nothing was changed, and running proxies keep running\. .*move it away/)
    assert.equal(readFileSync(path, 'utf8'), content)
    assert.ok(isAlive(pid))
  }
  writeFileSync(path, whole)
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
})

test('a second supervisor in the same data dir is refused', async (t) => {
  const { host } = await startHost(t, {})
  const first = await host.start()
  assert.match(
    await refused(host),
    new RegExp(`another supervisor already uses this data_dir \\(pid ${first.pid}\\)`),
  )
})

test('the agent is away at the start, and comes', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, {
    agent: agent.address,
    files: { 'agent.json': await settings(), 'a.json': managed('a', IDLE) },
  })
  await agent.stop()
  const supervisor = await host.start()
  await supervisor.logged('no answer from the agent')
  assert.equal(host.processes().length, 0)
  await agent.restart()
  await host.running('a')
  await supervisor.logged('agent is reachable again')
})

test('the agent is away while a proxy crashes, and when the supervisor starts: what was registered runs on', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, {
    agent: agent.address,
    files: { 'agent.json': await settings(), 'a.json': managed('a', IDLE) },
  })
  const first = await host.start()
  const before = await host.running('a')
  await agent.stop()
  await first.logged('no answer from the agent')
  kill(before.pid)
  const second = await host.row('a', ({ pid, state }) => state === 'running' && pid !== before.pid)
  await first.stop('SIGKILL')
  kill(second.pid!)
  await until('it is gone', () => !isAlive(second.pid!))
  await host.start()
  assert.notEqual((await host.running('a')).pid, second.pid)
})

test('an agent that has forgotten everything is told again; proxies run on', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const [host = '', port = ''] = agent.address.split(':')
  const own = new Host(t, {
    agent: agent.address,
    files: { 'agent.json': await settings(), 'a.json': managed('a', IDLE) },
  })
  const supervisor = await own.start()
  const { pid } = await own.running('a')
  await until('it has been seen', async () => (await own.status()).passes > 1)
  await agent.close()
  await supervisor.logged('no answer from the agent')
  const anew = await TestAgent.start({ host, port: Number(port) })
  t.after(() => anew.close())
  await until('the new one knows it', async () => {
    const services = (await (await fetch(`${anew.url}/v1/agent/services`)).json()) as object
    return Object.keys(services).sort().join() === 'a,a-proxy'
  })
  assert.equal((await own.running('a')).pid, pid)
})

test('as root nothing is started unless that is allowed, and what is registered is the service alone', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, { agent: agent.address, files: { 'a.json': managed('a', IDLE) } })
  const isRoot = process.getuid?.() === 0
  const supervisor = await host.start()
  if (!isRoot) {
    // The rule is for root alone.
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
  await until('the service is registered, and alone', async () => {
    const services = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as object
    return Object.keys(services).join() === 'a'
  })
})

test('what a proxy writes is kept within bounds', async (t) => {
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
  await until('it was put aside', () => readFileSync(`${log}.1`).length > 100_000, waitBound(25_000))
  mkdirSync(join(host.dataDir, 'x'))
  assert.ok(isAlive((await host.running('a')).pid))
  const before = readFileSync(log).length
  await until('it writes on', () => readFileSync(log).length !== before)
})

test('wrong flags and commands are refused in one line', async (t) => {
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
      timeout: waitBound(10_000),
    })
    const [said] = await Promise.all([text(child.stderr), once(child, 'close')])
    assert.equal(child.exitCode, 1, args.join(' '))
    assert.match(said, expected)
    assert.equal(said.trim().split('\n').length, 1, said)
  }
})
