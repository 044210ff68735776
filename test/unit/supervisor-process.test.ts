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
import { join, relative } from 'node:path'
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
  it('come three times at once, then later and later, and every minute at last', () => {
    const restarts = new RestartBackoff()
    const waits = Array.from({ length: 12 }, () => {
      const { waitMs } = restarts
      restarts.started()
      restarts.ended(0)
      return waitMs / 1_000
    })
    assert.deepEqual(waits, [0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60])
  })

  it('never wait longer than a minute, however often it has failed', () => {
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
    it(`wait ${waitS} s after one that lived for ${aliveMs} ms`, () => {
      const restarts = new RestartBackoff()
      for (let i = 0; i < 4; i++) restarts.started()
      restarts.ended(aliveMs)
      assert.equal(restarts.waitMs, waitS * 1_000)
    })
  }

  it('begin anew after one that was healthy, with three at once', () => {
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

  it('begin anew when somebody asked for it', () => {
    const restarts = new RestartBackoff()
    for (let i = 0; i < 7; i++) restarts.started()
    restarts.reset()
    assert.equal(restarts.waitMs, 0)
  })

  it('do not wait for the first', () => {
    assert.equal(new RestartBackoff().waitMs, 0)
  })
})

describe('supervisor: the environment of a proxy', () => {
  it('is the supervisor’s, and who the proxy is', () => {
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

  it('has no token where there is none', () => {
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
    it(`never has the supervisor’s ${name}`, () => {
      const base = { [name]: 'of-the-supervisor', PATH: '/bin' }
      for (const token of ['own', undefined]) {
        const environment = proxyEnvironment(base, 'web-proxy', token)
        assert.ok(!Object.values(environment).includes('of-the-supervisor'))
        assert.equal(environment['CONNECT_PROXY_TOKEN'], token)
      }
    })
  }

  it('has nothing that is of this start of the supervisor alone', () => {
    const volatile = [
      'CONNECT_PROXY_ID',
      'CONNECT_SIDECAR_FOR',
      LAUNCH_VARIABLE,
      STANDBY_VARIABLE,
      'INVOCATION_ID',
      'JOURNAL_STREAM',
      'LISTEN_FDS',
      'LISTEN_PID',
      'LISTEN_FDNAMES',
      'MAINPID',
      'NOTIFY_SOCKET',
      'OLDPWD',
      'PWD',
      'SHLVL',
      'SSH_CLIENT',
      'SSH_CONNECTION',
      'SSH_TTY',
      'SYSTEMD_EXEC_PID',
      'WATCHDOG_PID',
      'WATCHDOG_USEC',
      'XDG_SESSION_ID',
      '_',
    ]
    const base = Object.fromEntries(volatile.map((name) => [name, 'x']))
    assert.deepEqual(proxyEnvironment(base, 'web-proxy', 't'), proxyEnvironment({}, 'web-proxy', 't'))
  })

  it('leaves out what is not set', () => {
    assert.deepEqual(Object.keys(proxyEnvironment({ A: undefined, B: '' }, 'x', undefined)).sort(), [
      'B',
      'CONNECT_PROXY_ID',
      'CONSUL_PROXY_ID',
    ])
  })

  it('is not that of the supervisor itself', () => {
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
  const changes: [what: string, change: Partial<Launch>][] = [
    ['another id', { proxyId: 'web2-proxy' }],
    ['another program', { path: '/usr/bin/proxy2' }],
    ['another argument', { args: ['-x', 'z'] }],
    ['one argument more', { args: ['-x', 'y', ''] }],
    ['one argument less', { args: ['-x'] }],
    ['arguments in another order', { args: ['y', '-x'] }],
    ['arguments put together', { args: ['-x y'] }],
    ['another directory', { directory: '/' }],
    ['another value of a variable', { env: { A: '1', B: '3' } }],
    ['another variable', { env: { A: '1', C: '2' } }],
    ['one variable more', { env: { A: '1', B: '2', C: '' } }],
    ['one variable less', { env: { A: '1' } }],
    ['a value that looks like another variable', { env: { A: '1","B","2' } }],
  ]
  for (const [what, change] of changes) {
    it(`is another for ${what}`, () => {
      assert.notEqual(fingerprint({ ...LAUNCH, ...change }), fingerprint(LAUNCH))
    })
  }

  it('is another for each of the changes', () => {
    const prints = changes.map(([, change]) => fingerprint({ ...LAUNCH, ...change }))
    assert.equal(new Set(prints).size, changes.length)
  })

  it('is the same for the same', () => {
    assert.equal(fingerprint(structuredClone(LAUNCH)), fingerprint(LAUNCH))
    const { canStandBy, env, directory, logArgs, args, path, proxyId } = LAUNCH
    assert.equal(
      fingerprint({ canStandBy, env, directory, logArgs, args, path, proxyId }),
      fingerprint(LAUNCH),
    )
  })

  it('does not depend on how much is logged: that is no reason to end connections', () => {
    assert.equal(fingerprint({ ...LAUNCH, logArgs: ['-log-level', 'debug'] }), fingerprint(LAUNCH))
  })

  it('is another for another token', () => {
    const of = (token: string | undefined): string =>
      fingerprint({ ...LAUNCH, env: proxyEnvironment({ A: '1' }, 'web-proxy', token) })
    assert.equal(new Set([of('a'), of('b'), of(undefined)]).size, 3)
  })

  it('tells nothing of what is in it', () => {
    const print = fingerprint({ ...LAUNCH, env: { CONNECT_PROXY_TOKEN: 'secret' } })
    assert.match(print, /^[\w-]{43}$/)
    assert.doesNotMatch(print, /secret/)
  })

  it('does not depend on the order of the supervisor’s environment', () => {
    const names = fc.uniqueArray(fc.stringMatching(/^[A-Za-z0-9_]{1,4}$/), { maxLength: 8 })
    fc.assert(
      fc.property(names, fc.integer(), (variables, seed) => {
        const random = seeded(seed)
        const shuffled = [...variables].sort(() => random() - 0.5)
        const [one, other] = [variables, shuffled].map((order) => {
          const base = Object.fromEntries(order.map((name) => [name, `value of ${name}`]))
          return fingerprint({ ...LAUNCH, env: proxyEnvironment(base, 'x', 't') })
        })
        assert.equal(one, other)
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

  const found: [
    what: string,
    program: string,
    folder: string | undefined,
    path: string | undefined,
    expected: string,
  ][] = [
    ['an absolute path', join(folder, 'proxy'), undefined, undefined, join(folder, 'proxy')],
    ['an absolute path, whatever the folder', join(folder, 'proxy'), other, bin, join(folder, 'proxy')],
    ['a link to one', join(folder, 'link'), undefined, undefined, join(folder, 'link')],
    ['a relative path, in the folder of the file', './proxy', folder, bin, join(folder, 'proxy')],
    ['one further inside', 'sub/proxy', folder, bin, join(folder, 'sub', 'proxy')],
    ['one beside it', '../other/proxy', bin, undefined, join(other, 'proxy')],
    ['a bare name, in the PATH', 'proxy', folder, PATH, join(bin, 'proxy')],
    ['a bare name, without a folder', 'proxy', undefined, PATH, join(bin, 'proxy')],
    ['the first in the PATH that can be executed', 'data', folder, PATH, join(other, 'data')],
  ]
  for (const [what, name, from, path, expected] of found) {
    it(`is found by ${what}`, () => {
      assert.equal(findProgram(name, from, path), expected)
    })
  }

  const missing: [
    what: string,
    program: string,
    folder: string | undefined,
    path: string | undefined,
    message: string,
  ][] = [
    ['does not exist', join(folder, 'nothing'), folder, PATH, `${join(folder, 'nothing')} does not exist`],
    ['leads nowhere', join(folder, 'dangling'), folder, PATH, `${join(folder, 'dangling')} does not exist`],
    [
      'is inside a file',
      join(folder, 'proxy', 'x'),
      folder,
      PATH,
      `${join(folder, 'proxy', 'x')} does not exist`,
    ],
    [
      'is not executable',
      join(folder, 'data'),
      folder,
      PATH,
      `${join(folder, 'data')} is not executable by this user`,
    ],
    ['is a folder', join(folder, 'sub'), folder, PATH, `${join(folder, 'sub')} is not a file`],
    ['is a device', '/dev/null', folder, PATH, '/dev/null is not a file'],
    ['is relative, and not there', './nothing', folder, PATH, `${join(folder, 'nothing')} does not exist`],
    [
      'is relative, and in the PATH alone',
      './data',
      bin,
      PATH,
      `${join(bin, 'data')} is not executable by this user`,
    ],
    ['is not in the PATH', 'nothing', folder, PATH, 'nothing is not in the PATH'],
    ['is in the folder of the file alone', 'proxy', folder, '', 'proxy is not in the PATH'],
    ['has no PATH', 'proxy', folder, undefined, 'proxy is not in the PATH'],
    ['is a folder in the PATH', 'folder', folder, PATH, 'folder is not in the PATH'],
  ]
  for (const [what, name, from, path, message] of missing) {
    it(`is refused by name when it ${what}`, () => {
      assert.throws(() => findProgram(name, from, path), {
        message: `command: ${message}`,
      })
    })
  }

  it('is never looked for where the supervisor happens to stand', () => {
    const path = relative(process.cwd(), bin)
    assert.ok(existsSync(join(path, 'proxy')))
    assert.throws(() => findProgram('proxy', undefined, path), /is not in the PATH$/)
    assert.throws(() => findProgram('./proxy', undefined, PATH), {
      message: 'command: expected an absolute path, got ./proxy',
    })
  })
})

/** A program of the system, which is ended with the test. */
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

/** The first line that it writes, as a number. */
async function numberFrom({ child }: Started): Promise<number> {
  const [chunk] = (await once(child.stdout!, 'data')) as [Buffer]
  return Number(chunk.toString().trim())
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (condition()) return
    await sleep(10)
  }
  assert.fail(`it has not come to pass in 2 s: ${what}`)
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

/** One with this number, whatever it is: an id that has never been given out. */
function unused(): number {
  return Number(readFileSync('/proc/sys/kernel/pid_max', 'utf8')) + 1
}

describe('supervisor: the identity of a process', () => {
  it('is found for this very process', () => {
    const id = identify(process.pid)
    assert.ok(id)
    assert.equal(id.pid, process.pid)
    assert.match(id.startedAt, /^\d+$/)
    assert.equal(id.bootId, readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
    assert.equal(id.bootId, currentBoot())
    assert.ok(isRunning(id))
    assert.deepEqual(identify(process.pid), id)
  })

  const others: [what: string, change: Partial<ProcessId>][] = [
    ['started at another moment', { startedAt: '1' }],
    ['started at a moment that begins alike', { startedAt: `${identify(process.pid)?.startedAt ?? ''}0` }],
    ['of another run of the machine', { bootId: '00000000-0000-0000-0000-000000000000' }],
    ['with another number', { pid: 1 }],
    ['with a number that nobody has', { pid: unused() }],
    ['with no number', { pid: 0 }],
    ['without a moment', { startedAt: '' }],
  ]
  for (const [what, change] of others) {
    it(`is not that of one ${what}`, () => {
      const own = identify(process.pid)
      assert.ok(own)
      assert.equal(isRunning({ ...own, ...change }), false)
    })
  }

  it('is read past whatever name a program has', async (t) => {
    const folder = newFolder()
    for (const name of [') Z 1 (', 'a b', 'x) (y']) {
      const path = join(folder, name)
      symlinkSync('/bin/sleep', path)
      const child = spawn(path, ['30'], { stdio: 'ignore' })
      t.after(() => child.kill('SIGKILL'))
      await once(child, 'spawn')
      const pid = child.pid!
      await until('the program is there', () => readFileSync(`/proc/${pid}/comm`, 'utf8') === `${name}\n`)
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8').slice(`${pid} (${name}) `.length)
      assert.equal(identify(pid)?.startedAt, stat.split(' ')[19], name)
    }
  })

  it('is gone with the process', async (t) => {
    const { child, pid } = await start(t, 'exec sleep 30')
    const id = identify(pid)
    assert.ok(id && isRunning(id))
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    assert.equal(identify(pid), undefined)
    assert.equal(isRunning(id), false)
  })

  it('is not had by one that has ended and was not reaped', async (t) => {
    const zombie = await numberFrom(await start(t, 'sleep 0.1 & echo $!; exec sleep 30'))
    const id = identify(zombie)
    assert.ok(id && isRunning(id))
    await until('it is a zombie', () => stateOf(zombie) === 'Z')
    assert.equal(identify(zombie), undefined)
    assert.equal(isRunning(id), false)
    assert.equal(signalProcess(id, 'SIGKILL'), false)
  })

  it('is had by one that is stopped', async (t) => {
    const { child, pid } = await start(t, 'exec sleep 30')
    child.kill('SIGSTOP')
    await until('it is stopped', () => stateOf(pid) === 'T')
    const id = identify(pid)
    assert.ok(id && isRunning(id))
  })

  it('tells how old the process is', async (t) => {
    const { pid } = await start(t, 'exec sleep 30')
    const [young, own] = [identify(pid), identify(process.pid)]
    assert.ok(young && own)
    assert.ok(ageMs(young) < 2_000, String(ageMs(young)))
    // Node.js counts from when it was up itself, and ticks are 10 ms long.
    const difference = ageMs(own) - process.uptime() * 1_000
    assert.ok(difference > -100 && difference < 5_000, String(difference))
  })

  it('is needed to send a signal', async (t) => {
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

  it('leads to all that it has started, when they are to be ended', async (t) => {
    const leader = await start(t, 'sleep 30 & echo $!; wait', { detached: true })
    const child = await numberFrom(leader)
    const [id, inner] = [identify(leader.pid), identify(child)]
    assert.ok(id && inner)
    const ended = once(leader.child, 'exit')
    killSession(id)
    assert.deepEqual(await ended, [null, 'SIGKILL'])
    await until('what it has started has ended', () => !isRunning(inner))
  })

  it('leads to what has a group of its own in the session as well', async (t) => {
    const leader = await start(t, 'timeout 30 sleep 30 & echo $!; wait', { detached: true })
    const id = identify(leader.pid)
    const inner = identify(await numberFrom(leader))
    assert.ok(id && inner)
    t.after(() => signalProcess(inner, 'SIGTERM'))
    // It makes its group by itself, a moment later.
    await until('it has a group of its own', () => groupOf(inner.pid) === inner.pid)
    killSession(id)
    await until('what it has started has ended', () => !isRunning(inner))
  })

  it('leads to what it has left behind', async (t) => {
    const leader = await start(t, 'sleep 30 & echo $!; exec sleep 30', { detached: true })
    const id = identify(leader.pid)
    const inner = identify(await numberFrom(leader))
    assert.ok(id && inner)
    t.after(() => signalProcess(inner, 'SIGKILL'))
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
    // One that came later has its number, and what is older is none of its.
    assert.deepEqual(sessionOf({ ...id, startedAt: String(Number(inner.startedAt) + 1) }), [])
    killSession({ ...id, bootId: 'another' })
    await sleep(50)
    assert.ok(isRunning(inner))
    killSession(id)
    await until('what it has left behind has ended', () => !isRunning(inner))
    assert.deepEqual(sessionOf(id), [])
  })

  it('does not lead to the session of one that has its number now', async (t) => {
    const leader = await start(t, 'sleep 30 & echo $!; exec sleep 30', { detached: true })
    const id = identify(leader.pid)
    const inner = identify(await numberFrom(leader))
    assert.ok(id && inner)
    t.after(() => signalProcess(inner, 'SIGKILL'))
    for (const startedAt of ['1', String(Number(id.startedAt) - 1), String(Number(id.startedAt) + 1)]) {
      assert.deepEqual(sessionOf({ ...id, startedAt }), [], startedAt)
      killSession({ ...id, startedAt })
    }
    await sleep(50)
    assert.ok(isRunning(id) && isRunning(inner))
  })

  it('does not lead to one that has a session of its own', async (t) => {
    const leader = await start(t, 'setsid sleep 30 & echo $!; exec sleep 30', { detached: true })
    const other = await numberFrom(leader)
    await until('it has a session of its own', () => sessionNumber(other) === other)
    const [id, own] = [identify(leader.pid), identify(other)]
    assert.ok(id && own)
    t.after(() => signalProcess(own, 'SIGKILL'))
    assert.deepEqual(sessionOf(id), [id])
  })

  it('is found by the environment, for the leader of a session alone', async (t) => {
    const launch = randomUUID()
    const env = { [LAUNCH_VARIABLE]: launch }
    assert.equal(findByEnvironment(LAUNCH_VARIABLE, launch), undefined)
    const follower = await start(t, 'exec sleep 30', { env })
    await until('its environment is there', () =>
      readFileSync(`/proc/${follower.pid}/environ`, 'utf8').includes(launch),
    )
    assert.equal(findByEnvironment(LAUNCH_VARIABLE, launch), undefined)
    const leader = await start(t, 'trap "kill $!" EXIT; sleep 30 & echo $!; wait', { env, detached: true })
    const child = await numberFrom(leader)
    t.after(() => {
      const inner = identify(child)
      if (inner !== undefined) signalProcess(inner, 'SIGKILL')
    })
    // Between its fork and its exec it has none.
    await until('its child has it as well', () =>
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

/** So many ports in a row that nobody has. */
async function freeRange(count: number): Promise<{ min: number; max: number }> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const ports = await freePorts(count)
    const min = Math.min(...ports)
    if (Math.max(...ports) - min === count - 1) return { min, max: min + count - 1 }
  }
  assert.fail(`there are no ${count} free ports in a row`)
}

const address = '127.0.0.1'
const NONE: ReadonlySet<number> = new Set()

describe('supervisor: a port', () => {
  it('is any of the range, each as often as another', async () => {
    const range = await freeRange(8)
    const counts = new Map<number, number>()
    for (let i = 0; i < 80; i++) {
      const port = await findPort({ range, taken: NONE, address, random: scripted((i + 0.5) / 80) })
      counts.set(port, (counts.get(port) ?? 0) + 1)
    }
    const expected = Array.from({ length: 8 }, (_, i) => [range.min + i, 10])
    assert.deepEqual(
      [...counts].sort(([a], [b]) => a - b),
      expected,
    )
  })

  it('is within the range at both ends of chance', async () => {
    const range = await freeRange(4)
    assert.equal(await findPort({ range, taken: NONE, address, random: scripted(0) }), range.min)
    assert.equal(await findPort({ range, taken: NONE, address, random: scripted(1 - 2 ** -53) }), range.max)
  })

  it('is chosen by chance when nothing else is said', async () => {
    const range = await freeRange(8)
    const ports = new Set<number>()
    for (let i = 0; i < 60; i++) ports.add(await findPort({ range, taken: NONE, address }))
    assert.ok(ports.size > 3, String(ports.size))
  })

  it('is none that somebody has or will have', async () => {
    const range = await freeRange(4)
    const { min } = range
    const taken = new Set([min, min + 1, min + 3, 1])
    for (const random of [0, 0.3, 0.6, 0.9]) {
      assert.equal(await findPort({ range, taken, address, random: scripted(random) }), min + 2)
    }
  })

  it('is none on which another program listens', async (t) => {
    const range = await freeRange(4)
    await listen(t, range.min + 1)
    await listen(t, range.min + 2, '0.0.0.0')
    for (const random of [0, 0.3, 0.6, 0.9]) {
      const found = await findPort({ range, taken: NONE, address, random: scripted(random) })
      assert.ok(found === range.min || found === range.max, String(found))
    }
    const taken = new Set([range.max])
    assert.equal(await findPort({ range, taken, address, random: scripted(0.3) }), range.min)
  })

  it('is each of those that are free with the same chance, whichever are taken', async () => {
    const range = await freeRange(4)
    const taken = new Set([range.min, range.min + 1])
    const found: number[] = []
    for (const random of [0, 0.49, 0.5, 0.99]) {
      found.push(await findPort({ range, taken, address, random: scripted(random) }))
    }
    const [third, fourth] = [range.min + 2, range.max]
    assert.deepEqual(found, [third, third, fourth, fourth])
  })

  it('is free for the next one: nothing keeps it', async () => {
    const range = await freeRange(1)
    for (let i = 0; i < 3; i++) assert.equal(await findPort({ range, taken: NONE, address }), range.min)
  })

  it('may be the only one', async (t) => {
    const range = await freeRange(1)
    assert.equal(await findPort({ range, taken: NONE, address }), range.min)
    await listen(t, range.min)
    await assert.rejects(findPort({ range, taken: NONE, address }), {
      message: `no free port from ${range.min} to ${range.min} (other programs use 1 of them); enlarge the range (ports { proxy_min_port, proxy_max_port })`,
    })
  })

  it('is missed with words about what to do', async (t) => {
    const range = await freeRange(3)
    const { min, max } = range
    const all = new Set([min, min + 1, max])
    await assert.rejects(findPort({ range, taken: all, address }), {
      message: `no free port from ${min} to ${max}; enlarge the range (ports { proxy_min_port, proxy_max_port })`,
    })
    await listen(t, min)
    await listen(t, max)
    await assert.rejects(findPort({ range, taken: new Set([min + 1]), address }), {
      message: `no free port from ${min} to ${max} (other programs use 2 of them); enlarge the range (ports { proxy_min_port, proxy_max_port })`,
    })
  })

  it('cannot be at an address that is not of this machine', async () => {
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

  it('is free or not', async (t) => {
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

  it('is free again at once after a connection', async (t) => {
    const port = await freePort()
    const server = createServer((socket) => {
      // Whoever closes first is the one whose end waits in the system.
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
  /** Each file of a folder, and what is in it. */
  const contents = (folder: string): Record<string, string> =>
    Object.fromEntries(
      readdirSync(folder)
        .sort()
        .map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
    )

  it('have their names from the proxy', () => {
    assert.deepEqual(
      STREAMS.map((stream) => logPath('/logs', 'web-proxy', stream)),
      ['/logs/web-proxy-stdout.log', '/logs/web-proxy-stderr.log'],
    )
  })

  it('are for one user alone, whatever others may be given', (t) => {
    const folder = newFolder()
    const before = process.umask(0)
    t.after(() => process.umask(before))
    write(folder, 'web', 'x')
    for (const stream of STREAMS) assert.equal(modeOf(logPath(folder, 'web', stream)), '600')
  })

  it('are two files, the output and the errors', () => {
    const folder = newFolder()
    const [stdout, stderr] = openLogs(folder, 'web')
    writeSync(stdout, 'out')
    writeSync(stderr, 'err')
    for (const file of [stdout, stderr]) closeSync(file)
    assert.deepEqual(contents(folder), { 'web-stderr.log': 'err', 'web-stdout.log': 'out' })
  })

  it('go on where they were', () => {
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
      const before = readdirSync('/proc/self/fd').length
      assert.throws(() => openLogs(folder, 'web'), { code: 'ELOOP' })
      assert.throws(() => rotate(logPath(folder, 'web', stream), { maxBytes: 1, kept: 1 }), { code: 'ELOOP' })
      assert.equal(readFileSync(victim, 'utf8'), 'precious')
      // Nothing stays open.
      assert.equal(readdirSync('/proc/self/fd').length, before)
    }
  })

  it('are not put aside through a link', () => {
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

  it('are put aside whole when they are larger than the buffer of the copy', () => {
    const path = join(newFolder(), 'x.log')
    const text = Buffer.alloc(2.5 * 1024 * 1024, 'line\n')
    writeFileSync(path, text)
    rotate(path, { maxBytes: 1, kept: 1 })
    assert.ok(readFileSync(`${path}.1`).equals(text))
  })

  it('are put aside when they are too large, and not before', () => {
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

  const kept: [kept: number, files: Record<string, string>][] = [
    [0, { 'x.log': '' }],
    [1, { 'x.log': '', 'x.log.1': 'run 5' }],
    [2, { 'x.log': '', 'x.log.1': 'run 5', 'x.log.2': 'run 4' }],
    [3, { 'x.log': '', 'x.log.1': 'run 5', 'x.log.2': 'run 4', 'x.log.3': 'run 3' }],
  ]
  for (const [number, files] of kept) {
    it(`are no more than ${number} besides the one that is written`, () => {
      const folder = newFolder()
      const path = join(folder, 'x.log')
      for (let i = 1; i <= 5; i++) {
        writeFileSync(path, `run ${i}`)
        assert.equal(rotate(path, { maxBytes: 1, kept: number }), true)
      }
      assert.deepEqual(contents(folder), files)
    })
  }

  it('are for one user alone when they are put aside', (t) => {
    const folder = newFolder()
    const before = process.umask(0)
    t.after(() => process.umask(before))
    write(folder, 'web', 'text')
    const path = logPath(folder, 'web', 'stdout')
    rotate(path, { maxBytes: 1, kept: 2 })
    assert.deepEqual([modeOf(path), modeOf(`${path}.1`)], ['600', '600'])
  })

  it('are still those to which a proxy writes after they were put aside', () => {
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

  it('that are not there are not too large', () => {
    const folder = newFolder()
    assert.equal(rotate(join(folder, 'x.log'), { maxBytes: 1, kept: 1 }), false)
    assert.deepEqual(contents(folder), {})
  })

  it('leave nothing open when they are put aside', () => {
    const path = join(newFolder(), 'x.log')
    const before = readdirSync('/proc/self/fd').length
    for (let i = 0; i < 20; i++) {
      writeFileSync(path, 'text')
      rotate(path, { maxBytes: i % 2 === 0 ? 1 : 100, kept: 1 })
    }
    assert.equal(readdirSync('/proc/self/fd').length, before)
    assert.ok(lstatSync(path).isFile())
  })
})
