import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { type Server, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { type TestContext, after, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import {
  type ProcessId,
  ageMs,
  currentBoot,
  findByEnvironment,
  identify,
  isRunning,
  killSession,
  sessionOf,
  signalProcess,
} from '../../examples/supervisor/src/process/identity.js'
import {
  LAUNCH_VARIABLE,
  type Launch,
  STANDBY_VARIABLE,
  findProgram,
  fingerprint,
  proxyEnvironment,
} from '../../examples/supervisor/src/process/launch.js'
import { STREAMS, logPath, openLogs, rotate } from '../../examples/supervisor/src/process/logs.js'
import { findPort, isFree } from '../../examples/supervisor/src/process/ports.js'
import { RestartBackoff } from '../../examples/supervisor/src/process/restart-backoff.js'
import { openFilesIn } from '../fixtures/open-files.js'
import { freePort, freePorts } from '../fixtures/free-ports.js'
import { scripted, seeded } from '../fixtures/random.js'

const root = mkdtempSync(join(tmpdir(), 'supervisor-process-'))
after(() => {
  rmSync(root, { recursive: true })
})
let folders = 0

function newFolder(): string {
  const path = join(root, String((folders += 1)))
  mkdirSync(path)
  return path
}

describe('supervisor: restarts', () => {
  it('happen three times at once, and then with pauses that double up to a minute', () => {
    const restarts = new RestartBackoff()
    const waits = Array.from({ length: 12 }, () => {
      const { waitMs } = restarts
      restarts.started()
      restarts.ended(0)
      return waitMs / 1_000
    })
    assert.deepEqual(waits, [0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60])
  })

  it('wait a minute after 2,000 failures', () => {
    const restarts = new RestartBackoff()
    for (let i = 0; i < 2_000; i++) restarts.started()
    assert.equal(restarts.waitMs, 60_000)
  })

  const lives: [aliveMs: number, waitS: number][] = [
    [0, 4],
    [9_999, 4],
    [10_000, 0],
    [86_400_000, 0],
  ]
  for (const [aliveMs, waitS] of lives) {
    it(`wait ${waitS} s after a process that lived ${aliveMs} ms`, () => {
      const restarts = new RestartBackoff()
      for (let i = 0; i < 4; i++) restarts.started()
      restarts.ended(aliveMs)
      assert.equal(restarts.waitMs, waitS * 1_000)
    })
  }

  it('start again with three at once after a healthy process', () => {
    const restarts = new RestartBackoff()
    for (let i = 0; i < 7; i++) restarts.started()
    restarts.ended(10_000)
    const waits = Array.from({ length: 4 }, () => {
      const { waitMs } = restarts
      restarts.started()
      restarts.ended(9_999)
      return waitMs
    })
    assert.deepEqual(waits, [0, 0, 0, 2_000])
  })

  it('start again after a reset', () => {
    const restarts = new RestartBackoff()
    for (let i = 0; i < 7; i++) restarts.started()
    restarts.reset()
    assert.equal(restarts.waitMs, 0)
  })
})

describe('supervisor: the environment of a proxy', () => {
  it('is that of the supervisor, with the ID and the token of the proxy', () => {
    const base = {
      PATH: '/bin',
      HOME: '/root',
      CONSUL_HTTP_ADDR: 'a:1',
      CONSUL_CACERT: '/ca',
      CONSUL_HTTP_SSL: '1',
    }
    assert.deepEqual(proxyEnvironment(base, 'web-proxy', 'secret'), {
      ...base,
      CONNECT_PROXY_ID: 'web-proxy',
      CONNECT_PROXY_TOKEN: 'secret',
      CONSUL_PROXY_ID: 'web-proxy',
      CONSUL_PROXY_TOKEN: 'secret',
    })
  })

  it('has no token variable without a token', () => {
    assert.deepEqual(proxyEnvironment({}, 'web-proxy', undefined), {
      CONNECT_PROXY_ID: 'web-proxy',
      CONSUL_PROXY_ID: 'web-proxy',
    })
  })

  for (const name of [
    'CONSUL_HTTP_AUTH',
    'CONSUL_HTTP_TOKEN',
    'CONSUL_HTTP_TOKEN_FILE',
    'CONNECT_PROXY_TOKEN',
    'CONSUL_PROXY_TOKEN',
    'CREDENTIALS_DIRECTORY',
  ]) {
    it(`does not contain ${name} of the supervisor`, () => {
      const base = { [name]: 'of-the-supervisor', PATH: '/bin' }
      for (const token of ['own', undefined]) {
        const environment = proxyEnvironment(base, 'web-proxy', token)
        assert.ok(!Object.values(environment).includes('of-the-supervisor'))
        assert.equal(environment['CONNECT_PROXY_TOKEN'], token)
      }
    })
  }

  it('has no variables that change with each start of the supervisor', () => {
    const volatile =
      'CONNECT_PROXY_ID CONNECT_SIDECAR_FOR INVOCATION_ID JOURNAL_STREAM LISTEN_FDS LISTEN_PID ' +
      'LISTEN_FDNAMES MAINPID NOTIFY_SOCKET OLDPWD PWD SHLVL SSH_CLIENT SSH_CONNECTION SSH_TTY ' +
      'SYSTEMD_EXEC_PID WATCHDOG_PID WATCHDOG_USEC XDG_SESSION_ID _'
    const base = Object.fromEntries(
      [...volatile.split(' '), LAUNCH_VARIABLE, STANDBY_VARIABLE].map((name) => [name, 'x']),
    )
    assert.deepEqual(proxyEnvironment(base, 'web-proxy', 't'), proxyEnvironment({}, 'web-proxy', 't'))
  })

  it('omits undefined variables', () => {
    assert.deepEqual(Object.keys(proxyEnvironment({ A: undefined, B: '' }, 'x', undefined)).sort(), [
      'B',
      'CONNECT_PROXY_ID',
      'CONSUL_PROXY_ID',
    ])
  })

  it('is a copy', () => {
    const base = { A: '1' }
    assert.notEqual(proxyEnvironment(base, 'x', undefined), base)
    assert.deepEqual(base, { A: '1' })
  })
})

describe('supervisor: the fingerprint of a launch', () => {
  const LAUNCH: Launch = {
    proxyId: 'web-proxy',
    path: '/usr/bin/proxy',
    args: ['-x', 'y'],
    logArgs: ['-log-level', 'info'],
    directory: '/var/lib/connect',
    env: { A: '1', B: '2' },
    canStandBy: true,
  }
  it('differs for each change of the launch', () => {
    const changes: Partial<Launch>[] = [
      {},
      { proxyId: 'web2-proxy' },
      { path: '/usr/bin/proxy2' },
      { args: ['-x', 'z'] },
      { args: ['-x', 'y', ''] },
      { args: ['-x'] },
      { args: ['y', '-x'] },
      { args: ['-x y'] },
      { directory: '/' },
      { env: { A: '1', B: '3' } },
      { env: { A: '1', C: '2' } },
      { env: { A: '1', B: '2', C: '' } },
      { env: { A: '1' } },
      // The value imitates a second variable.
      { env: { A: '1","B","2' } },
      ...['a', 'b', undefined].map((token) => ({ env: proxyEnvironment({ A: '1' }, 'web-proxy', token) })),
    ]
    const fingerprints = changes.map((change) => fingerprint({ ...LAUNCH, ...change }))
    assert.equal(new Set(fingerprints).size, changes.length)
  })

  it('is equal for equal launches', () => {
    assert.equal(fingerprint(structuredClone(LAUNCH)), fingerprint(LAUNCH))
    const { canStandBy, env, directory, logArgs, args, path, proxyId } = LAUNCH
    assert.equal(
      fingerprint({ canStandBy, env, directory, logArgs, args, path, proxyId }),
      fingerprint(LAUNCH),
    )
  })

  it('does not depend on the log level, whose change must not end connections', () => {
    assert.equal(fingerprint({ ...LAUNCH, logArgs: ['-log-level', 'debug'] }), fingerprint(LAUNCH))
  })

  it('does not reveal the launch', () => {
    const print = fingerprint({ ...LAUNCH, env: { CONNECT_PROXY_TOKEN: 'secret' } })
    assert.match(print, /^[\w-]{43}$/)
    assert.doesNotMatch(print, /secret/)
  })

  it('does not depend on the order of the environment', () => {
    const names = fc.uniqueArray(fc.stringMatching(/^[A-Za-z0-9_]{1,4}$/), { maxLength: 8 })
    fc.assert(
      fc.property(names, fc.integer(), (variables, seed) => {
        const random = seeded(seed)
        const shuffled = [...variables].sort(() => random() - 0.5)
        const [ordered, reordered] = [variables, shuffled].map((order) => {
          const base = Object.fromEntries(order.map((name) => [name, `value of ${name}`]))
          return fingerprint({ ...LAUNCH, env: proxyEnvironment(base, 'x', 't') })
        })
        assert.equal(ordered, reordered)
      }),
    )
  })
})

describe('supervisor: a program', () => {
  const folder = newFolder()
  const [bin, other] = [join(folder, 'bin'), join(folder, 'other')]
  for (const path of [bin, other, join(bin, 'folder'), join(folder, 'sub')]) mkdirSync(path)
  const program = (path: string, mode: number): void => {
    writeFileSync(join(folder, path), '#!/bin/sh\n')
    chmodSync(join(folder, path), mode)
  }
  program('proxy', 0o755)
  program('data', 0o644)
  program('bin/proxy', 0o755)
  program('bin/data', 0o644)
  program('other/data', 0o755)
  program('other/proxy', 0o755)
  program('sub/proxy', 0o700)
  symlinkSync(join(folder, 'proxy'), join(folder, 'link'))
  symlinkSync(join(folder, 'nothing'), join(folder, 'dangling'))
  const PATH = [join(folder, 'nothing'), bin, '', '.', 'relative', other].join(':')

  type Case = [
    rule: string,
    program: string,
    folder: string | undefined,
    path: string | undefined,
    result: string,
  ]
  const proxy = join(folder, 'proxy')
  const found: Case[] = [
    ['an absolute path', proxy, undefined, undefined, proxy],
    ['an absolute path beside a directory and a PATH', proxy, other, bin, proxy],
    ['a link', join(folder, 'link'), undefined, undefined, join(folder, 'link')],
    ['a path relative to the directory of the file', './proxy', folder, bin, proxy],
    ['a path in a subdirectory', 'sub/proxy', folder, bin, join(folder, 'sub', 'proxy')],
    ['a path in a sibling directory', '../other/proxy', bin, undefined, join(other, 'proxy')],
    ['a bare name in the PATH', 'proxy', folder, PATH, join(bin, 'proxy')],
    ['a bare name without a directory', 'proxy', undefined, PATH, join(bin, 'proxy')],
    ['the first executable in the PATH', 'data', folder, PATH, join(other, 'data')],
  ]
  for (const [rule, name, from, path, expected] of found) {
    it(`is found by ${rule}`, () => {
      assert.equal(findProgram(name, from, path), expected)
    })
  }

  const [nothing, dangling] = [join(folder, 'nothing'), join(folder, 'dangling')]
  const notExecutable = 'is not executable by this user'
  const rejected: Case[] = [
    ['does not exist', nothing, folder, PATH, `${nothing} does not exist`],
    ['is a dangling link', dangling, folder, PATH, `${dangling} does not exist`],
    ['is below a file', join(proxy, 'x'), folder, PATH, `${join(proxy, 'x')} does not exist`],
    ['is not executable', join(folder, 'data'), folder, PATH, `${join(folder, 'data')} ${notExecutable}`],
    ['is a directory', join(folder, 'sub'), folder, PATH, `${join(folder, 'sub')} is not a file`],
    ['is a device', '/dev/null', folder, PATH, '/dev/null is not a file'],
    ['is a relative path that does not exist', './nothing', folder, PATH, `${nothing} does not exist`],
    [
      'is a relative path, executable only in the PATH',
      './data',
      bin,
      PATH,
      `${join(bin, 'data')} ${notExecutable}`,
    ],
    ['is not in the PATH', 'nothing', folder, PATH, 'nothing is not in the PATH'],
    ['is only in the directory of the file', 'proxy', folder, '', 'proxy is not in the PATH'],
    ['is a bare name without a PATH', 'proxy', folder, undefined, 'proxy is not in the PATH'],
    ['is a directory in the PATH', 'folder', folder, PATH, 'folder is not in the PATH'],
  ]
  for (const [rule, name, from, path, message] of rejected) {
    it(`is rejected by name when it ${rule}`, () => {
      assert.throws(() => findProgram(name, from, path), { message: `command: ${message}` })
    })
  }

  it('is not searched in the working directory of the supervisor', () => {
    const path = relative(process.cwd(), bin)
    assert.ok(existsSync(join(path, 'proxy')))
    assert.throws(() => findProgram('proxy', undefined, path), /is not in the PATH$/)
    assert.throws(() => findProgram('./proxy', undefined, PATH), {
      message: 'command: expected an absolute path, got ./proxy',
    })
  })
})

/** Starts a shell script that is killed at the end of the test. */
async function start(
  t: TestContext,
  script: string,
  options: { env?: object; detached?: boolean } = {},
): Promise<Started> {
  const child = spawn('/bin/sh', ['-c', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: options.detached ?? false,
    env: { ...process.env, ...options.env },
  })
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  })
  await once(child, 'spawn')
  return { child, pid: child.pid! }
}

interface Started {
  readonly child: ChildProcess
  readonly pid: number
}

/** Starts the leader of a session, whose script writes the process ID of a child. */
async function startSession(
  t: TestContext,
  script: string,
): Promise<{ leader: Started; id: ProcessId; inner: ProcessId }> {
  const leader = await start(t, script, { detached: true })
  const id = identify(leader.pid)
  const inner = identify(await numberFrom(leader))
  assert.ok(id && inner)
  t.after(() => signalProcess(inner, 'SIGKILL'))
  return { leader, id, inner }
}

/** Reads the first line that a process writes, as a number. */
async function numberFrom({ child }: Started): Promise<number> {
  const [chunk] = (await once(child.stdout!, 'data')) as [Buffer]
  return Number(chunk.toString().trim())
}

async function until(description: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (condition()) return
    await sleep(10)
  }
  assert.fail(`not reached within 2 s: ${description}`)
}

function stateOf(pid: number): string | undefined {
  try {
    return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

function numberIn(pid: number, field: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[field])
}

const groupOf = (pid: number): number => numberIn(pid, 2)
const sessionNumber = (pid: number): number => numberIn(pid, 3)

/** Returns a process ID that the system cannot assign. */
function unusedPid(): number {
  return Number(readFileSync('/proc/sys/kernel/pid_max', 'utf8')) + 1
}

describe('supervisor: the identity of a process', () => {
  it('is found for this process', () => {
    const id = identify(process.pid)
    assert.ok(id)
    assert.equal(id.pid, process.pid)
    assert.match(id.startedAt, /^\d+$/)
    assert.equal(id.bootId, readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
    assert.equal(id.bootId, currentBoot())
    assert.ok(isRunning(id))
    assert.deepEqual(identify(process.pid), id)
  })

  const changes: [rule: string, change: Partial<ProcessId>][] = [
    ['another start time', { startedAt: '1' }],
    ['a start time with the same prefix', { startedAt: `${identify(process.pid)?.startedAt ?? ''}0` }],
    ['another boot ID', { bootId: '00000000-0000-0000-0000-000000000000' }],
    ['another process ID', { pid: 1 }],
    ['an unused process ID', { pid: unusedPid() }],
    ['process ID 0', { pid: 0 }],
    ['an empty start time', { startedAt: '' }],
  ]
  for (const [rule, change] of changes) {
    it(`does not match ${rule}`, () => {
      const own = identify(process.pid)
      assert.ok(own)
      assert.equal(isRunning({ ...own, ...change }), false)
    })
  }

  it('is read for a program with any name', async (t) => {
    const folder = newFolder()
    for (const name of [') Z 1 (', 'a b', 'x) (y']) {
      const path = join(folder, name)
      symlinkSync('/bin/sleep', path)
      const child = spawn(path, ['30'], { stdio: 'ignore' })
      t.after(() => child.kill('SIGKILL'))
      await once(child, 'spawn')
      const pid = child.pid!
      await until('the program runs', () => readFileSync(`/proc/${pid}/comm`, 'utf8') === `${name}\n`)
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8').slice(`${pid} (${name}) `.length)
      assert.equal(identify(pid)?.startedAt, stat.split(' ')[19], name)
    }
  })

  it('ends with the process', async (t) => {
    const { child, pid } = await start(t, 'exec sleep 30')
    const id = identify(pid)
    assert.ok(id && isRunning(id))
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    assert.equal(identify(pid), undefined)
    assert.equal(isRunning(id), false)
  })

  it('does not exist for a zombie', async (t) => {
    // After the exec, the parent does not reap its child.
    const { inner: id } = await startSession(t, 'sleep 30 & echo $!; exec sleep 30')
    assert.ok(isRunning(id))
    signalProcess(id, 'SIGKILL')
    await until('the process is a zombie', () => stateOf(id.pid) === 'Z')
    assert.equal(identify(id.pid), undefined)
    assert.equal(isRunning(id), false)
    assert.equal(signalProcess(id, 'SIGKILL'), false)
  })

  it('exists for a stopped process', async (t) => {
    const { child, pid } = await start(t, 'exec sleep 30')
    child.kill('SIGSTOP')
    await until('the process is stopped', () => stateOf(pid) === 'T')
    const id = identify(pid)
    assert.ok(id && isRunning(id))
  })

  it('has the age of the process', async (t) => {
    const { pid } = await start(t, 'exec sleep 30')
    const [young, own] = [identify(pid), identify(process.pid)]
    assert.ok(young && own)
    assert.ok(ageMs(young) < 2_000, String(ageMs(young)))
    // process.uptime() starts later than the process, and a clock tick is 10 ms.
    const difference = ageMs(own) - process.uptime() * 1_000
    assert.ok(difference > -100 && difference < 5_000, String(difference))
  })

  it('is required to send a signal', async (t) => {
    const { child, pid } = await start(t, 'exec sleep 30')
    const id = identify(pid)
    assert.ok(id)
    assert.equal(signalProcess({ ...id, startedAt: '1' }, 'SIGKILL'), false)
    assert.equal(signalProcess({ ...id, bootId: 'x' }, 'SIGKILL'), false)
    killSession({ ...id, startedAt: '1' })
    await sleep(50)
    assert.ok(isRunning(id))
    const ended = once(child, 'exit')
    assert.equal(signalProcess(id, 'SIGINT'), true)
    assert.deepEqual(await ended, [null, 'SIGINT'])
    assert.equal(signalProcess(id, 'SIGINT'), false)
  })

  it('leads to all processes of its session', async (t) => {
    const { leader, id, inner } = await startSession(t, 'sleep 30 & echo $!; wait')
    const ended = once(leader.child, 'exit')
    killSession(id)
    assert.deepEqual(await ended, [null, 'SIGKILL'])
    await until('the child has ended', () => !isRunning(inner))
  })

  it('leads to processes in another group of the session', async (t) => {
    const { id, inner } = await startSession(t, 'timeout 30 sleep 30 & echo $!; wait')
    // `timeout` creates its group after it was started.
    await until('the child has its own group', () => groupOf(inner.pid) === inner.pid)
    killSession(id)
    await until('the child has ended', () => !isRunning(inner))
  })

  it('leads to the session after its leader has ended', async (t) => {
    const { leader, id, inner } = await startSession(t, 'sleep 30 & echo $!; exec sleep 30')
    assert.deepEqual(
      sessionOf(id)
        .map(({ pid }) => pid)
        .sort(),
      [id.pid, inner.pid].sort(),
    )
    const ended = once(leader.child, 'exit')
    leader.child.kill('SIGKILL')
    await ended
    assert.deepEqual(sessionOf(id), [inner])
    // A later process with the same process ID did not start the older child.
    assert.deepEqual(sessionOf({ ...id, startedAt: String(Number(inner.startedAt) + 1) }), [])
    killSession({ ...id, bootId: 'another' })
    await sleep(50)
    assert.ok(isRunning(inner))
    killSession(id)
    await until('the child has ended', () => !isRunning(inner))
    assert.deepEqual(sessionOf(id), [])
  })

  it('does not lead to the session of a process with the same process ID', async (t) => {
    const { id, inner } = await startSession(t, 'sleep 30 & echo $!; exec sleep 30')
    for (const startedAt of ['1', String(Number(id.startedAt) - 1), String(Number(id.startedAt) + 1)]) {
      assert.deepEqual(sessionOf({ ...id, startedAt }), [], startedAt)
      killSession({ ...id, startedAt })
    }
    await sleep(50)
    assert.ok(isRunning(id) && isRunning(inner))
  })

  it('does not lead to a process in another session', async (t) => {
    const { id, inner } = await startSession(t, 'setsid sleep 30 & echo $!; exec sleep 30')
    await until('the child has its own session', () => sessionNumber(inner.pid) === inner.pid)
    assert.deepEqual(sessionOf(id), [id])
  })

  it('is found by the environment, for the leader of a session only', async (t) => {
    const launch = randomUUID()
    const env = { [LAUNCH_VARIABLE]: launch }
    assert.equal(findByEnvironment(LAUNCH_VARIABLE, launch), undefined)
    const follower = await start(t, 'exec sleep 30', { env })
    await until('the environment is set', () =>
      readFileSync(`/proc/${follower.pid}/environ`, 'utf8').includes(launch),
    )
    assert.equal(findByEnvironment(LAUNCH_VARIABLE, launch), undefined)
    const leader = await start(t, 'trap "kill $!" EXIT; sleep 30 & echo $!; wait', { env, detached: true })
    const child = await numberFrom(leader)
    t.after(() => {
      const inner = identify(child)
      if (inner !== undefined) signalProcess(inner, 'SIGKILL')
    })
    // The environment of the child is empty between fork and exec.
    await until('the child has the environment', () =>
      readFileSync(`/proc/${child}/environ`, 'utf8').includes(launch),
    )
    assert.deepEqual(findByEnvironment(LAUNCH_VARIABLE, launch), identify(leader.pid))
    assert.equal(findByEnvironment(LAUNCH_VARIABLE, launch.slice(0, -1)), undefined)
    assert.equal(findByEnvironment(LAUNCH_VARIABLE.slice(1), launch), undefined)
    assert.equal(findByEnvironment(`${LAUNCH_VARIABLE}=${launch.slice(0, 3)}`, launch.slice(3)), undefined)
  })
})

async function listen(t: TestContext, port: number, host: string = '127.0.0.1'): Promise<Server> {
  const server = createServer().listen(port, host)
  t.after(() => server.close())
  await once(server, 'listening')
  return server
}

/** Finds consecutive free ports. */
async function freeRange(count: number): Promise<{ min: number; max: number }> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const ports = await freePorts(count)
    const min = Math.min(...ports)
    if (Math.max(...ports) - min === count - 1) return { min, max: min + count - 1 }
  }
  assert.fail(`found no ${count} consecutive free ports`)
}

const address = '127.0.0.1'
const NONE: ReadonlySet<number> = new Set()

describe('supervisor: a port', () => {
  it('is random by default', async () => {
    const range = await freeRange(8)
    const ports = new Set<number>()
    for (let i = 0; i < 60; i++) ports.add(await findPort({ range, taken: NONE, address }))
    assert.ok(ports.size > 3, String(ports.size))
  })

  it('is not a port on which another program listens', async (t) => {
    const range = await freeRange(4)
    await listen(t, range.min + 1)
    await listen(t, range.min + 2, '0.0.0.0')
    for (const random of [0, 0.3, 0.6, 0.9]) {
      const port = await findPort({ range, taken: NONE, address, random: scripted(random) })
      assert.ok(port === range.min || port === range.max, String(port))
    }
    const taken = new Set([range.max])
    assert.equal(await findPort({ range, taken, address, random: scripted(0.3) }), range.min)
  })

  it('is uniformly distributed over the ports that are not taken', async () => {
    const range = await freeRange(4)
    const { min, max } = range
    const ports: number[] = []
    for (const random of [0, 0.33, 0.34, 0.66, 0.67, 1 - 2 ** -53]) {
      ports.push(await findPort({ range, taken: new Set([1, min + 1]), address, random: scripted(random) }))
    }
    assert.deepEqual(ports, [min, min, min + 2, min + 2, max, max])
  })

  it('may be the only port of the range', async () => {
    const range = await freeRange(1)
    for (let i = 0; i < 3; i++) assert.equal(await findPort({ range, taken: NONE, address }), range.min)
  })

  it('has advice in the error when none is free', async (t) => {
    const range = await freeRange(3)
    const { min, max } = range
    const advice = 'enlarge the range (ports { proxy_min_port, proxy_max_port })'
    const all = new Set([min, min + 1, max])
    await assert.rejects(findPort({ range, taken: all, address }), {
      message: `no free port from ${min} to ${max}; ${advice}`,
    })
    await listen(t, min)
    await listen(t, max)
    await assert.rejects(findPort({ range, taken: new Set([min + 1]), address }), {
      message: `no free port from ${min} to ${max} (other programs use 2 of them); ${advice}`,
    })
  })

  it('is rejected at an address of another machine', async () => {
    const range = await freeRange(2)
    for (const elsewhere of ['192.0.2.1', '2001:db8::1']) {
      await assert.rejects(findPort({ range, taken: NONE, address: elsewhere }), (error: Error) => {
        assert.match(error.message, /^bind_address: expected an address of this machine, got /)
        assert.ok(error.message.includes(`${elsewhere} (E`), error.message)
        assert.ok(error.cause instanceof Error)
        return true
      })
    }
  })

  it('is free when no program listens on it at that address', async (t) => {
    const port = await freePort()
    assert.equal(await isFree(port, address), true)
    const server = await listen(t, port)
    assert.equal(await isFree(port, address), false)
    assert.equal(await isFree(port, '0.0.0.0'), false)
    assert.equal(await isFree(port, '127.0.0.2'), true)
    server.close()
    await once(server, 'close')
    assert.equal(await isFree(port, address), true)
  })

  it('is free at once after a connection in TIME_WAIT', async (t) => {
    const port = await freePort()
    const server = createServer((socket) => {
      // The server closes first, so its end of the connection is in TIME_WAIT.
      socket.end()
    }).listen(port, address)
    await once(server, 'listening')
    const socket = connect(port, address)
    t.after(() => socket.destroy())
    socket.resume()
    await once(socket, 'close')
    server.close()
    await once(server, 'close')
    assert.equal(await isFree(port, address), true)
  })
})

describe('supervisor: the logs of a proxy', () => {
  function write(folder: string, name: string, text: string): void {
    const files = openLogs(folder, name)
    for (const file of files) {
      writeSync(file, text)
      closeSync(file)
    }
  }
  const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8)
  /** Reads all files of a directory. */
  const contents = (folder: string): Record<string, string> =>
    Object.fromEntries(
      readdirSync(folder)
        .sort()
        .map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
    )

  it('are named after the proxy', () => {
    assert.deepEqual(
      STREAMS.map((stream) => logPath('/logs', 'web-proxy', stream)),
      ['/logs/web-proxy-stdout.log', '/logs/web-proxy-stderr.log'],
    )
  })

  it('have mode 600 with any umask, also after a rotation', (t) => {
    const folder = newFolder()
    const before = process.umask(0)
    t.after(() => process.umask(before))
    write(folder, 'web', 'text')
    for (const stream of STREAMS) {
      const path = logPath(folder, 'web', stream)
      assert.equal(modeOf(path), '600')
      rotate(path, { maxBytes: 1, kept: 2 })
      assert.deepEqual([modeOf(path), modeOf(`${path}.1`)], ['600', '600'])
    }
  })

  it('are two files, for stdout and stderr', () => {
    const folder = newFolder()
    const [stdout, stderr] = openLogs(folder, 'web')
    writeSync(stdout, 'out')
    writeSync(stderr, 'err')
    for (const file of [stdout, stderr]) closeSync(file)
    assert.deepEqual(contents(folder), { 'web-stderr.log': 'err', 'web-stdout.log': 'out' })
  })

  it('are appended to', () => {
    const folder = newFolder()
    write(folder, 'web', 'one\n')
    write(folder, 'web', 'two\n')
    assert.equal(readFileSync(logPath(folder, 'web', 'stdout'), 'utf8'), 'one\ntwo\n')
  })

  it('are not written through a link', () => {
    for (const stream of STREAMS) {
      const folder = newFolder()
      const victim = join(newFolder(), 'victim')
      writeFileSync(victim, 'precious')
      symlinkSync(victim, logPath(folder, 'web', stream))
      assert.throws(() => openLogs(folder, 'web'), { code: 'ELOOP' })
      assert.throws(() => rotate(logPath(folder, 'web', stream), { maxBytes: 1, kept: 1 }), { code: 'ELOOP' })
      assert.equal(readFileSync(victim, 'utf8'), 'precious')
      assert.deepEqual([...openFilesIn(folder), ...openFilesIn(dirname(victim))], [])
    }
  })

  it('are not rotated through a link', () => {
    const folder = newFolder()
    const path = join(folder, 'x.log')
    const victim = join(newFolder(), 'victim')
    writeFileSync(victim, 'precious')
    for (const name of ['x.log.copy', 'x.log.1', 'x.log.2']) symlinkSync(victim, join(folder, name))
    writeFileSync(path, 'text')
    assert.equal(rotate(path, { maxBytes: 1, kept: 2 }), true)
    assert.equal(readFileSync(victim, 'utf8'), 'precious')
    assert.equal(readFileSync(`${path}.1`, 'utf8'), 'text')
    assert.ok(lstatSync(`${path}.1`).isFile())
    assert.deepEqual(readdirSync(folder).sort(), ['x.log', 'x.log.1', 'x.log.2'])
  })

  it('are rotated whole when they are larger than the copy buffer', () => {
    const path = join(newFolder(), 'x.log')
    const text = Buffer.alloc(2.5 * 1024 * 1024, 'line\n')
    writeFileSync(path, text)
    rotate(path, { maxBytes: 1, kept: 1 })
    assert.ok(readFileSync(`${path}.1`).equals(text))
  })

  it('are rotated when they are too large, not before', () => {
    const folder = newFolder()
    const path = join(folder, 'x.log')
    writeFileSync(path, '12345')
    assert.equal(rotate(path, { maxBytes: 5, kept: 2 }), false)
    assert.deepEqual(contents(folder), { 'x.log': '12345' })
    writeFileSync(path, '123456')
    assert.equal(rotate(path, { maxBytes: 5, kept: 2 }), true)
    assert.deepEqual(contents(folder), { 'x.log': '', 'x.log.1': '123456' })
    assert.equal(rotate(path, { maxBytes: 5, kept: 2 }), false)
  })

  const rotations: [kept: number, files: Record<string, string>][] = [
    [0, { 'x.log': '' }],
    [1, { 'x.log': '', 'x.log.1': 'run 5' }],
    [2, { 'x.log': '', 'x.log.1': 'run 5', 'x.log.2': 'run 4' }],
    [3, { 'x.log': '', 'x.log.1': 'run 5', 'x.log.2': 'run 4', 'x.log.3': 'run 3' }],
  ]
  for (const [kept, files] of rotations) {
    it(`are at most ${kept} rotated files`, () => {
      const folder = newFolder()
      const path = join(folder, 'x.log')
      for (let i = 1; i <= 5; i++) {
        writeFileSync(path, `run ${i}`)
        assert.equal(rotate(path, { maxBytes: 1, kept }), true)
      }
      assert.deepEqual(contents(folder), files)
    })
  }

  it('stay the files that a proxy writes to after a rotation', () => {
    const folder = newFolder()
    const [stdout, stderr] = openLogs(folder, 'web')
    const path = logPath(folder, 'web', 'stdout')
    writeSync(stdout, 'before')
    rotate(path, { maxBytes: 1, kept: 1 })
    writeSync(stdout, 'after')
    for (const file of [stdout, stderr]) closeSync(file)
    assert.equal(readFileSync(path, 'utf8'), 'after')
    assert.equal(readFileSync(`${path}.1`, 'utf8'), 'before')
  })

  it('are not rotated when they do not exist', () => {
    const folder = newFolder()
    assert.equal(rotate(join(folder, 'x.log'), { maxBytes: 1, kept: 1 }), false)
    assert.deepEqual(contents(folder), {})
  })

  it('leave no file open after a rotation', () => {
    const folder = newFolder()
    const path = join(folder, 'x.log')
    for (let i = 0; i < 20; i++) {
      writeFileSync(path, 'text')
      rotate(path, { maxBytes: i % 2 === 0 ? 1 : 100, kept: 1 })
    }
    assert.deepEqual(openFilesIn(folder), [])
    assert.ok(lstatSync(path).isFile())
  })
})
