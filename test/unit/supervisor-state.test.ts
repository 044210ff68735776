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

/** A state that cannot be mistaken for another. */
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
  const text = fc.string({ unit: 'binary', maxLength: 12 })
  const filled = fc.string({ unit: 'binary', minLength: 1, maxLength: 12 })
  const process = record({
    launchId: filled,
    fingerprint: text,
    id: fc.option(record({ pid: fc.integer({ min: 1, max: 4_194_304 }), startedAt: filled, bootId: text }), {
      nil: undefined,
    }),
    path: text,
    args: fc.array(text, { maxLength: 4 }),
    directory: text,
  })
  const sender = record({ token: fc.option(filled, { nil: undefined }), isForeign: fc.boolean() })
  const proxy: fc.Arbitrary<SavedProxy> = record({
    // An id that is a number would come to another place.
    proxyId: text.map((name) => `${name}-proxy`),
    serviceId: filled,
    serviceName: text,
    port: fc.nat({ max: 65_535 }),
    token: fc.option(record({ accessor: filled, secret: text, service: text, isCreated: fc.boolean() }), {
      nil: undefined,
    }),
    sender,
    drainTimeoutMs: fc.option(fc.double({ min: 0.5, max: 2 ** 50, noNaN: true }), { nil: undefined }),
    sent: fc.option(filled, { nil: undefined }),
    isRegistered: fc.boolean(),
    isStopped: fc.boolean(),
    process: fc.option(process, { nil: undefined }),
  })
  const state: fc.Arbitrary<SavedState> = record({
    proxies: fc.uniqueArray(proxy, { maxLength: 4, selector: ({ proxyId }) => proxyId }),
    services: fc.array(record({ id: text, sender, sent: fc.option(filled, { nil: undefined }) }), {
      maxLength: 4,
    }),
    tokensToRevoke: fc.array(text, { maxLength: 4 }),
    requests: fc.array(
      fc
        .dictionary(text, fc.jsonValue(), { noNullPrototype: true })
        .map((request) => JSON.parse(JSON.stringify(request)) as object),
      { maxLength: 3 },
    ) as fc.Arbitrary<SavedState['requests']>,
  })

  it('gives back whatever was put into it', () => {
    fc.assert(
      fc.property(state, (saved) => {
        assert.deepEqual(parseSnapshot(formatSnapshot(saved)), saved)
      }),
    )
  })

  it('is the same text for the same state', () => {
    fc.assert(
      fc.property(state, (saved) => {
        assert.equal(formatSnapshot(parseSnapshot(formatSnapshot(saved))), formatSnapshot(saved))
      }),
    )
  })

  it('may be empty', () => {
    assert.deepEqual(parseSnapshot(formatSnapshot(EMPTY_STATE)), EMPTY_STATE)
  })

  it('has the form of Consul’s own', () => {
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

  it('holds a start that was written down before it was tried', () => {
    const started: SavedProxy = { ...WEB, process: { ...WEB.process!, id: undefined } }
    assert.deepEqual(parseSnapshot(formatSnapshot({ ...EMPTY_STATE, proxies: [started] })).proxies, [started])
  })

  const CONSUL = `{"Version":1,"Proxies":{"x-proxy":{"Mode":"daemon","Config":{"Pid":1,"CommandPath":"/c","CommandArgs":[],"CommandDir":"","CommandEnv":null,"ProxyToken":"t","ProxyID":"x-proxy"}}}}`

  it('of Consul 1.5 is read, and its process is not taken for ours', async () => {
    const expected: SavedState = {
      ...EMPTY_STATE,
      proxies: [
        {
          proxyId: 'x-proxy',
          serviceId: 'x',
          serviceName: '',
          port: 0,
          token: undefined,
          sender: { token: undefined, isForeign: false },
          drainTimeoutMs: undefined,
          sent: undefined,
          isRegistered: false,
          isStopped: false,
          process: undefined,
        },
      ],
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

  it('of a later supervisor says so', () => {
    const later = formatSnapshot(A).replace('"Version":1', '"Version":2')
    assert.throws(() => parseSnapshot(later), {
      name: 'SnapshotError',
      message: 'unsupported version 2 (this supervisor supports 1); a later version wrote the file',
    })
  })

  it('that is torn, anywhere, is an error or the whole', () => {
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
      // What comes last is the end of the line.
      assert.ok(length >= bytes.length - 1, String(length))
      assert.deepEqual(read, whole)
    }
  })

  type Content = Record<string, unknown>
  /** A snapshot with one thing in it that is something else. */
  function changed(change: (content: Content, proxy: Content, config: Content) => void): string {
    const content = JSON.parse(formatSnapshot({ ...A, proxies: [WEB] })) as Content
    const proxy = (content['Proxies'] as Content)['web-proxy'] as Content
    change(content, proxy, proxy['Config'] as Content)
    return JSON.stringify(content)
  }

  const wrong: [message: string, text: string][] = [
    ['the file: expected an object', 'null'],
    ['the file: expected an object', '[]'],
    ['the file: expected an object', '5'],
    ['Proxies: expected an object', changed((content) => (content['Proxies'] = []))],
    ['Proxies: expected an object', changed((content) => (content['Proxies'] = null))],
    ['Proxies: expected an object', changed((content) => delete content['Proxies'])],
    ['web-proxy: expected an object', changed((content) => (content['Proxies'] = { 'web-proxy': 5 }))],
    ['web-proxy: Config: expected an object', changed((_, proxy) => (proxy['Config'] = [1]))],
    ['web-proxy: Config: expected an object', changed((_, proxy) => delete proxy['Config'])],
    ['Services: expected a list', changed((content) => (content['Services'] = {}))],
    ['Services: expected an object', changed((content) => (content['Services'] = ['a']))],
    ['Services: ID: expected a string', changed((content) => (content['Services'] = [{ ID: 5 }]))],
    [
      'Services: Token: expected a string',
      changed((content) => (content['Services'] = [{ Token: [SECRET] }])),
    ],
    ['TokensToRevoke: expected a list', changed((content) => (content['TokensToRevoke'] = 'x'))],
    [
      'TokensToRevoke: expected a list of strings',
      changed((content) => (content['TokensToRevoke'] = [null])),
    ],
    ['Requests: expected a list', changed((content) => (content['Requests'] = 5))],
    ['Requests: expected an object', changed((content) => (content['Requests'] = ['x']))],
    ['web-proxy: ServiceID: expected a string', changed((_, proxy) => (proxy['ServiceID'] = 5))],
    ['web-proxy: ServiceName: expected a string', changed((_, proxy) => (proxy['ServiceName'] = {}))],
    ['web-proxy: Port: expected a non-negative integer', changed((_, proxy) => (proxy['Port'] = '20001'))],
    ['web-proxy: Port: expected a non-negative integer', changed((_, proxy) => (proxy['Port'] = 1.5))],
    ['web-proxy: Port: expected a non-negative integer', changed((_, proxy) => (proxy['Port'] = -1))],
    ['web-proxy: TokenService: expected a string', changed((_, proxy) => (proxy['TokenService'] = 5))],
    ['web-proxy: TokenIsMade: expected true or false', changed((_, proxy) => (proxy['TokenIsMade'] = 1))],
    ['web-proxy: Token: expected a string', changed((_, proxy) => (proxy['Token'] = { x: SECRET }))],
    ['web-proxy: IsForeign: expected true or false', changed((_, proxy) => (proxy['IsForeign'] = 'no'))],
    [
      'web-proxy: DrainTimeoutMs: expected a number of milliseconds',
      changed((_, proxy) => (proxy['DrainTimeoutMs'] = '5')),
    ],
    ['web-proxy: Sent: expected a string', changed((_, proxy) => (proxy['Sent'] = 5))],
    ['web-proxy: TokenAccessor: expected a string', changed((_, proxy) => (proxy['TokenAccessor'] = 5))],
    [
      'web-proxy: IsRegistered: expected true or false',
      changed((_, proxy) => (proxy['IsRegistered'] = 'true')),
    ],
    ['web-proxy: IsStopped: expected true or false', changed((_, proxy) => (proxy['IsStopped'] = 1))],
    ['web-proxy: StartedAt: expected a string', changed((_, proxy) => (proxy['StartedAt'] = 123))],
    ['web-proxy: BootID: expected a string', changed((_, proxy) => (proxy['BootID'] = []))],
    ['web-proxy: Launch: expected a string', changed((_, proxy) => (proxy['Launch'] = true))],
    ['web-proxy: Fingerprint: expected a string', changed((_, proxy) => (proxy['Fingerprint'] = 5))],
    [
      'web-proxy: Config: Pid: expected a non-negative integer',
      changed((_, __, config) => (config['Pid'] = '4711')),
    ],
    // To these, a signal would go to all.
    [
      'web-proxy: Config: Pid: expected a non-negative integer',
      changed((_, __, config) => (config['Pid'] = -1)),
    ],
    [
      'web-proxy: Config: Pid: expected a non-negative integer',
      changed((_, __, config) => (config['Pid'] = 1e300)),
    ],
    [
      'web-proxy: Config: ProxyToken: expected a string',
      changed((_, __, config) => (config['ProxyToken'] = [SECRET])),
    ],
    [
      'web-proxy: Config: CommandPath: expected a string',
      changed((_, __, config) => (config['CommandPath'] = 5)),
    ],
    [
      'web-proxy: Config: CommandDir: expected a string',
      changed((_, __, config) => (config['CommandDir'] = 5)),
    ],
    ['web-proxy: CommandArgs: expected a list', changed((_, __, config) => (config['CommandArgs'] = '-x'))],
    [
      'web-proxy: CommandArgs: expected a list of strings',
      changed((_, __, config) => (config['CommandArgs'] = [5])),
    ],
  ]
  for (const [message, content] of wrong) {
    it(`with something else in it is refused: ${message}`, () => {
      assert.throws(
        () => parseSnapshot(content),
        (error: Error) => {
          assert.equal(error.name, 'SnapshotError')
          assert.equal(error.message, message)
          return true
        },
      )
    })
  }

  it('without a version, or with another thing as one, is refused', () => {
    for (const version of [undefined, null, 0, '1', 1.5, true, [1], {}]) {
      const content = changed((content) => (content['Version'] = version))
      assert.throws(() => parseSnapshot(content), { name: 'SnapshotError', message: /^unsupported version / })
    }
  })

  it('that is something else altogether is refused without a word of it', () => {
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

/** Steps that are counted, and may fail once each. */
class CountedSteps {
  readonly counts: Record<Step, number> = { open: 0, write: 0, sync: 0, rename: 0, syncFolder: 0 }
  readonly order: Step[] = []
  failing: Step | undefined

  readonly steps = wrap((step, act) => {
    this.counts[step] += 1
    this.order.push(step)
    if (this.failing !== step) return act()
    this.failing = undefined
    return Promise.reject(Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' }))
  })
}

/** Resolves when it is let go. */
function gate(): { open: () => void; passed: Promise<void> } {
  let open = (): void => undefined
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return {
    open: () => {
      open()
    },
    passed,
  }
}

describe('supervisor: the state on the disk', () => {
  it('is empty when there is no file', async () => {
    assert.deepEqual(await new StateFile(newPath()).load(), EMPTY_STATE)
  })

  it('is what was saved, for whoever comes next', async () => {
    const path = newPath()
    await new StateFile(path).save(A)
    assert.deepEqual(await new StateFile(path).load(), A)
    await new StateFile(path).save(B)
    assert.deepEqual(await new StateFile(path).load(), B)
  })

  it('is for one user alone, whatever others may be given', async (t) => {
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

  it('leaves nothing else behind', async () => {
    const path = newPath()
    const file = new StateFile(path)
    const before = readdirSync('/proc/self/fd').length
    for (const state of [A, B, C]) await file.save(state)
    assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
    assert.equal(readdirSync('/proc/self/fd').length, before)
  })

  it('is written to the disk before it takes the place of the old one, which is written down as well', async () => {
    const counted = new CountedSteps()
    await new StateFile(newPath(), counted.steps).save(A)
    assert.deepEqual(counted.order, STEP_NAMES)
  })

  it('is written when it has changed, and else is not', async () => {
    const path = newPath()
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    for (const state of [A, A, structuredClone(A), B, B, A]) await file.save(state)
    assert.equal(counted.counts.rename, 3)
    const inode = statSync(path).ino
    await file.save(A)
    assert.equal(statSync(path).ino, inode)
  })

  it('is not written when it is what was there', async () => {
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

  it('is the last of many that are saved at once, with few writes', async () => {
    const path = newPath()
    const counted = new CountedSteps()
    const file = new StateFile(path, counted.steps)
    const states = Array.from({ length: 200 }, (_, i) => stateWith(`state-${i}`))
    await Promise.all(states.map((state) => file.save(state)))
    assert.deepEqual(await new StateFile(path).load(), states.at(-1))
    assert.equal(counted.counts.rename, 2)
  })

  it('never goes back: a save has resolved when its state, or a later one, is there', async () => {
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

  it('is there when a save has resolved, although another was under way', async () => {
    const path = newPath()
    const renaming = gate()
    let mustWait = false
    const file = new StateFile(
      path,
      wrap(async (step, act) => {
        if (step === 'rename' && mustWait) await renaming.passed
        return act()
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
    renaming.open()
    await Promise.all(saves)
    assert.deepEqual(await new StateFile(path).load(), A)
    // B comes to the disk after this moment, and A once more after that.
    assert.equal(tooEarly, false)
  })

  for (const step of STEP_NAMES) {
    it(`stays whole when the disk is full, and is saved later: ${step}`, async () => {
      const path = newPath()
      const counted = new CountedSteps()
      const file = new StateFile(path, counted.steps)
      await file.save(A)
      const before = readdirSync('/proc/self/fd').length
      counted.failing = step
      await assert.rejects(file.save(B), { code: 'ENOSPC' })
      const found = await new StateFile(path).load()
      assert.deepEqual(found, step === 'syncFolder' ? B : A)
      assert.equal(readdirSync('/proc/self/fd').length, before)
      await file.save(B)
      assert.deepEqual(await new StateFile(path).load(), B)
      await file.save(C)
      assert.deepEqual(await new StateFile(path).load(), C)
      assert.equal(modeOf(path), '600')
    })

    it(`is what is wanted last, after a disk that was full: ${step}`, async () => {
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

  it('is refused to whoever asked for it when it cannot be written, and not to those behind', async () => {
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

  it('is not written into a folder that does not exist', async () => {
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

  it('takes the place of what a kill has left', async () => {
    const path = newPath()
    writeFileSync(`${path}.new`, `${formatSnapshot(A)}${'x'.repeat(10_000)}`, { mode: 0o600 })
    await new StateFile(path).save(B)
    assert.deepEqual(await new StateFile(path).load(), B)
    assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
  })

  const unreadable: [what: string, content: string, problem: RegExp][] = [
    [
      'is of a later supervisor',
      formatSnapshot(A).replace('"Version":1', '"Version":2'),
      /unsupported version 2 /,
    ],
    [
      'is torn',
      formatSnapshot(A).slice(0, -100),
      /not valid JSON \(\d+ characters\): the file is truncated, /,
    ],
    ['is empty', '', /not valid JSON \(0 characters\)/],
    ['is something else', '{"Version":1,"Proxies":[]}', /Proxies: expected an object/],
  ]
  for (const [what, content, problem] of unreadable) {
    it(`is left alone when it ${what}, and says what to do`, async () => {
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

  it('says why it cannot be read', async () => {
    const folder = newFolder()
    await assert.rejects(new StateFile(folder).load(), { message: `${folder} cannot be read (EISDIR)` })
    const path = newPath()
    symlinkSync(path, path)
    await assert.rejects(new StateFile(path).load(), { message: `${path} cannot be read (ELOOP)` })
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
  type Case = [step: Step, moment: 'before' | 'halfway' | 'after', left: SavedState]
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
  for (const [step, moment, left] of cases) {
    it(`${moment} the step ${step} is whole, and another can be saved`, async (t) => {
      const path = newPath()
      const child = node(t, WRITER, path, JSON.stringify(A), JSON.stringify(B), step, moment)
      assert.deepEqual(await once(child, 'exit'), [null, 'SIGKILL'])
      const file = new StateFile(path)
      assert.deepEqual(await file.load(), left)
      await file.save(C)
      assert.deepEqual(await new StateFile(path).load(), C)
      assert.equal(modeOf(path), '600')
      assert.deepEqual(readdirSync(join(path, '..')), ['snapshot.json'])
    })
  }

  it('is all saved when nobody is killed', async (t) => {
    const path = newPath()
    const child = node(t, WRITER, path, JSON.stringify(A), JSON.stringify(B), 'none', 'before')
    assert.deepEqual(await once(child, 'exit'), [0, null])
    assert.deepEqual(await new StateFile(path).load(), B)
  })

  for (const afterMs of [0, 1, 2, 3, 5, 8, 13, 21]) {
    it(`at any moment is whole: ${afterMs} ms into many saves`, async (t) => {
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

describe('supervisor: its folder', () => {
  it('has a place for everything', () => {
    assert.deepEqual(stateFolder('/var/lib/connect'), {
      path: '/var/lib/connect/proxy',
      snapshot: '/var/lib/connect/proxy/snapshot.json',
      lock: '/var/lib/connect/proxy/supervisor.lock',
      controlSocket: '/var/lib/connect/proxy/control.sock',
      pids: '/var/lib/connect/proxy/pids',
      logs: '/var/lib/connect/proxy/logs',
    })
  })

  it('is made for one user alone, with all that leads to it', (t) => {
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

  it('is closed to others to whom it was open, and keeps what is in it', () => {
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

  it('says what is wrong when a file is in its place', () => {
    const dataDir = newFolder()
    writeFileSync(join(dataDir, 'proxy'), '')
    assert.throws(
      () => {
        createFolder(stateFolder(dataDir))
      },
      {
        message: `data_dir: ${join(dataDir, 'proxy')} cannot be used (EEXIST): expected a directory that only this user can write to; set another one with -data-dir`,
      },
    )
    assert.throws(
      () => {
        createFolder(stateFolder(join(dataDir, 'proxy')))
      },
      {
        message: /^data_dir: .* cannot be used \(ENOTDIR\): expected a directory/,
      },
    )
  })

  it('is refused when it is another user’s', { skip: process.getuid?.() !== 0 }, () => {
    const dataDir = newFolder()
    mkdirSync(join(dataDir, 'proxy'))
    chownSync(join(dataDir, 'proxy'), 65_534, 65_534)
    assert.throws(
      () => {
        createFolder(stateFolder(dataDir))
      },
      {
        message: /cannot be used \(owned by another user\)/,
      },
    )
  })

  it('is refused when it is a symbolic link', () => {
    for (const name of ['path', 'pids', 'logs'] as const) {
      const folder = stateFolder(newFolder())
      if (name !== 'path') mkdirSync(folder.path)
      const elsewhere = newFolder()
      symlinkSync(elsewhere, folder[name])
      assert.throws(
        () => {
          createFolder(folder)
        },
        { message: /cannot be used \(symbolic link\)/ },
      )
    }
  })

  it(
    'is refused to root when another user could put his own in its place',
    { skip: process.getuid?.() !== 0 },
    () => {
      const above = newFolder()
      const dataDir = join(above, 'data')
      mkdirSync(dataDir, { mode: 0o700 })
      const folder = stateFolder(dataDir)
      for (const path of [above, dataDir]) {
        const refused = new RegExp(`cannot be used \\(${path} can be changed by users other than root\\)`)
        chmodSync(path, 0o777)
        assert.throws(
          () => {
            createFolder(folder)
          },
          { message: refused },
        )
        chmodSync(path, 0o700)
        chownSync(path, 65_534, 65_534)
        assert.throws(
          () => {
            createFolder(folder)
          },
          { message: refused },
        )
        chownSync(path, 0, 0)
        createFolder(folder)
      }
      // Whoever may write to /tmp may not rename what is another's.
      chmodSync(above, 0o1777)
      createFolder(folder)
    },
  )

  it('is refused when another user can replace a folder above it, as root and as any other user', (t) => {
    const above = newFolder()
    const dataDir = join(above, 'data')
    mkdirSync(dataDir, { mode: 0o700 })
    const isRoot = process.getuid?.() === 0
    if (isRoot) {
      // The folder of all tests belongs to root, which is as good; the rest to the user.
      const NOBODY = 65_534
      for (const path of [above, dataDir]) chownSync(path, NOBODY, NOBODY)
      const before = statSync(root).mode & 0o777
      chmodSync(root, 0o755)
      process.seteuid?.(NOBODY)
      const { getuid } = process
      process.getuid = () => NOBODY
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
        assert.throws(
          () => {
            createFolder(folder)
          },
          { message: new RegExp(`cannot be used \\(${path} can be changed by users other than root`) },
        )
      }
      chmodSync(path, 0o700)
    }
    chmodSync(above, 0o1777)
    createFolder(folder)
  })

  it('is refused when another user can replace a folder to which a link above it leads', () => {
    const shared = newFolder()
    chmodSync(shared, 0o777)
    mkdirSync(join(shared, 'data'), { mode: 0o700 })
    const link = join(newFolder(), 'link')
    symlinkSync(join(shared, 'data'), link)
    assert.throws(
      () => {
        createFolder(stateFolder(link))
      },
      { message: new RegExp(`cannot be used \\(${shared} can be changed by users other than root`) },
    )
    chmodSync(shared, 0o755)
    createFolder(stateFolder(link))
  })

  it('has a pid file in which nothing is written through a link', () => {
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
    it(`has files by the name ${name} for ${JSON.stringify(proxyId)}`, () => {
      assert.equal(fileName(proxyId), name)
    })
  }

  it('has names that every folder can have, and another for each proxy', () => {
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
      fc.property(id, id, (one, other) => {
        const [name, another] = [fileName(`${one}-proxy`), fileName(`${other}-proxy`)]
        assert.match(name, /^[\w.!~*'()%-]{1,200}$/)
        assert.equal(name === another, one === other)
      }),
      { numRuns: 300 },
    )
  })

  it('has other names for long ids that differ at their ends alone', () => {
    const long = 'x'.repeat(1_000)
    const [one, other] = [fileName(`${long}1-proxy`), fileName(`${long}2-proxy`)]
    assert.notEqual(one, other)
    assert.deepEqual([one.length, other.length], [200, 200])
    assert.match(one, /^x{183}-[0-9a-f]{16}$/)
    assert.equal(fileName(`${long}1-proxy`), one)
  })
})

describe('supervisor: the lock', () => {
  const newLock = (): string => join(newFolder(), 'supervisor.lock')
  const refused = (pid: number): { message: string } => ({
    message: `another supervisor already uses this data_dir (pid ${pid})`,
  })

  it('says who has it, for one user alone', (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const path = newLock()
    takeLock(path)
    assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
    assert.equal(modeOf(path), '600')
    assert.deepEqual(readdirSync(join(path, '..')), ['supervisor.lock'])
  })

  it('is refused to a second one, which is told who has it', () => {
    const path = newLock()
    takeLock(path)
    const before = readdirSync('/proc/self/fd').length
    for (let i = 0; i < 3; i++) assert.throws(() => takeLock(path), refused(process.pid))
    assert.equal(readdirSync('/proc/self/fd').length, before)
    assert.deepEqual(readdirSync(join(path, '..')), ['supervisor.lock'])
  })

  it('can be given back, and had again', () => {
    const path = newLock()
    const before = readdirSync('/proc/self/fd').length
    for (let i = 0; i < 3; i++) {
      const release = takeLock(path)
      assert.throws(() => takeLock(path), refused(process.pid))
      release()
    }
    assert.equal(readdirSync('/proc/self/fd').length, before)
  })

  it('is another for another folder', () => {
    const [one, other] = [newLock(), newLock()]
    takeLock(one)
    takeLock(other)
  })

  it('is not had by what its owner has started', async (t) => {
    const path = newLock()
    const release = takeLock(path)
    const child = spawn('sleep', ['30'], { stdio: 'ignore', detached: true })
    t.after(() => child.kill('SIGKILL'))
    await once(child, 'spawn')
    release()
    takeLock(path)
  })

  it('is had by one that runs until it ends, however it ends', async (t) => {
    const folder = newFolder()
    const path = join(folder, '0.lock')
    const child = node(t, TAKER, folder, '1')
    await once(child.stdout!, 'data')
    child.stdin!.write(`${Date.now()}\n`)
    await once(child.stdout!, 'data')
    assert.throws(() => takeLock(path), refused(child.pid!))
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    const release = takeLock(path)
    assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
    release()
  })

  const left: [what: string, content: string][] = [
    ['one that has said nothing', ''],
    ['one with a longer number', '123456789012\n'],
    ['one whose number is another’s now', '1\n'],
    ['one of an earlier form', '{"pid":1,"startedAt":"1","bootId":"x"}'],
    ['something else', '\0\0garbage'],
  ]
  for (const [what, content] of left) {
    it(`is taken over from ${what}`, () => {
      const path = newLock()
      writeFileSync(path, content)
      takeLock(path)
      assert.equal(readFileSync(path, 'utf8').trim(), String(process.pid))
      assert.throws(() => takeLock(path), refused(process.pid))
    })
  }

  it('cannot be taken where there is no folder, or a link, and says what it needs', (t) => {
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

  for (const [what, content] of [
    ['there is none', undefined],
    ['a dead one has left it', '1\n'],
  ] as const) {
    it(`is had by exactly one of many who come at the same time when ${what}`, async (t) => {
      const [takers, rounds] = [5, 60]
      const folder = newFolder()
      if (content !== undefined) {
        for (let round = 0; round < rounds; round++) writeFileSync(join(folder, `${round}.lock`), content)
      }
      const children = Array.from({ length: takers }, () => node(t, TAKER, folder, String(rounds)))
      const lines = children.map((child) => createInterface({ input: child.stdout! })[Symbol.asyncIterator]())
      for (const each of lines) assert.equal((await each.next()).value, 'ready')
      const begin = Date.now() + 200
      for (const child of children) child.stdin!.write(`${begin}\n`)
      const winners = new Map<number, number[]>()
      const unexpected: string[] = []
      for (const [i, each] of lines.entries()) {
        const result = JSON.parse(String((await each.next()).value)) as {
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
