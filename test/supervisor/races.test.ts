// What happens at the same time, or in the wrong order.
import assert from 'node:assert/strict'
import { chownSync, existsSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { Host, IDLE, kill, managed, servicesOf, startHost } from './connect-supervisor.js'
import { environmentOf, isAlive } from './processes.js'

const STUBBORN = {
  command: ['sh', '-c', 'trap "" INT; while :; do sleep 1000; done'],
  config: { drain_timeout_ms: 4_000 },
}

test('a proxy that is started while it is being stopped: others are looked after meanwhile, and it runs', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', STUBBORN) })
  const supervisor = await host.start()
  const { pid } = await host.running('a')
  const stopping = host.command('stop', 'a')
  await host.row('a', ({ state }) => state === 'stopping')
  await host.command('start', 'a')
  host.write('b.json', managed('b', IDLE))
  supervisor.signal('SIGHUP')
  await host.running('b')
  assert.ok(isAlive(pid), 'it is still being stopped')
  await stopping
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
})

test('what may run, may not, and may again, within the time that a stop takes', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', STUBBORN) })
  const supervisor = await host.start()
  const { pid } = await host.running('a')
  const rights = (isAllowed: boolean): void => {
    host.write('z.json', { connect: { proxy: { allow_managed_root: isAllowed } } })
    supervisor.signal('SIGHUP')
  }
  if (process.getuid?.() === 0) {
    rights(false)
    await host.row('a', ({ state }) => state === 'stopping')
  } else {
    // The rule is for root alone; a definition that goes and comes is much the same.
    host.write('a.json', {})
    supervisor.signal('SIGHUP')
    await host.row('a', ({ state }) => state === 'stopping')
    host.write('a.json', managed('a', STUBBORN))
  }
  rights(true)
  const { passes } = await host.status()
  await until('passes go on', async () => (await host.status()).passes > passes)
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
})

test('services that get a proxy at the same moment get a port each', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const names = Array.from({ length: 8 }, (_, i) => `s${i}`)
  const range = await freePorts(names.length)
  const host = new Host(t, { agent: agent.address, files: {} })
  host.write('agent.json', {
    bind_addr: '127.0.0.1',
    ports: { proxy_min_port: Math.min(...range), proxy_max_port: Math.max(...range) },
    connect: { proxy: { allow_managed_root: true } },
  })
  for (const [i, name] of names.entries()) host.write(`${name}.json`, { service: { name, port: 40_000 + i } })
  const supervisor = await host.start()
  await until('all are registered', async () => Object.keys(await servicesOf(agent)).length === names.length)
  for (const [i, name] of names.entries()) {
    host.write(`${name}.json`, managed(name, IDLE, { port: 40_000 + i }))
  }
  supervisor.signal('SIGHUP')
  const rows = await Promise.all(names.map((name) => host.running(name)))
  assert.equal(new Set(rows.map(({ port }) => port)).size, names.length)
})

test('a proxy that runs keeps its port, whoever wants it besides', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const supervisor = await host.start()
  const { port, pid } = await host.running('a')
  host.write('b.json', { service: { name: 'b', port } })
  supervisor.signal('SIGHUP')
  await until('b is registered', async () => 'b' in (await servicesOf(agent)))
  const { passes } = await host.status()
  await until('it has been looked at', async () => (await host.status()).passes > passes + 1)
  const after = await host.running('a')
  assert.deepEqual([after.port, after.pid], [port, pid])
  assert.equal((await servicesOf(agent))['a-proxy']?.['Port'], port)
})

test('what a proxy leaves behind when it crashes is ended before it is started again', async (t) => {
  const { host } = await startHost(t, {
    'a.json': managed('a', { command: ['sh', '-c', 'sleep 1000 & wait'] }),
  })
  await host.start()
  const { pid } = await host.running('a')
  const child = await until('its child', () => host.processes().find((one) => one !== pid))
  kill(pid)
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
  assert.equal(isAlive(child), false)
})

test('another name under the same id gets another token, and the old one is revoked', async (t) => {
  const managementToken = '3c1e6f0a-0000-4000-8000-00000000cafe'
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken } as const
  const env = { CONSUL_HTTP_TOKEN: managementToken }
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE, { id: 'x' }) }, { env }, { acl })
  const supervisor = await host.start()
  const before = await host.running('x')
  const old = environmentOf(before.pid)['CONNECT_PROXY_TOKEN'] ?? ''
  host.write('a.json', managed('b', IDLE, { id: 'x' }))
  supervisor.signal('SIGHUP')
  const after = await host.row('x', (row) => row.state === 'running' && row.pid !== before.pid)
  const own = environmentOf(after.pid!)['CONNECT_PROXY_TOKEN'] ?? ''
  const leaf = async (token: string, name: string): Promise<number> => {
    const headers = { 'X-Consul-Token': token }
    return (await fetch(`${agent.url}/v1/agent/connect/ca/leaf/${name}`, { headers })).status
  }
  assert.deepEqual([await leaf(own, 'b'), await leaf(own, 'a')], [200, 403])
  await until('the old one is revoked', async () => (await leaf(old, 'a')) === 403)
})

test('what others have added to a service survives a restart of the supervisor', async (t) => {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) })
  const first = await host.start()
  await host.running('a')
  await until('it is written down', async () => (await host.status()).passes > 1)
  const body = JSON.stringify({ Name: 'added', ServiceID: 'a', TTL: '100s' })
  await fetch(`${agent.url}/v1/agent/check/register`, { method: 'PUT', body })
  await first.stop()
  await host.start()
  await until('it has been looked at', async () => (await host.status()).passes > 1)
  const checks = (await (await fetch(`${agent.url}/v1/agent/checks`)).json()) as object
  assert.ok('added' in checks, Object.keys(checks).join())
})

test('a folder of definitions that is replaced by another is watched on', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', IDLE) }, { flags: ['-watch'] })
  await host.start()
  await host.running('a')
  const next = join(dirname(host.configuration), 'next')
  mkdirSync(next)
  writeFileSync(
    join(next, 'agent.json'),
    JSON.stringify({ connect: { proxy: { allow_managed_root: true } }, bind_addr: '127.0.0.1' }),
  )
  writeFileSync(join(next, 'b.json'), JSON.stringify(managed('b', IDLE)))
  renameSync(host.configuration, join(dirname(host.configuration), 'before'))
  renameSync(next, host.configuration)
  await host.running('b')
  host.write('c.json', managed('c', IDLE))
  await host.running('c')
})

test('a data dir that somebody else could change is none', async (t) => {
  const { host } = await startHost(t, {})
  const elsewhere = join(dirname(host.configuration), 'elsewhere')
  mkdirSync(elsewhere)
  mkdirSync(host.dataDir)
  symlinkSync(elsewhere, join(host.dataDir, 'proxy'))
  const linked = host.spawn()
  assert.equal(await linked.ended(), 1)
  assert.match(linked.text, /data_dir: .*proxy cannot be used \(symbolic link\)/)
  assert.equal(existsSync(join(elsewhere, 'snapshot.json')), false)
  if (process.getuid?.() !== 0) return
  const NOBODY = 65_534
  chownSync(host.dataDir, NOBODY, NOBODY)
  renameSync(join(host.dataDir, 'proxy'), join(host.dataDir, 'was'))
  const foreign = host.spawn()
  assert.equal(await foreign.ended(), 1)
  assert.match(foreign.text, /can be changed by users other than root/)
})
