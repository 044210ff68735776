import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, after, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { createFolder, fileName, stateFolder } from '../../examples/supervisor/src/state/folder.js'
import { removePidFile, writePidFile } from '../../examples/supervisor/src/state/pid-file.js'
import { takeLock } from '../../examples/supervisor/src/state/lock.js'
import {
  EMPTY_STATE,
  type SavedProxy,
  type SavedState,
  formatSnapshot,
  parseSnapshot,
} from '../../examples/supervisor/src/state/snapshot.js'
import { StateFile } from '../../examples/supervisor/src/state/store.js'
import { openFilesIn } from '../fixtures/open-files.js'
import { STEP_NAMES, type Step, wrap } from './supervisor-file-steps.js'

const SECRET = '5f0c1e9a-5ec7-e7aa-a11a-0123456789ab'

const root = mkdtempSync(join(tmpdir(), 'supervisor-state-'))
after(() => {
  rmSync(root, { recursive: true })
})
let folders = 0

function newFolder(): string {
  const path = join(root, String((folders += 1)))
  mkdirSync(path, { mode: 0o700 })
  return path
}

function newPath(): string {
  return join(newFolder(), 'snapshot.json')
}

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8)

const WEB: SavedProxy = {
  proxyId: 'web-proxy',
  serviceId: 'web',
  serviceName: 'web',
  port: 20_001,
  token: { accessor: 'accessor-of-web', secret: SECRET, service: 'web', isCreated: true },
  sender: { token: 'token-of-sender', isForeign: true },
  drainTimeoutMs: 60_000.5,
  sent: 'print-of-registration',
  isRegistered: true,
  isStopped: false,
  process: {
    launchId: 'launch-of-web',
    fingerprint: 'print',
    id: { pid: 4_711, startedAt: '123', bootId: 'boot' },
    path: '/usr/bin/proxy',
    args: ['-x', ''],
    directory: '/var/lib/connect',
  },
}

const REDIS: SavedProxy = {
  proxyId: 'redis-proxy',
  serviceId: 'redis',
  serviceName: 'redis',
  port: 20_002,
  token: undefined,
  sender: { token: undefined, isForeign: false },
  drainTimeoutMs: undefined,
  sent: undefined,
  isRegistered: false,
  isStopped: true,
  process: undefined,
}

/** Returns a state that contains `name` in all its parts. */
function stateWith(name: string): SavedState {
  return {
    proxies: [{ ...WEB, serviceName: name }],
    services: [{ id: name, sender: { token: 'ünïcode', isForeign: false }, sent: name }],
    tokensToRevoke: [`accessor-${name}`],
    requests: [{ Name: name, Port: 80, Meta: { long: '.'.repeat(1_500) } }],
  }
}

const [A, B, C] = [stateWith('state-a'), stateWith('state-b'), stateWith('state-c')]

describe('supervisor: the snapshot', () => {
  const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
    fc.record(model, { noNullPrototype: true })
  const optional = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
    fc.option(value, { nil: undefined })
  const text = fc.string({ unit: 'binary', maxLength: 12 })
  const filled = fc.string({ unit: 'binary', minLength: 1, maxLength: 12 })
  const process = record({
    launchId: filled,
    fingerprint: text,
    id: optional(record({ pid: fc.integer({ min: 1, max: 4_194_304 }), startedAt: filled, bootId: text })),
    path: text,
    args: fc.array(text, { maxLength: 4 }),
    directory: text,
  })
  const sender = record({ token: optional(filled), isForeign: fc.boolean() })
  const proxy: fc.Arbitrary<SavedProxy> = record({
    // JavaScript sorts keys that are numbers first.
    proxyId: text.map((name) => `${name}-proxy`),
    serviceId: filled,
    serviceName: text,
    port: fc.nat({ max: 65_535 }),
    token: optional(record({ accessor: filled, secret: text, service: text, isCreated: fc.boolean() })),
    sender,
    drainTimeoutMs: optional(fc.double({ min: 0.5, max: 2 ** 50, noNaN: true })),
    sent: optional(filled),
    isRegistered: fc.boolean(),
    isStopped: fc.boolean(),
    process: optional(process),
  })
  const state: fc.Arbitrary<SavedState> = record({
    proxies: fc.uniqueArray(proxy, { maxLength: 4, selector: ({ proxyId }) => proxyId }),
    services: fc.array(record({ id: text, sender, sent: optional(filled) }), { maxLength: 4 }),
    tokensToRevoke: fc.array(text, { maxLength: 4 }),
    requests: fc.array(
      fc
        .dictionary(text, fc.jsonValue(), { noNullPrototype: true })
        .map((request) => JSON.parse(JSON.stringify(request)) as object),
      { maxLength: 3 },
    ) as fc.Arbitrary<SavedState['requests']>,
  })

  it('is parsed to the same state, which has the same text', () => {
    fc.assert(
      fc.property(state, (saved) => {
        const loaded = parseSnapshot(formatSnapshot(saved))
        assert.deepEqual(loaded, saved)
        assert.equal(formatSnapshot(loaded), formatSnapshot(saved))
      }),
    )
  })

  it('has the format of Consul', () => {
    const { Version, Proxies } = JSON.parse(formatSnapshot({ ...EMPTY_STATE, proxies: [WEB] })) as {
      Version: number
      Proxies: Record<string, { Mode: string; Config: object }>
    }
    assert.equal(Version, 1)
    assert.equal(Proxies['web-proxy']?.Mode, 'daemon')
    assert.deepEqual(Proxies['web-proxy'].Config, {
      Pid: 4_711,
      CommandPath: '/usr/bin/proxy',
      CommandArgs: ['-x', ''],
      CommandDir: '/var/lib/connect',
      ProxyToken: SECRET,
      ProxyID: 'web-proxy',
    })
  })

  const CONSUL = `{"Version":1,"Proxies":{"x-proxy":{"Mode":"daemon","Config":{"Pid":1,"CommandPath":"/c","CommandArgs":[],"CommandDir":"","CommandEnv":null,"ProxyToken":"t","ProxyID":"x-proxy"}}}}`

  it('of Consul 1.5 is read without its process', async () => {
    const expected: SavedState = {
      ...EMPTY_STATE,
      proxies: [{ ...REDIS, proxyId: 'x-proxy', serviceId: 'x', serviceName: '', port: 0, isStopped: false }],
    }
    assert.deepEqual(parseSnapshot(CONSUL), expected)
    const path = newPath()
    writeFileSync(path, CONSUL)
    const file = new StateFile(path)
    assert.deepEqual(await file.load(), expected)
    await file.save(expected)
    assert.deepEqual(await new StateFile(path).load(), expected)
  })

  it('of Consul without proxies is read', () => {
    assert.deepEqual(parseSnapshot('{"Version":1,"Proxies":{}}'), EMPTY_STATE)
  })

  it('is read completely or rejected when it is truncated anywhere', () => {
    const bytes = Buffer.from(formatSnapshot({ ...A, proxies: [WEB, REDIS], requests: [{ Name: 'é🙂' }] }))
    const whole = parseSnapshot(bytes.toString())
    for (let length = 0; length <= bytes.length; length++) {
      let read: SavedState
      try {
        read = parseSnapshot(bytes.subarray(0, length).toString())
      } catch (error) {
        assert.equal((error as Error).name, 'SnapshotError')
        assert.ok(!(error as Error).message.includes(SECRET), String(length))
        assert.equal((error as Error).cause, undefined)
        continue
      }
      // The last character is a line end.
      assert.ok(length >= bytes.length - 1, String(length))
      assert.deepEqual(read, whole)
    }
  })

  type Content = Record<string, unknown>
  /** Returns a snapshot with a change. */
  function changed(change: (content: Content, proxy: Content, config: Content) => void): string {
    const content = JSON.parse(formatSnapshot({ ...A, proxies: [WEB] })) as Content
    const proxy = (content['Proxies'] as Content)['web-proxy'] as Content
    change(content, proxy, proxy['Config'] as Content)
    return JSON.stringify(content)
  }

  const invalidKeys: [key: string, value: unknown, message: string][] = [
    ['Proxies', [], 'Proxies: expected an object'],
    ['Proxies', null, 'Proxies: expected an object'],
    ['Proxies', undefined, 'Proxies: expected an object'],
    ['Proxies', { 'web-proxy': 5 }, 'web-proxy: expected an object'],
    ['Services', {}, 'Services: expected a list'],
    ['Services', ['a'], 'Services: expected an object'],
    ['Services', [{ ID: 5 }], 'Services: ID: expected a string'],
    ['Services', [{ Token: [SECRET] }], 'Services: Token: expected a string'],
    ['TokensToRevoke', 'x', 'TokensToRevoke: expected a list'],
    ['TokensToRevoke', [null], 'TokensToRevoke: expected a list of strings'],
    ['Requests', 5, 'Requests: expected a list'],
    ['Requests', ['x'], 'Requests: expected an object'],
  ]
  const invalidProxyKeys: [key: string, value: unknown, message: string][] = [
    ['Config', [1], 'Config: expected an object'],
    ['Config', undefined, 'Config: expected an object'],
    ['ServiceID', 5, 'ServiceID: expected a string'],
    ['ServiceName', {}, 'ServiceName: expected a string'],
    ['Port', '20001', 'Port: expected a non-negative integer'],
    ['Port', 1.5, 'Port: expected a non-negative integer'],
    ['Port', -1, 'Port: expected a non-negative integer'],
    ['TokenService', 5, 'TokenService: expected a string'],
    ['TokenIsMade', 1, 'TokenIsMade: expected true or false'],
    ['Token', { x: SECRET }, 'Token: expected a string'],
    ['IsForeign', 'no', 'IsForeign: expected true or false'],
    ['DrainTimeoutMs', '5', 'DrainTimeoutMs: expected a number of milliseconds'],
    ['Sent', 5, 'Sent: expected a string'],
    ['TokenAccessor', 5, 'TokenAccessor: expected a string'],
    ['IsRegistered', 'true', 'IsRegistered: expected true or false'],
    ['IsStopped', 1, 'IsStopped: expected true or false'],
    ['StartedAt', 123, 'StartedAt: expected a string'],
    ['BootID', [], 'BootID: expected a string'],
    ['Launch', true, 'Launch: expected a string'],
    ['Fingerprint', 5, 'Fingerprint: expected a string'],
  ]
  const invalidConfigKeys: [key: string, value: unknown, message: string][] = [
    ['Pid', '4711', 'Config: Pid: expected a non-negative integer'],
    // A signal to process ID -1 reaches all processes.
    ['Pid', -1, 'Config: Pid: expected a non-negative integer'],
    ['Pid', 1e300, 'Config: Pid: expected a non-negative integer'],
    ['ProxyToken', [SECRET], 'Config: ProxyToken: expected a string'],
    ['CommandPath', 5, 'Config: CommandPath: expected a string'],
    ['CommandDir', 5, 'Config: CommandDir: expected a string'],
    ['CommandArgs', '-x', 'CommandArgs: expected a list'],
    ['CommandArgs', [5], 'CommandArgs: expected a list of strings'],
  ]
  const invalid: [message: string, text: string][] = [
    ['the file: expected an object', 'null'],
    ['the file: expected an object', '[]'],
    ['the file: expected an object', '5'],
    ...invalidKeys.map(([key, value, message]): [string, string] => [
      message,
      changed((content) => (content[key] = value)),
    ]),
    ...invalidProxyKeys.map(([key, value, message]): [string, string] => [
      `web-proxy: ${message}`,
      changed((_, proxy) => (proxy[key] = value)),
    ]),
    ...invalidConfigKeys.map(([key, value, message]): [string, string] => [
      `web-proxy: ${message}`,
      changed((_, __, config) => (config[key] = value)),
    ]),
  ]
  for (const [message, content] of invalid) {
    it(`is rejected with a value of another type: ${message}`, () => {
      assert.throws(() => parseSnapshot(content), { name: 'SnapshotError', message })
    })
  }

  it('is rejected without a valid version', () => {
    for (const version of [undefined, null, 0, '1', 1.5, true, [1], {}]) {
      const content = changed((content) => (content['Version'] = version))
      assert.throws(() => parseSnapshot(content), { name: 'SnapshotError', message: /^unsupported version / })
    }
  })

  it('is rejected without a quotation when it has another format', () => {
    for (const content of [SECRET, `{"ProxyToken":"${SECRET}"`, `${formatSnapshot(A)}x`, '', '\0\0\0\0']) {
      assert.throws(
        () => parseSnapshot(content),
        (error: Error) => {
          assert.equal(error.name, 'SnapshotError')
          assert.ok(!`${error.message}${String(error.cause)}`.includes(SECRET.slice(0, 8)))
          return true
        },
      )
    }
  })
})

/** Records the steps, and lets the step `failing` fail once. */
class CountedSteps {
  readonly order: Step[] = []
  failing: Step | undefined

  get saves(): number {
    return this.order.filter((step) => step === 'rename').length
  }

  readonly steps = wrap((step, run) => {
    this.order.push(step)
    if (this.failing !== step) return run()
    this.failing = undefined
    return Promise.reject(Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' }))
  })
}

describe('supervisor: the state on the disk', () => {
  it('is empty when there is no file', async () => {
    assert.deepEqual(await new StateFile(newPath()).load(), EMPTY_STATE)
  })

  it('is the state saved last', async () => {
    const path = newPath()
    await new StateFile(path).save(A)
    assert.deepEqual(await new StateFile(path).load(), A)
    await new StateFile(path).save(B)
    assert.deepEqual(await new StateFile(path).load(), B)
  })

  it('has mode 600 with any umask', async (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const path = newPath()
    const file = new StateFile(path)
    for (const state of [A, B]) {
      await file.save(state)
      assert.equal(modeOf(path), '600')
    }
    writeFileSync(path, formatSnapshot(A), { mode: 0o644 })
    chmodSync(path, 0o644)
    await file.save(C)
    assert.equal(modeOf(path), '600')
  })

  it('leaves no other file, and no open file', async () => {
    const path = newPath()
    const file = new StateFile(path)
    for (const state of [A, B, C]) await file.save(state)
    assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
    assert.deepEqual(openFilesIn(join(path, '..')), [])
  })

  it('is synced before the rename, and the directory after it', async () => {
    const counted = new CountedSteps()
    await new StateFile(newPath(), counted.steps).save(A)
    assert.deepEqual(counted.order, STEP_NAMES)
  })

  it('is written only when it has changed', async () => {
    const path = newPath()
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    for (const state of [A, A, structuredClone(A), B, B, A]) await file.save(state)
    assert.equal(counted.saves, 3)
    const inode = statSync(path).ino
    await file.save(A)
    assert.equal(statSync(path).ino, inode)
  })

  it('is not written when it equals the loaded state', async () => {
    const path = newPath()
    await new StateFile(path).save(A)
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    await file.load()
    await file.save(A)
    assert.deepEqual(counted.order, [])
    await file.save(B)
    assert.deepEqual(counted.order, STEP_NAMES)
  })

  it('is the last of many concurrent saves, with few writes', async () => {
    const path = newPath()
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    const states = Array.from({ length: 200 }, (_, i) => stateWith(`state-${i}`))
    await Promise.all(states.map((state) => file.save(state)))
    assert.deepEqual(await new StateFile(path).load(), states.at(-1))
    assert.equal(counted.saves, 2)
  })

  it('is the saved state or a later one when a save has resolved', async () => {
    const path = newPath()
    const file = new StateFile(path)
    let last = 0
    const saves = Array.from({ length: 100 }, async (_, i) => {
      await sleep(i % 7)
      const number = (last += 1)
      await file.save({ ...EMPTY_STATE, tokensToRevoke: [String(number)] })
      const [found] = (await new StateFile(path).load()).tokensToRevoke
      assert.ok(Number(found) >= number, `${String(found)} and ${number}`)
    })
    await Promise.all(saves)
  })

  it('is saved when a save resolves, even if another was pending', async () => {
    const path = newPath()
    let startRename = (): void => undefined
    const renaming = new Promise<void>((resolve) => {
      startRename = resolve
    })
    let mustWait = false
    const file = new StateFile(
      path,
      wrap(async (step, run) => {
        if (step === 'rename' && mustWait) await renaming
        return run()
      }),
    )
    await file.save(A)
    mustWait = true
    const saves = [file.save(B)]
    await sleep(20)
    let hasResolved = false
    saves.push(
      file.save(A).then(() => {
        hasResolved = true
      }),
    )
    await sleep(20)
    const tooEarly = hasResolved
    startRename()
    await Promise.all(saves)
    assert.deepEqual(await new StateFile(path).load(), A)
    // The second save of A must wait until B was written, and write A again.
    assert.equal(tooEarly, false)
  })

  for (const step of STEP_NAMES) {
    it(`stays intact when the disk is full, and can be saved later: ${step}`, async () => {
      const path = newPath()
      const counted = new CountedSteps()
      const file = new StateFile(path, counted.steps)
      await file.save(A)
      counted.failing = step
      await assert.rejects(file.save(B), { code: 'ENOSPC' })
      const found = await new StateFile(path).load()
      assert.deepEqual(found, step === 'syncFolder' ? B : A)
      assert.deepEqual(openFilesIn(join(path, '..')), [])
      await file.save(B)
      assert.deepEqual(await new StateFile(path).load(), B)
      await file.save(C)
      assert.deepEqual(await new StateFile(path).load(), C)
      assert.equal(modeOf(path), '600')
    })

    it(`is saved again after a failed save of another state: ${step}`, async () => {
      const path = newPath()
      const counted = new CountedSteps()
      const file = new StateFile(path, counted.steps)
      await file.save(A)
      counted.failing = step
      await assert.rejects(file.save(B), { code: 'ENOSPC' })
      await file.save(A)
      assert.deepEqual(await new StateFile(path).load(), A)
    })
  }

  it('rejects the save that failed, and not the later saves', async () => {
    const path = newPath()
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    counted.failing = 'sync'
    const saves = await Promise.allSettled([A, B, C].map((state) => file.save(state)))
    assert.deepEqual(
      saves.map(({ status }) => status),
      ['rejected', 'fulfilled', 'fulfilled'],
    )
    assert.deepEqual(await new StateFile(path).load(), C)
  })

  it('is not written into a missing directory', async () => {
    await assert.rejects(new StateFile(join(root, 'nowhere', 'snapshot.json')).save(A), { code: 'ENOENT' })
  })

  it('is not written through a link', async () => {
    const path = newPath()
    const victim = join(newFolder(), 'victim')
    writeFileSync(victim, 'precious')
    symlinkSync(victim, `${path}.new`)
    await assert.rejects(new StateFile(path).save(A), { code: 'ELOOP' })
    assert.equal(readFileSync(victim, 'utf8'), 'precious')
  })

  it('is not read through a link', async () => {
    const path = newPath()
    const elsewhere = newPath()
    await new StateFile(elsewhere).save(A)
    symlinkSync(elsewhere, path)
    await assert.rejects(new StateFile(path).load(), { message: `${path} cannot be read (ELOOP)` })
  })

  it('replaces the temporary file of a killed process', async () => {
    const path = newPath()
    writeFileSync(`${path}.new`, `${formatSnapshot(A)}${'x'.repeat(10_000)}`, { mode: 0o600 })
    await new StateFile(path).save(B)
    assert.deepEqual(await new StateFile(path).load(), B)
    assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
  })

  const unreadable: [rule: string, content: string, problem: RegExp][] = [
    [
      'is from a later supervisor',
      formatSnapshot(A).replace('"Version":1', '"Version":2'),
      /unsupported version 2 \(this supervisor supports 1\); a later version wrote the file/,
    ],
    ['is truncated', formatSnapshot(A).slice(0, -100), /JSON \(\d+ characters\): the file is truncated, /],
    ['is empty', '', /not valid JSON \(0 characters\)/],
    ['has another structure', '{"Version":1,"Proxies":[]}', /Proxies: expected an object/],
  ]
  for (const [rule, content, problem] of unreadable) {
    it(`is not changed when it ${rule}, and the error gives advice`, async () => {
      const path = newPath()
      writeFileSync(path, content)
      await assert.rejects(new StateFile(path).load(), (error: Error) => {
        assert.ok(error.message.startsWith(`${path}: `))
        assert.match(error.message, problem)
        assert.match(error.message, /Nothing was changed, and running proxies keep running\./)
        assert.ok(
          error.message.includes(
            `move it away and stop the processes listed in ${join(path, '..', 'pids')} yourself`,
          ),
        )
        assert.ok(!`${error.message}${String(error.cause)}`.includes(SECRET.slice(0, 8)))
        return true
      })
      assert.equal(readFileSync(path, 'utf8'), content)
      assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
    })
  }

  it('has the error code in the error when it cannot be read', async () => {
    const folder = newFolder()
    await assert.rejects(new StateFile(folder).load(), { message: `${folder} cannot be read (EISDIR)` })
  })
})

const WRITER = fileURLToPath(new URL('supervisor-state-writer.ts', import.meta.url))
const TAKER = fileURLToPath(new URL('supervisor-lock-taker.ts', import.meta.url))

function node(t: TestContext, script: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.after(() => child.kill('SIGKILL'))
  return child
}

describe('supervisor: the state after a kill', { concurrency: 2 }, () => {
  type Case = [step: Step, moment: 'before' | 'halfway' | 'after', expected: SavedState]
  const cases: Case[] = [
    ['open', 'before', A],
    ['open', 'after', A],
    ['write', 'before', A],
    ['write', 'halfway', A],
    ['write', 'after', A],
    ['sync', 'before', A],
    ['sync', 'after', A],
    ['rename', 'before', A],
    ['rename', 'after', B],
    ['syncFolder', 'before', B],
    ['syncFolder', 'after', B],
  ]
  for (const [step, moment, expected] of cases) {
    it(`${moment} the step ${step} is intact, and another can be saved`, async (t) => {
      const path = newPath()
      const child = node(t, WRITER, path, JSON.stringify(A), JSON.stringify(B), step, moment)
      assert.deepEqual(await once(child, 'exit'), [null, 'SIGKILL'])
      const file = new StateFile(path)
      assert.deepEqual(await file.load(), expected)
      await file.save(C)
      assert.deepEqual(await new StateFile(path).load(), C)
      assert.equal(modeOf(path), '600')
      assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
    })
  }

  for (const afterMs of [0, 1, 2, 3, 5, 8, 13, 21]) {
    it(`at any moment is intact: ${afterMs} ms into many saves`, async (t) => {
      const path = newPath()
      const child = node(t, WRITER, path, JSON.stringify(A), JSON.stringify(B), 'any')
      await once(child.stdout!, 'data')
      await sleep(afterMs)
      child.kill('SIGKILL')
      await once(child, 'exit')
      const found = await new StateFile(path).load()
      assert.deepEqual(found, found.services[0]?.id === 'state-a' ? A : B)
    })
  }
})

function rejectsFolder(folder: Parameters<typeof createFolder>[0], message: string | RegExp): void {
  assert.throws(
    () => {
      createFolder(folder)
    },
    { message },
  )
}

describe('supervisor: the state directory', () => {
  it('has a path for each file', () => {
    assert.deepEqual(stateFolder('/var/lib/connect'), {
      path: '/var/lib/connect/proxy',
      snapshot: '/var/lib/connect/proxy/snapshot.json',
      lock: '/var/lib/connect/proxy/supervisor.lock',
      controlSocket: '/var/lib/connect/proxy/control.sock',
      pids: '/var/lib/connect/proxy/pids',
      logs: '/var/lib/connect/proxy/logs',
    })
  })

  it('is created with mode 700, with its parent directories', (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const missing = join(newFolder(), 'not')
    const folder = stateFolder(join(missing, 'there'))
    createFolder(folder)
    for (const path of [missing, join(missing, 'there'), folder.path, folder.pids, folder.logs])
      assert.equal(modeOf(path), '700', path)
    createFolder(folder)
    assert.deepEqual(readdirSync(folder.path).sort(), ['logs', 'pids'])
  })

  it('is changed to mode 700, and keeps its files', () => {
    const folder = stateFolder(newFolder())
    for (const path of [folder.path, folder.pids, folder.logs]) {
      mkdirSync(path)
      chmodSync(path, 0o777)
      writeFileSync(join(path, 'kept'), 'x')
    }
    createFolder(folder)
    for (const path of [folder.path, folder.pids, folder.logs]) {
      assert.equal(modeOf(path), '700', path)
      assert.equal(readFileSync(join(path, 'kept'), 'utf8'), 'x')
    }
  })

  it('is rejected with advice when a file has its name', () => {
    const dataDir = newFolder()
    writeFileSync(join(dataDir, 'proxy'), '')
    rejectsFolder(
      stateFolder(dataDir),
      `data_dir: ${join(dataDir, 'proxy')} cannot be used (EEXIST): expected a directory that only this user can write to; set another one with -data-dir`,
    )
    rejectsFolder(
      stateFolder(join(dataDir, 'proxy')),
      /^data_dir: .* cannot be used \(ENOTDIR\): expected a directory/,
    )
  })

  it('is rejected when another user owns it', { skip: process.getuid?.() !== 0 }, () => {
    const dataDir = newFolder()
    mkdirSync(join(dataDir, 'proxy'))
    chownSync(join(dataDir, 'proxy'), 65_534, 65_534)
    rejectsFolder(stateFolder(dataDir), /cannot be used \(owned by another user\)/)
  })

  it('is rejected when it is a symbolic link', () => {
    for (const name of ['path', 'pids', 'logs'] as const) {
      const folder = stateFolder(newFolder())
      if (name !== 'path') mkdirSync(folder.path)
      const elsewhere = newFolder()
      symlinkSync(elsewhere, folder[name])
      rejectsFolder(folder, /cannot be used \(symbolic link\)/)
    }
  })

  it('is rejected for root when another user can replace it', { skip: process.getuid?.() !== 0 }, () => {
    const above = newFolder()
    const dataDir = join(above, 'data')
    mkdirSync(dataDir, { mode: 0o700 })
    const folder = stateFolder(dataDir)
    for (const path of [above, dataDir]) {
      const message = new RegExp(`cannot be used \\(${path} can be changed by users other than root\\)`)
      chmodSync(path, 0o777)
      rejectsFolder(folder, message)
      chmodSync(path, 0o700)
      chownSync(path, 65_534, 65_534)
      rejectsFolder(folder, message)
      chownSync(path, 0, 0)
      createFolder(folder)
    }
    // The sticky bit, as on /tmp, prevents other users from renaming a directory.
    chmodSync(above, 0o1777)
    createFolder(folder)
  })

  it('is rejected when another user can replace a parent directory, for root and other users', (t) => {
    const above = newFolder()
    const dataDir = join(above, 'data')
    mkdirSync(dataDir, { mode: 0o700 })
    const isRoot = process.getuid?.() === 0
    if (isRoot) {
      // The root directory of the tests belongs to root, which is allowed.
      const UNPRIVILEGED = 65_534
      for (const path of [above, dataDir]) chownSync(path, UNPRIVILEGED, UNPRIVILEGED)
      const before = statSync(root).mode & 0o777
      chmodSync(root, 0o755)
      process.seteuid?.(UNPRIVILEGED)
      const { getuid } = process
      process.getuid = () => UNPRIVILEGED
      t.after(() => {
        process.seteuid?.(0)
        process.getuid = getuid!
        chmodSync(root, before)
      })
    }
    const folder = stateFolder(dataDir)
    createFolder(folder)
    for (const path of [above, dataDir]) {
      for (const mode of [0o777, 0o770]) {
        chmodSync(path, mode)
        rejectsFolder(folder, new RegExp(`cannot be used \\(${path} can be changed by users other than root`))
      }
      chmodSync(path, 0o700)
    }
    chmodSync(above, 0o1777)
    createFolder(folder)
  })

  it('is rejected when another user can replace the target of a link in its path', () => {
    const shared = newFolder()
    chmodSync(shared, 0o777)
    mkdirSync(join(shared, 'data'), { mode: 0o700 })
    const link = join(newFolder(), 'link')
    symlinkSync(join(shared, 'data'), link)
    rejectsFolder(
      stateFolder(link),
      new RegExp(`cannot be used \\(${shared} can be changed by users other than root`),
    )
    chmodSync(shared, 0o755)
    createFolder(stateFolder(link))
  })

  it('has a pid file that is not written through a link', () => {
    const path = join(newFolder(), 'web-proxy.pid')
    const victim = join(newFolder(), 'victim')
    writeFileSync(victim, 'precious')
    symlinkSync(victim, path)
    writePidFile(path, 4_711)
    assert.equal(readFileSync(victim, 'utf8'), 'precious')
    assert.equal(readFileSync(path, 'utf8'), '4711\n')
    assert.equal(modeOf(path), '600')
    writePidFile(path, 1)
    assert.equal(readFileSync(path, 'utf8'), '1\n')
    removePidFile(path)
    removePidFile(path)
    assert.equal(existsSync(path), false)
  })

  const names: [proxyId: string, name: string][] = [
    ['web-proxy', 'web-proxy'],
    ['Web_1.a~-proxy', 'Web_1.a~-proxy'],
    ['a/b-proxy', 'a%2Fb-proxy'],
    ['../../etc/passwd-proxy', '..%2F..%2Fetc%2Fpasswd-proxy'],
    ['..-proxy', '..-proxy'],
    ['a b\n-proxy', 'a%20b%0A-proxy'],
    ['a\0b-proxy', 'a%00b-proxy'],
    ['a%2Fb-proxy', 'a%252Fb-proxy'],
    ['é-proxy', '%C3%A9-proxy'],
    ['🙂-proxy', '%F0%9F%99%82-proxy'],
    [`${'x'.repeat(194)}-proxy`, `${'x'.repeat(194)}-proxy`],
  ]
  for (const [proxyId, name] of names) {
    it(`has files named ${name} for ${JSON.stringify(proxyId)}`, () => {
      assert.equal(fileName(proxyId), name)
    })
  }

  it('has valid and distinct file names', () => {
    const id = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 30 }),
      fc
        .tuple(
          fc.constantFrom('x', 'é', '/'),
          fc.integer({ min: 150, max: 250 }),
          fc.string({ maxLength: 3 }),
        )
        .map(([letter, count, end]) => letter.repeat(count) + end),
    )
    fc.assert(
      fc.property(id, id, (first, second) => {
        const [name, secondName] = [fileName(`${first}-proxy`), fileName(`${second}-proxy`)]
        assert.match(name, /^[\w.!~*'()%-]{1,200}$/)
        assert.equal(name === secondName, first === second)
      }),
      { numRuns: 300 },
    )
  })

  it('has distinct file names for long IDs that differ only at the end', () => {
    const long = 'x'.repeat(1_000)
    const [first, second] = [fileName(`${long}1-proxy`), fileName(`${long}2-proxy`)]
    assert.notEqual(first, second)
    for (const name of [first, second]) assert.match(name, /^x{183}-[0-9a-f]{16}$/)
    assert.equal(fileName(`${long}1-proxy`), first)
  })
})

describe('supervisor: the lock', () => {
  const newLock = (): string => join(newFolder(), 'supervisor.lock')
  const heldBy = (pid: number): { message: string } => ({
    message: `another supervisor already uses this data_dir (pid ${pid})`,
  })

  it('contains the process ID of its owner, with mode 600', (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const path = newLock()
    takeLock(path)
    assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
    assert.equal(modeOf(path), '600')
    assert.deepEqual(readdirSync(join(path, '..')), ['supervisor.lock'])
  })

  it('is denied to a second owner, and can be taken again after its release', () => {
    const path = newLock()
    for (let i = 0; i < 3; i++) {
      const release = takeLock(path)
      for (let attempt = 0; attempt < 3; attempt++) assert.throws(() => takeLock(path), heldBy(process.pid))
      release()
    }
    assert.deepEqual(openFilesIn(join(path, '..')), [])
    assert.deepEqual(readdirSync(join(path, '..')), ['supervisor.lock'])
  })

  it('is not inherited by child processes', async (t) => {
    const path = newLock()
    const release = takeLock(path)
    const child = spawn('sleep', ['30'], { stdio: 'ignore', detached: true })
    t.after(() => child.kill('SIGKILL'))
    await once(child, 'spawn')
    release()
    takeLock(path)
  })

  it('is held until its owner ends, also by a signal', async (t) => {
    const folder = newFolder()
    const path = join(folder, '0.lock')
    const child = node(t, TAKER, folder, '1')
    await once(child.stdout!, 'data')
    child.stdin!.write(`${Date.now()}\n`)
    await once(child.stdout!, 'data')
    assert.throws(() => takeLock(path), heldBy(child.pid!))
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    const release = takeLock(path)
    assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
    release()
  })

  const oldFiles: [rule: string, content: string][] = [
    ['an empty file', ''],
    ['a file with a longer process ID', '123456789012\n'],
    ['a file with the process ID of another process', '1\n'],
    ['a file in an earlier format', '{"pid":1,"startedAt":"1","bootId":"x"}'],
    ['a file with other content', '\0\0garbage'],
  ]
  for (const [rule, content] of oldFiles) {
    it(`is taken over from ${rule}`, () => {
      const path = newLock()
      writeFileSync(path, content)
      takeLock(path)
      assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
      assert.throws(() => takeLock(path), heldBy(process.pid))
    })
  }

  it('cannot be taken in a missing directory, through a link, or without flock', (t) => {
    assert.throws(() => takeLock(join(root, 'nowhere', 'supervisor.lock')), { code: 'ENOENT' })
    const [link, victim] = [newLock(), join(newFolder(), 'victim')]
    writeFileSync(victim, 'precious')
    symlinkSync(victim, link)
    assert.throws(() => takeLock(link), { code: 'ELOOP' })
    assert.equal(readFileSync(victim, 'utf8'), 'precious')
    const { PATH } = process.env
    t.after(() => {
      process.env['PATH'] = PATH
    })
    process.env['PATH'] = '/nowhere'
    assert.throws(() => takeLock(newLock()), { message: /^flock cannot be run .*; install util-linux$/ })
  })

  for (const [rule, content] of [
    ['without a lock file', undefined],
    ['with a lock file of a dead process', '1\n'],
  ] as const) {
    it(`is taken by exactly one of several concurrent processes ${rule}`, async (t) => {
      const [takers, rounds] = [5, 60]
      const folder = newFolder()
      if (content !== undefined) {
        for (let round = 0; round < rounds; round++) writeFileSync(join(folder, `${round}.lock`), content)
      }
      const children = Array.from({ length: takers }, () => node(t, TAKER, folder, String(rounds)))
      const lines = children.map((child) => createInterface({ input: child.stdout! })[Symbol.asyncIterator]())
      for (const line of lines) assert.equal((await line.next()).value, 'ready')
      const startAt = Date.now() + 200
      for (const child of children) child.stdin!.write(`${startAt}\n`)
      const winners = new Map<number, number[]>()
      const unexpected: string[] = []
      for (const [i, line] of lines.entries()) {
        const result = JSON.parse(String((await line.next()).value)) as {
          won: number[]
          unexpected: string[]
        }
        unexpected.push(...result.unexpected)
        for (const round of result.won) {
          winners.set(round, [...(winners.get(round) ?? []), children[i]?.pid ?? 0])
        }
      }
      assert.deepEqual(unexpected, [])
      for (let round = 0; round < rounds; round++) {
        const pid = Number(readFileSync(join(folder, `${round}.lock`), 'utf8'))
        assert.deepEqual(winners.get(round), [pid], String(round))
      }
      assert.equal(readdirSync(folder).length, rounds)
      for (const child of children) child.stdin!.end()
    })
  }
})
