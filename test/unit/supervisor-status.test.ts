import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { ManagedProxy } from '../../examples/supervisor/src/services/managed-proxy.js'
import {
  type ProxyStatus,
  type SupervisorStatus,
  formatStatus,
  goneStatus,
  proxyStatus,
} from '../../examples/supervisor/src/operator/status.js'

const RUNNING: ProxyStatus = {
  service: 'redis',
  proxy: 'redis-proxy',
  port: 20_001,
  pid: 4_711,
  state: 'running',
  restarts: 0,
  uptimeS: 59,
  lastExit: undefined,
  token: 'valid',
  problem: undefined,
}

const FAILING: ProxyStatus = {
  service: 'web-frontend',
  proxy: 'web-frontend-proxy',
  port: 0,
  pid: undefined,
  state: 'failing',
  restarts: 12,
  uptimeS: undefined,
  lastExit: 'exit code 1',
  token: 'none',
  problem: 'command: /x does not exist',
}

function statusOf(proxies: readonly ProxyStatus[], agent: string = 'ok'): SupervisorStatus {
  return { agent, isWorking: true, passes: 1, services: proxies.length, proxies }
}

/** Splits the table into rows and cells. */
function cellsOf(text: string): string[][] {
  const [table = ''] = text.split('\n\n', 1)
  return table
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ {2,}/))
}

const TITLES = ['SERVICE', 'PROXY', 'PORT', 'PID', 'STATE', 'RESTARTS', 'UPTIME', 'LAST EXIT']

describe('supervisor: the status', () => {
  it('is a table, followed by the problems', () => {
    assert.equal(
      formatStatus(statusOf([RUNNING, FAILING])),
      `SERVICE       PROXY               PORT   PID   STATE    RESTARTS  UPTIME  LAST EXIT
redis         redis-proxy         20001  4711  running  0         59s     -
web-frontend  web-frontend-proxy  -      -     failing  12        -       exit code 1

web-frontend-proxy: command: /x does not exist
`,
    )
  })

  it('has a title row without proxies', () => {
    assert.equal(formatStatus(statusOf([])), `${TITLES.join('  ')}\n`)
  })

  it('has no problems when all proxies run', () => {
    assert.ok(!formatStatus(statusOf([RUNNING])).includes('\n\n'))
  })

  it('shows the problem of the agent before those of proxies', () => {
    const text = formatStatus(statusOf([RUNNING, FAILING], 'unreachable'))
    const [, problems] = text.split('\n\n')
    assert.equal(problems, 'agent: unreachable\nweb-frontend-proxy: command: /x does not exist\n')
  })

  it('keeps the order of the proxies', () => {
    const names = ['c', 'a', 'b']
    const text = formatStatus(statusOf(names.map((service) => ({ ...RUNNING, service }))))
    assert.deepEqual(
      cellsOf(text).map(([service]) => service),
      ['SERVICE', ...names],
    )
  })

  const cells: [change: Partial<ProxyStatus>, title: string, cell: string][] = [
    [{ port: 0 }, 'PORT', '-'],
    [{ port: 65_535 }, 'PORT', '65535'],
    [{ pid: undefined }, 'PID', '-'],
    [{ state: 'refused' }, 'STATE', 'refused'],
    [{ restarts: 1_000_000 }, 'RESTARTS', '1000000'],
    [{ lastExit: 'SIGKILL' }, 'LAST EXIT', 'SIGKILL'],
    [{ lastExit: undefined }, 'LAST EXIT', '-'],
    [{ uptimeS: undefined }, 'UPTIME', '-'],
    [{ uptimeS: 0 }, 'UPTIME', '0s'],
    [{ uptimeS: 59 }, 'UPTIME', '59s'],
    [{ uptimeS: 60 }, 'UPTIME', '1m'],
    [{ uptimeS: 3_599 }, 'UPTIME', '59m'],
    [{ uptimeS: 3_600 }, 'UPTIME', '1h'],
    [{ uptimeS: 86_399 }, 'UPTIME', '23h'],
    [{ uptimeS: 86_400 }, 'UPTIME', '1d'],
    [{ uptimeS: 864_000 }, 'UPTIME', '10d'],
  ]
  for (const [change, title, cell] of cells) {
    it(`shows ${JSON.stringify(change)} as ${cell}`, () => {
      const [titles, row] = cellsOf(formatStatus(statusOf([{ ...RUNNING, ...change }])))
      assert.deepEqual(titles, TITLES)
      assert.equal(row?.[TITLES.indexOf(title)], cell)
    })
  }

  it('aligns each column with its title', () => {
    const name = fc.stringMatching(/^[a-z0-9.-]{1,30}$/)
    const proxy = fc.record({
      service: name,
      proxy: name,
      port: fc.nat({ max: 65_535 }),
      pid: fc.option(fc.nat(), { nil: undefined }),
      state: fc.constantFrom<ProxyStatus['state'][]>(
        'running',
        'waiting',
        'stopping',
        'stopped',
        'refused',
        'failing',
      ),
      restarts: fc.nat(),
      uptimeS: fc.option(fc.nat(), { nil: undefined }),
      lastExit: fc.option(name, { nil: undefined }),
      token: fc.constantFrom<ProxyStatus['token'][]>('none', 'valid', 'missing'),
      problem: fc.constant(undefined),
    })
    fc.assert(
      fc.property(fc.array(proxy, { maxLength: 5 }), (proxies) => {
        const lines = formatStatus(statusOf(proxies)).trimEnd().split('\n')
        assert.equal(lines.length, proxies.length + 1)
        const starts = TITLES.map((title) => lines[0]!.indexOf(title))
        for (const line of lines) {
          assert.equal(line, line.trimEnd())
          for (const start of starts) {
            assert.notEqual(line[start] ?? ' ', ' ')
            if (start > 0) assert.equal(line.slice(start - 2, start), '  ')
          }
        }
      }),
    )
  })

  it('escapes control characters', () => {
    const evil = '\u001b[2J\u009b31m\r\nroot-proxy\t\0\u007f\u0008'
    const proxy = { ...FAILING, service: evil, proxy: evil, lastExit: evil, problem: evil }
    const text = formatStatus(statusOf([proxy], evil))
    assert.match(text, /^[^\p{Cc}]*\n[^\p{Cc}]*\n\n[^\p{Cc}]*\n[^\p{Cc}]*\n$/u)
    assert.ok(text.includes('\\u001b[2J\\u009b31m\\u000d\\u000aroot-proxy'))
  })

  it('escapes bidirectional and zero-width characters', () => {
    const text = formatStatus(statusOf([{ ...FAILING, service: 'web\u202e\u200bbew', problem: '\u2066x' }]))
    assert.ok(text.includes('web\\u202e\\u200bbew'))
    assert.ok(text.includes(': \\u2066x\n'))
  })

  it('shows the loss of a token', () => {
    const { token, problem } = proxyStatus(proxyWith({ state: 'running' }, false, 'missing'), undefined)
    assert.equal(token, 'missing')
    assert.match(problem ?? '', /ACL token is unknown to the agent/)
  })

  it('has one line for each proxy and problem, with any text', () => {
    const text = fc.string({ unit: 'binary' })
    fc.assert(
      fc.property(text, text, text, (service, lastExit, problem) => {
        const lines = formatStatus(statusOf([{ ...FAILING, service, lastExit, problem }], problem)).split(
          '\n',
        )
        assert.equal(lines.length, problem === 'ok' ? 5 : 6)
        assert.doesNotMatch(lines.join(''), /\p{Cc}/u)
      }),
    )
  })
})

/** Creates the properties of a proxy that its status uses. */
function proxyWith(runner: object, isStopped: boolean = false, tokenState: string = 'valid'): ManagedProxy {
  const stopped = {
    state: 'stopped',
    running: undefined,
    restarts: 0,
    lastExit: undefined,
    problem: undefined,
  }
  const proxy = {
    id: 'web-proxy',
    serviceId: 'web',
    port: 20_001,
    isStopped,
    tokenState,
    runner: { ...stopped, ...runner },
  }
  return proxy as unknown as ManagedProxy
}

describe('supervisor: the status of a proxy', () => {
  it('has all properties', () => {
    const running = { id: { pid: 4_711 }, since: performance.now() - 61_500 }
    const runner = { state: 'running', running, restarts: 2, lastExit: { code: 3, signal: null } }
    assert.deepEqual(proxyStatus(proxyWith(runner), undefined), {
      service: 'web',
      proxy: 'web-proxy',
      port: 20_001,
      pid: 4_711,
      state: 'running',
      restarts: 2,
      uptimeS: 61,
      lastExit: 'exit code 3',
      token: 'valid',
      problem: undefined,
    })
  })

  const exits: [exit: object | undefined, text: string | undefined][] = [
    [undefined, undefined],
    [{ code: 0, signal: null }, 'exit code 0'],
    [{ code: 127, signal: null }, 'exit code 127'],
    [{ code: null, signal: 'SIGKILL' }, 'SIGKILL'],
    // The exit status of a process that is not a child is unknown.
    [{ code: null, signal: null }, 'unknown'],
  ]
  for (const [lastExit, text] of exits) {
    it(`has the last exit ${text ?? '-'}`, () => {
      assert.equal(proxyStatus(proxyWith({ lastExit }), undefined).lastExit, text)
    })
  }

  const failed = new Error('cannot be started')
  type Problem = string | undefined
  const states: [runner: object, isStopped: boolean, problem: Problem, state: string, shown?: Problem][] = [
    [{ state: 'running' }, false, undefined, 'running'],
    [{ state: 'running' }, false, 'x', 'running', 'x'],
    [{ state: 'stopping' }, true, undefined, 'stopping'],
    [{ state: 'stopped' }, true, undefined, 'stopped'],
    [{ state: 'stopped' }, true, 'x', 'stopped', 'x'],
    [{ state: 'stopped' }, false, 'x', 'refused', 'x'],
    [{ state: 'waiting' }, false, undefined, 'waiting'],
    [{ state: 'waiting', problem: failed }, false, undefined, 'failing', 'cannot be started'],
    [{ state: 'waiting', problem: failed }, false, 'x', 'refused', 'x'],
  ]
  for (const [runner, isStopped, problem, state, shown] of states) {
    it(`is ${state} for ${JSON.stringify([runner, isStopped, problem])}`, () => {
      const status = proxyStatus(proxyWith(runner, isStopped), problem)
      assert.deepEqual([status.state, status.problem], [state, shown])
    })
  }

  it('gives advice when another client deregistered the service', () => {
    const { state, problem } = goneStatus(proxyWith({ state: 'stopped' }))
    assert.equal(state, 'gone')
    assert.match(problem ?? '', /deregistered by another client; reload, or use start, to register it again$/)
  })
})
