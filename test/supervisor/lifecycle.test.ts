import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { until } from '../fixtures/mesh.js'
import { RunningProxy } from '../proxy/connect-proxy.js'
import { Host, IDLE, kill, managed, settings, servicesOf, startHost } from './connect-supervisor.js'
import { commandLineOf, environmentOf, isAlive, parseProcess } from './processes.js'

/** Until the agent knows just these. */
async function registered(agent: TestAgent, ids: readonly string[]): Promise<void> {
  await until(`the agent knows ${ids.join(', ')}`, async () => {
    const found = Object.keys(await servicesOf(agent)).sort()
    assert.deepEqual(found, [...ids].sort())
    return true
  })
}

test('a managed service is registered with its proxy, which runs with the environment of the original', async (t) => {
  const { agent, host } = await startHost(
    t,
    {
      'redis.hcl':
        'service { name = "redis" id = "r1" port = 6379 tags = ["a"] connect { proxy { command = ["sleep", "1000"] } } }',
    },
    { env: { GREETING: 'hello', CONSUL_HTTP_TOKEN: 'the-token-of-the-supervisor', NOTIFY_SOCKET: '/run/x' } },
  )
  await host.start()
  const { pid, port, proxy } = await host.running('r1')
  assert.equal(proxy, 'r1-proxy')
  const known = await servicesOf(agent)
  assert.deepEqual(Object.keys(known).sort(), ['r1', 'r1-proxy'])
  assert.deepEqual(known['r1']?.['Tags'], ['a'])
  const registration = known['r1-proxy']!
  assert.equal(registration['Kind'], 'connect-proxy')
  assert.equal(registration['Port'], port)
  const { Config, Upstreams, MeshGateway, Expose, ...destination } = registration['Proxy'] as Record<
    string,
    unknown
  >
  assert.deepEqual(destination, {
    DestinationServiceName: 'redis',
    DestinationServiceID: 'r1',
    LocalServiceAddress: '127.0.0.1',
    LocalServicePort: 6379,
  })
  assert.deepEqual(Config, {
    bind_address: '127.0.0.1',
    bind_port: port,
    local_service_address: '127.0.0.1:6379',
  })
  const checks = (await (await fetch(`${agent.url}/v1/agent/checks`)).json()) as Record<
    string,
    { Name: string }
  >
  assert.equal(checks['service:r1-proxy']?.Name, 'Connect Proxy Listening')

  const environment = environmentOf(pid)
  assert.equal(environment['CONNECT_PROXY_ID'], 'r1-proxy')
  assert.equal(environment['CONSUL_HTTP_ADDR'], agent.address)
  assert.equal(environment['GREETING'], 'hello')
  // ACLs are off, so that it has none of its own; and the supervisor's is nobody else's.
  for (const name of ['CONNECT_PROXY_TOKEN', 'CONSUL_HTTP_TOKEN', 'NOTIFY_SOCKET']) {
    assert.equal(environment[name], undefined, name)
  }
  assert.match(commandLineOf(pid).join(' '), /^\/\S*\/sleep 1000$/)
  assert.equal(parseProcess(pid)?.session, pid)
  const files = join(host.dataDir, 'proxy')
  assert.equal(readFileSync(join(files, 'pids', 'r1-proxy.pid'), 'utf8'), `${pid}\n`)
  for (const folder of [files, join(files, 'pids'), join(files, 'logs')]) {
    assert.equal(statSync(folder).mode & 0o777, 0o700, folder)
    for (const name of readdirSync(folder)) {
      const { mode } = statSync(join(folder, name))
      assert.equal(mode & 0o077, 0, `${name} is for its user alone`)
    }
  }
})

test('the default command is our own proxy, at the level of the supervisor', async (t) => {
  const { host } = await startHost(t, { 'redis.json': managed('redis') }, { flags: ['-log-level', 'debug'] })
  await host.start()
  const { pid } = await host.running('redis')
  const [node, program, ...flags] = commandLineOf(pid)
  assert.equal(node, process.execPath)
  assert.match(program ?? '', /proxy\/bin\.js$/)
  assert.deepEqual(flags, ['-log-level', 'debug', '-log-json'])
  const log = join(host.dataDir, 'proxy', 'logs', 'redis-proxy-stderr.log')
  await until('it has opened its public listener', () =>
    readFileSync(log, 'utf8').includes('public listener is open'),
  )
  assert.match((await host.run('logs', 'redis')).error, /public listener is open/)
})

test('the supervisor ends, by SIGTERM and by SIGKILL, and its proxies are found again', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE), 'b.json': managed('b', IDLE) })
  const first = await host.start()
  const before = [await host.running('a'), await host.running('b')]
  assert.equal(await first.stop('SIGTERM'), 0)
  const second = await host.start()
  assert.equal(second.lines.filter(({ msg }) => msg.includes('adopted running process')).length, 2)
  assert.equal(await second.stop('SIGKILL'), 'SIGKILL')
  await host.start()
  const after = [await host.running('a'), await host.running('b')]
  assert.deepEqual(
    after.map(({ pid, port }) => ({ pid, port })),
    before.map(({ pid, port }) => ({ pid, port })),
  )
  assert.equal(host.processes().length, 2)
  await registered(agent, ['a', 'a-proxy', 'b', 'b-proxy'])
  // It is looked after: an end is noticed although it is nobody's child.
  kill(before[0]!.pid)
  const { restarts } = await host.row('a', ({ pid, state }) => state === 'running' && pid !== before[0]?.pid)
  assert.equal(restarts, 1)
})

test('both are killed: the proxies are started anew, with the ports that they had', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  const before = await host.running('a')
  await first.stop('SIGKILL')
  kill(before.pid)
  await until('it is gone', () => !isAlive(before.pid))
  await host.start()
  const after = await host.running('a')
  assert.notEqual(after.pid, before.pid)
  assert.equal(after.port, before.port)
})

test('a number that is another process’s now is neither adopted nor killed', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  const a = await host.running('a')
  // At another moment: a moment is a hundredth of a second here.
  host.write('b.json', managed('b', IDLE))
  first.signal('SIGHUP')
  const b = await host.running('b')
  await first.stop('SIGKILL')
  kill(a.pid)
  // As if the number of a were given to b after it.
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  const snapshot = readFileSync(path, 'utf8').replace(`"Pid":${a.pid},`, `"Pid":${b.pid},`)
  writeFileSync(path, snapshot)
  await host.start()
  const anew = await host.running('a')
  assert.notEqual(anew.pid, b.pid)
  await host.command('stop', 'a')
  assert.ok(isAlive(b.pid))
  assert.equal((await host.running('b')).pid, b.pid)
})

test('a start that was not written down to its end is found by its launch', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  const { pid } = await host.running('a')
  await first.stop('SIGKILL')
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  writeFileSync(path, readFileSync(path, 'utf8').replace(`"Pid":${pid},`, '"Pid":0,'))
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
  assert.equal(host.processes().length, 1)
})

test('a proxy whose state is lost is ended, and started again on its port', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE), 'b.json': managed('b', IDLE) })
  const first = await host.start()
  const orphan = await host.running('a')
  await host.running('b')
  await first.stop('SIGKILL')
  // Another supervisor, with an agent of its own, has a proxy with the same id.
  const other = await startHost(t, { 'a.json': managed('a', IDLE) })
  await other.host.start()
  const neighbor = await other.host.running('a')
  t.after(() => {
    kill(orphan.pid)
  })
  rmSync(host.dataDir, { recursive: true })
  const second = await host.start()
  const { msg } = await second.logged('stopping a process of an earlier supervisor')
  assert.match(msg, /^[ab]-proxy: .* that is missing from the state: \d+$/)
  const { port, pid } = await host.running('a')
  assert.notEqual(pid, orphan.pid)
  assert.equal(port, orphan.port)
  assert.equal(isAlive(orphan.pid), false)
  await host.running('b')
  await until('every proxy has one process', () => host.processes().length === 2)
  assert.ok(isAlive(neighbor.pid))
})

test('a change of the configuration reaches a proxy through the agent, and one of its command restarts it', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const supervisor = await host.start()
  const first = await host.running('a')
  host.write('a.json', managed('a', { ...IDLE, config: { handshake_timeout_ms: 1234 } }))
  supervisor.signal('SIGHUP')
  await until('the agent has it', async () => {
    const proxy = (await servicesOf(agent))['a-proxy']?.['Proxy'] as
      { Config?: Record<string, unknown> } | undefined
    return proxy?.Config?.['handshake_timeout_ms'] === 1234
  })
  assert.equal((await host.running('a')).pid, first.pid)
  host.write('a.json', managed('a', { command: ['sleep', '1001'] }))
  supervisor.signal('SIGHUP')
  const second = await host.row('a', ({ state, pid }) => state === 'running' && pid !== first.pid)
  assert.match(commandLineOf(second.pid!).join(' '), /sleep 1001$/)
  assert.equal(second.port, first.port)
  assert.equal(isAlive(first.pid), false)
})

test('the files are watched when that is asked for; a file that is wrong changes nothing', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) }, { flags: ['-watch'] })
  const supervisor = await host.start()
  const { pid } = await host.running('a')
  host.write('b.json', managed('b', IDLE))
  await host.running('b')
  host.write('c.json', '{"service": ')
  const { msg } = await supervisor.logged('configuration rejected')
  assert.match(msg, /c\.json:1:\d+: expected JSON/)
  assert.equal((await host.running('a')).pid, pid)
  host.write('c.json', '{}')
  host.write('b.json', '{}')
  await registered(agent, ['a', 'a-proxy'])
  assert.equal(host.processes().length, 1)
})

test('a definition that goes takes its proxy with it, also while nobody looked', async (t) => {
  const { agent, host } = await startHost(t, {
    'a.json': managed('a', IDLE),
    'b.json': managed('b', IDLE),
    'c.json': managed('c', IDLE),
  })
  const first = await host.start()
  await Promise.all(['a', 'b', 'c'].map((id) => host.running(id)))
  host.write('b.json', {})
  first.signal('SIGHUP')
  await registered(agent, ['a', 'a-proxy', 'c', 'c-proxy'])
  await first.stop('SIGKILL')
  // The service stays, and its proxy goes.
  host.write('a.json', { service: { name: 'a', port: 1 } })
  host.write('c.json', {})
  await host.start()
  await registered(agent, ['a'])
  await until('nothing runs', () => host.processes().length === 0)
  await until('nothing is left of them', () => readdirSync(join(host.dataDir, 'proxy', 'pids')).length === 0)
})

test('a service that somebody deregisters loses its proxy, and keeps it lost until a reload', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE), 'b.json': managed('b', IDLE) })
  const supervisor = await host.start()
  await Promise.all([host.running('a'), host.running('b')])
  await supervisor.logged('started')
  // It has to have seen it once.
  await until('a pass', async () => {
    return (await host.status()).passes > 1
  })
  await fetch(`${agent.url}/v1/agent/service/deregister/a`, { method: 'PUT' })
  await supervisor.logged('deregistered by another client')
  await registered(agent, ['b', 'b-proxy'])
  await until('its proxy is gone', () => host.processes().length === 1)
  supervisor.signal('SIGHUP')
  await host.running('a')
  await registered(agent, ['a', 'a-proxy', 'b', 'b-proxy'])
})

test('an operator stops a proxy, over a restart of the supervisor, and starts it', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  const { pid, port } = await host.running('a')
  assert.match(await host.command('status'), new RegExp(`a +a-proxy +${port} +${pid} +running +0 +\\ds +-`))
  assert.equal(await host.command('stop', 'a-proxy'), 'a-proxy is stopped\n')
  assert.equal(isAlive(pid), false)
  await registered(agent, ['a'])
  await first.stop()
  const left = await host.run('status')
  assert.equal(left.code, 3)
  assert.match(left.out, /no supervisor is running/)
  await host.start()
  await host.row('a', ({ state }) => state === 'stopped')
  await host.command('start', 'a')
  await host.running('a')
  await registered(agent, ['a', 'a-proxy'])
  assert.match((await host.run('stop', 'nope')).error, /unknown managed proxy: "nope"/)
})

test('a proxy may drain for its drain_timeout_ms before it is killed', async (t) => {
  const drains = ['sh', '-c', 'trap "sleep 5.5; exit 3" INT; while :; do sleep 0.1; done']
  const proxy = { command: drains, config: { drain_timeout_ms: 6_000 } }
  const { host } = await startHost(t, { 'a.json': managed('a', proxy) })
  await host.start()
  await host.running('a')
  await host.command('stop', 'a')
  await host.row('a', ({ state, lastExit }) => state === 'stopped' && lastExit === 'exit code 3')
})

test('the drain of a proxy is known after a restart of the supervisor, without its definition', async (t) => {
  const command = ['sh', '-c', 'trap "" INT; while :; do sleep 1000; done']
  const { host } = await startHost(t, {
    'a.json': managed('a', { command, config: { drain_timeout_ms: 100 } }),
  })
  const first = await host.start()
  const { pid } = await host.running('a')
  await first.stop('SIGKILL')
  host.write('a.json', {})
  const before = performance.now()
  await host.start()
  await until('it is gone', () => !isAlive(pid))
  const tookMs = performance.now() - before
  assert.ok(tookMs < 9_000, `${tookMs} ms; the default is 11 s`)
})

test('a proxy that ignores SIGINT is killed a second after its drain, with all of its session', async (t) => {
  const command = ['sh', '-c', 'trap "" INT; sleep 1000 & wait; sleep 1000']
  const proxy = { command, config: { drain_timeout_ms: 500 } }
  const { host } = await startHost(t, { 'a.json': managed('a', proxy) })
  await host.start()
  const { pid } = await host.running('a')
  await until('it has started its child', () => host.processes().length === 2)
  const before = performance.now()
  await host.command('stop', 'a')
  const tookMs = performance.now() - before
  assert.ok(tookMs > 1_400 && tookMs < 5_000, `${tookMs} ms`)
  assert.equal(isAlive(pid), false)
  await until('its child is gone', () => host.processes().length === 0)
})

test('-dev without a data dir: proxies end with the supervisor, and nothing is left', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const host = new Host(t, {
    agent: agent.address,
    files: {
      'agent.json': await settings(),
      'a.json': managed('a', { command: ['sh', '-c', 'echo said; exec sleep 1000'] }),
    },
  })
  const bin = join(import.meta.dirname, '..', '..', 'examples', 'supervisor', 'bin.js')
  const child = spawn(process.execPath, [bin, '-dev', '-config-dir', host.configuration, '-log-json'], {
    env: { PATH: process.env['PATH'], CONSUL_HTTP_ADDR: agent.address },
    cwd: host.configuration,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const supervisor = new RunningProxy(child)
  t.after(() => supervisor.stop('SIGKILL'))
  const { process: pid } = (await supervisor.logged('a-proxy: started')) as unknown as { process: number }
  assert.ok(isAlive(pid))
  assert.equal(await supervisor.stop(), 0)
  assert.equal(isAlive(pid), false)
  await registered(agent, [])
  assert.equal(existsSync(host.dataDir), false)
  assert.deepEqual(readdirSync(host.configuration).sort(), ['a.json', 'agent.json'])
})
