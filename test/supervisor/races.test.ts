// Concurrent commands, changes of the configuration, crashes, and other clients of the agent.
import assert from 'node:assert/strict'
import { chownSync, existsSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import {
  IDLE,
  kill,
  managed,
  servicesOf,
  settings,
  settingsFor,
  startHost,
  startIdle,
} from './connect-supervisor.js'
import { environmentOf, isAlive } from './processes.js'

const STUBBORN = {
  command: ['sh', '-c', 'trap "" INT; while :; do sleep 1000; done'],
  config: { drain_timeout_ms: 4_000 },
}

test('start during a stop takes effect after it, and does not block other proxies', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', STUBBORN) })
  const supervisor = await host.start()
  const { pid } = await host.running('a')
  const stopping = host.command('stop', 'a')
  await host.row('a', ({ state }) => state === 'stopping')
  await host.command('start', 'a')
  host.write('b.json', managed('b', IDLE))
  supervisor.signal('SIGHUP')
  await host.running('b')
  assert.ok(isAlive(pid), 'the proxy must still be stopping')
  await stopping
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
})

test('permission that is revoked and restored during a stop restarts the proxy', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('a', STUBBORN) })
  const supervisor = await host.start()
  const { pid } = await host.running('a')
  const setRootAllowed = (isAllowed: boolean): void => {
    host.write('z.json', { connect: { proxy: { allow_managed_root: isAllowed } } })
    supervisor.signal('SIGHUP')
  }
  if (process.getuid?.() === 0) {
    setRootAllowed(false)
    await host.row('a', ({ state }) => state === 'stopping')
  } else {
    // The setting applies to root only. Remove and restore the definition instead.
    host.write('a.json', {})
    supervisor.signal('SIGHUP')
    await host.row('a', ({ state }) => state === 'stopping')
    host.write('a.json', managed('a', STUBBORN))
  }
  setRootAllowed(true)
  const { passes } = await host.status()
  await until('the next pass', async () => (await host.status()).passes > passes)
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
})

test('services that get a proxy in the same pass get different ports', async (t) => {
  const names = Array.from({ length: 8 }, (_, i) => `s${i}`)
  const range = (await freePorts(names.length)).sort((a, b) => a - b)
  const { agent, host } = await startHost(t, { 'agent.json': settingsFor(range) })
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

test('a running proxy keeps its port when another service claims the port', async (t) => {
  const { agent, host, supervisor, port, pid } = await startIdle(t)
  host.write('b.json', { service: { name: 'b', port } })
  supervisor.signal('SIGHUP')
  await until('b is registered', async () => 'b' in (await servicesOf(agent)))
  const { passes } = await host.status()
  await until('two more passes', async () => (await host.status()).passes > passes + 1)
  const after = await host.running('a')
  assert.deepEqual([after.port, after.pid], [port, pid])
  assert.equal((await servicesOf(agent))['a-proxy']?.['Port'], port)
})

test('children of a crashed proxy are ended before the proxy is restarted', async (t) => {
  const { host } = await startHost(t, {
    'a.json': managed('a', { command: ['sh', '-c', 'sleep 1000 & wait'] }),
  })
  await host.start()
  const { pid } = await host.running('a')
  const child = await until('the child', () => host.processes().find((other) => other !== pid))
  kill(pid)
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
  assert.equal(isAlive(child), false)
})

test('a new service name under the same id gets a new token, and the old token is revoked', async (t) => {
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
  const current = environmentOf(after.pid!)['CONNECT_PROXY_TOKEN'] ?? ''
  const leafStatus = async (token: string, name: string): Promise<number> => {
    const headers = { 'X-Consul-Token': token }
    return (await fetch(`${agent.url}/v1/agent/connect/ca/leaf/${name}`, { headers })).status
  }
  assert.deepEqual([await leafStatus(current, 'b'), await leafStatus(current, 'a')], [200, 403])
  await until('the old token is revoked', async () => (await leafStatus(old, 'a')) === 403)
})

test('checks that other clients added survive a restart of the supervisor', async (t) => {
  const { agent, host, supervisor: first } = await startIdle(t)
  await until('the second pass', async () => (await host.status()).passes > 1)
  const body = JSON.stringify({ Name: 'added', ServiceID: 'a', TTL: '100s' })
  await fetch(`${agent.url}/v1/agent/check/register`, { method: 'PUT', body })
  await first.stop()
  await host.start()
  await until('the second pass', async () => (await host.status()).passes > 1)
  const checks = (await (await fetch(`${agent.url}/v1/agent/checks`)).json()) as object
  assert.ok('added' in checks, Object.keys(checks).join())
})

test('-watch follows a configuration directory that is replaced by another', async (t) => {
  const { host } = await startIdle(t, ['-watch'])
  const next = join(dirname(host.configuration), 'next')
  mkdirSync(next)
  writeFileSync(join(next, 'agent.json'), JSON.stringify(await settings()))
  writeFileSync(join(next, 'b.json'), JSON.stringify(managed('b', IDLE)))
  renameSync(host.configuration, join(dirname(host.configuration), 'before'))
  renameSync(next, host.configuration)
  await host.running('b')
  host.write('c.json', managed('c', IDLE))
  await host.running('c')
})

test('does not start in a data directory that is a link or writable by other users', async (t) => {
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
  const OTHER_USER = 65_534
  chownSync(host.dataDir, OTHER_USER, OTHER_USER)
  renameSync(join(host.dataDir, 'proxy'), join(host.dataDir, 'was'))
  const foreign = host.spawn()
  assert.equal(await foreign.ended(), 1)
  assert.match(foreign.text, /can be changed by users other than root/)
})
