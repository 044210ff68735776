// The commands of connect-supervisor.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ProxyRow, IDLE, managed, servicesOf, startHost, startIdle } from './connect-supervisor.js'
import { isAlive } from './processes.js'

test('restart ends the process before it starts the next, and keeps the registration and the port', async (t) => {
  const { agent, host, row: before } = await startIdle(t)
  const registration = (await servicesOf(agent))['a-proxy']
  assert.equal(await host.command('restart', 'a'), 'a is being restarted\n')
  const after = await host.row('a', ({ state, pid }) => state === 'running' && pid !== before.pid)
  assert.equal(after.port, before.port)
  assert.equal(isAlive(before.pid), false)
  assert.deepEqual((await servicesOf(agent))['a-proxy'], registration)
  assert.match((await host.run('restart', 'nope')).error, /unknown managed proxy: "nope"/)
})

test('restart starts a stopped proxy, and works without the agent', async (t) => {
  const { agent, host } = await startIdle(t)
  await host.command('stop', 'a')
  await host.command('restart', 'a')
  const { pid } = await host.running('a')
  await agent.close()
  await host.command('restart', 'a')
  await host.row('a', (row) => row.state === 'running' && row.pid !== pid)
})

test('status -json prints JSON, with and without a running supervisor', async (t) => {
  const { host, supervisor, pid } = await startIdle(t)
  const parse = (text: string): { isRunning: boolean; proxies: ProxyRow[] } =>
    JSON.parse(text) as ReturnType<typeof parse>
  const running = parse(await host.command('status', '-json'))
  assert.deepEqual([running.isRunning, running.proxies[0]?.pid], [true, pid])
  await supervisor.stop()
  const { code, out } = await host.run('status', '-json')
  assert.equal(code, 3)
  assert.deepEqual([parse(out).isRunning, parse(out).proxies[0]?.pid], [false, pid])
})

test('help and version print to stdout', async (t) => {
  const { host } = await startHost(t, {})
  for (const flag of ['help', '-help']) assert.match(await host.command(flag), /^Usage: connect-supervisor/)
  for (const flag of ['version', '-version', '--version']) {
    assert.match(await host.command(flag), /^connect-supervisor v\d+\.\d+\.\d+\n$/)
  }
})

test('logs and tables escape bidirectional and zero-width characters', async (t) => {
  const { host } = await startHost(t, { 'a.json': managed('web\u202e\u200b', IDLE) })
  const supervisor = await host.start()
  await supervisor.logged('web\\u202e\\u200b-proxy: started')
  const table = await host.command('status')
  assert.ok(table.includes('web\\u202e\\u200b-proxy'), table)
})
