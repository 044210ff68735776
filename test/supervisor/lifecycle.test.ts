// Proxies over the lifetime of supervisors: start, adoption, changes of the configuration, and stop.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestAgent } from '../../src/testing/index.js'
import { until } from '../fixtures/mesh.js'
import { RunningProxy } from '../proxy/connect-proxy.js'
import { IDLE, kill, managed, servicesOf, startHost, startIdle } from './connect-supervisor.js'
import { commandLineOf, environmentOf, isAlive, parseProcess } from './processes.js'

/** Waits until the agent has exactly these services. */
async function expectServices(agent: TestAgent, ids: readonly string[]): Promise<void> {
  await until(`the agent has ${ids.join(', ')}`, async () => {
    assert.deepEqual(Object.keys(await servicesOf(agent)).sort(), [...ids].sort())
    return true
  })
}

test('registers a service and its proxy, and runs the proxy with the environment that Consul 1.5 gave it', async (t) => {
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
  const services = await servicesOf(agent)
  assert.deepEqual(Object.keys(services).sort(), ['r1', 'r1-proxy'])
  assert.deepEqual(services['r1']?.['Tags'], ['a'])
  const registration = services['r1-proxy']!
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
  // Without ACLs the proxy has no token, and it must not get that of the supervisor.
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
      assert.equal(mode & 0o077, 0, `${name} must be accessible to its user only`)
    }
  }
})

test('runs connect-proxy by default, with the log level of the supervisor', async (t) => {
  const { host } = await startHost(t, { 'redis.json': managed('redis') }, { flags: ['-log-level', 'debug'] })
  await host.start()
  const { pid } = await host.running('redis')
  const [node, program, ...flags] = commandLineOf(pid)
  assert.equal(node, process.execPath)
  assert.match(program ?? '', /proxy\/bin\.js$/)
  assert.deepEqual(flags, ['-log-level', 'debug', '-log-json'])
  const log = join(host.dataDir, 'proxy', 'logs', 'redis-proxy-stderr.log')
  await until('the proxy listens', () => readFileSync(log, 'utf8').includes('public listener is open'))
  assert.match((await host.run('logs', 'redis')).error, /public listener is open/)
})

test('the next supervisor adopts running proxies after SIGTERM and SIGKILL', async (t) => {
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
  await expectServices(agent, ['a', 'a-proxy', 'b', 'b-proxy'])
  // The supervisor notices the end of an adopted process, which is not its child.
  kill(before[0]!.pid)
  const { restarts } = await host.row('a', ({ pid, state }) => state === 'running' && pid !== before[0]?.pid)
  assert.equal(restarts, 1)
})

test('the next supervisor restarts proxies that ended meanwhile, on the same ports', async (t) => {
  const { host, supervisor: first, row: before } = await startIdle(t)
  await first.stop('SIGKILL')
  kill(before.pid)
  await until('the process has ended', () => !isAlive(before.pid))
  await host.start()
  const after = await host.running('a')
  assert.notEqual(after.pid, before.pid)
  assert.equal(after.port, before.port)
})

test('neither adopts nor kills a process that reuses the pid of a proxy', async (t) => {
  const { host, supervisor: first, row: a } = await startIdle(t)
  // Later than `a`: start times in /proc have a resolution of 10 ms.
  host.write('b.json', managed('b', IDLE))
  first.signal('SIGHUP')
  const b = await host.running('b')
  await first.stop('SIGKILL')
  kill(a.pid)
  // As if the kernel had given the pid of `a` to `b`.
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  const snapshot = readFileSync(path, 'utf8').replace(`"Pid":${a.pid},`, `"Pid":${b.pid},`)
  writeFileSync(path, snapshot)
  await host.start()
  const restarted = await host.running('a')
  assert.notEqual(restarted.pid, b.pid)
  await host.command('stop', 'a')
  assert.ok(isAlive(b.pid))
  assert.equal((await host.running('b')).pid, b.pid)
})

test('adopts a proxy whose pid was not saved before the supervisor was killed', async (t) => {
  const { host, supervisor: first, pid } = await startIdle(t)
  await first.stop('SIGKILL')
  const path = join(host.dataDir, 'proxy', 'snapshot.json')
  writeFileSync(path, readFileSync(path, 'utf8').replace(`"Pid":${pid},`, '"Pid":0,'))
  await host.start()
  assert.equal((await host.running('a')).pid, pid)
  assert.equal(host.processes().length, 1)
})

test('ends a proxy that is missing from a lost state, and restarts it on its port', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE), 'b.json': managed('b', IDLE) })
  const first = await host.start()
  const orphan = await host.running('a')
  await host.running('b')
  await first.stop('SIGKILL')
  // A supervisor of another agent has a proxy with the same id, which must keep running.
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
  await until('one process for each proxy', () => host.processes().length === 2)
  assert.ok(isAlive(neighbor.pid))
})

test('a change of the settings reaches a proxy through the agent; a change of the command restarts the proxy', async (t) => {
  const { agent, host, supervisor, row: first } = await startIdle(t)
  host.write('a.json', managed('a', { ...IDLE, config: { handshake_timeout_ms: 1234 } }))
  supervisor.signal('SIGHUP')
  await until('the agent has the new setting', async () => {
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

test('-watch applies changes of files, and ignores invalid files', async (t) => {
  const { agent, host, supervisor, pid } = await startIdle(t, ['-watch'])
  host.write('b.json', managed('b', IDLE))
  await host.running('b')
  host.write('c.json', '{"service": ')
  const { msg } = await supervisor.logged('configuration rejected')
  assert.match(msg, /c\.json:1:\d+: expected JSON/)
  assert.equal((await host.running('a')).pid, pid)
  host.write('c.json', '{}')
  host.write('b.json', '{}')
  await expectServices(agent, ['a', 'a-proxy'])
  await until('the proxy of b has ended', () => host.processes().length === 1)
})

test('removes the proxies of removed definitions, also of those removed while no supervisor ran', async (t) => {
  const { agent, host } = await startHost(t, {
    'a.json': managed('a', IDLE),
    'b.json': managed('b', IDLE),
    'c.json': managed('c', IDLE),
  })
  const first = await host.start()
  await Promise.all(['a', 'b', 'c'].map((id) => host.running(id)))
  host.write('b.json', {})
  first.signal('SIGHUP')
  await expectServices(agent, ['a', 'a-proxy', 'c', 'c-proxy'])
  await first.stop('SIGKILL')
  // `a` keeps its service without a proxy.
  host.write('a.json', { service: { name: 'a', port: 1 } })
  host.write('c.json', {})
  await host.start()
  await expectServices(agent, ['a'])
  await until('no proxy runs', () => host.processes().length === 0)
  await until('no pid file is left', () => readdirSync(join(host.dataDir, 'proxy', 'pids')).length === 0)
})

test('stops the proxy of a service that another client deregistered, until a reload', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE), 'b.json': managed('b', IDLE) })
  const supervisor = await host.start()
  await Promise.all([host.running('a'), host.running('b')])
  // The supervisor must have seen the registration once.
  await until('the second pass', async () => (await host.status()).passes > 1)
  await fetch(`${agent.url}/v1/agent/service/deregister/a`, { method: 'PUT' })
  await supervisor.logged('deregistered by another client')
  await expectServices(agent, ['b', 'b-proxy'])
  await until('its proxy has ended', () => host.processes().length === 1)
  supervisor.signal('SIGHUP')
  await host.running('a')
  await expectServices(agent, ['a', 'a-proxy', 'b', 'b-proxy'])
})

test('stop lasts over a restart of the supervisor, until start', async (t) => {
  const { agent, host, supervisor: first, pid, port } = await startIdle(t)
  assert.match(await host.command('status'), new RegExp(`a +a-proxy +${port} +${pid} +running +0 +\\ds +-`))
  assert.equal(await host.command('stop', 'a-proxy'), 'a-proxy is stopped\n')
  assert.equal(isAlive(pid), false)
  await expectServices(agent, ['a'])
  await first.stop()
  const { code, out } = await host.run('status')
  assert.equal(code, 3)
  assert.match(out, /no supervisor is running/)
  await host.start()
  await host.row('a', ({ state }) => state === 'stopped')
  await host.command('start', 'a')
  await host.running('a')
  await expectServices(agent, ['a', 'a-proxy'])
  assert.match((await host.run('stop', 'nope')).error, /unknown managed proxy: "nope"/)
})

test('stop waits for the drain_timeout_ms of a proxy before it kills the proxy', async (t) => {
  const drains = ['sh', '-c', 'trap "sleep 5.5; exit 3" INT; while :; do sleep 0.1; done']
  const proxy = { command: drains, config: { drain_timeout_ms: 6_000 } }
  const { host } = await startHost(t, { 'a.json': managed('a', proxy) })
  await host.start()
  await host.running('a')
  await host.command('stop', 'a')
  await host.row('a', ({ state, lastExit }) => state === 'stopped' && lastExit === 'exit code 3')
})

test('the drain_timeout_ms of an adopted proxy applies without its definition', async (t) => {
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
  await until('the process has ended', () => !isAlive(pid))
  const tookMs = performance.now() - before
  assert.ok(tookMs < 9_000, `${tookMs} ms; the default is 11 s`)
})

test('stop kills the session of a proxy that ignores SIGINT, 1 s after its drain_timeout_ms', async (t) => {
  const command = ['sh', '-c', 'trap "" INT; sleep 1000 & wait; sleep 1000']
  const proxy = { command, config: { drain_timeout_ms: 500 } }
  const { host } = await startHost(t, { 'a.json': managed('a', proxy) })
  await host.start()
  const { pid } = await host.running('a')
  await until('the child runs', () => host.processes().length === 2)
  const before = performance.now()
  await host.command('stop', 'a')
  const tookMs = performance.now() - before
  assert.ok(tookMs > 1_400 && tookMs < 5_000, `${tookMs} ms`)
  assert.equal(isAlive(pid), false)
  await until('the child has ended', () => host.processes().length === 0)
})

test('-dev without a data directory ends its proxies with the supervisor, and leaves no files', async (t) => {
  const { agent, host } = await startHost(t, {
    'a.json': managed('a', { command: ['sh', '-c', 'echo started; exec sleep 1000'] }),
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
  await expectServices(agent, [])
  assert.equal(existsSync(host.dataDir), false)
  assert.deepEqual(readdirSync(host.configuration).sort(), ['a.json', 'agent.json'])
})
