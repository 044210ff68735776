// A managed proxy that is not ours: the example in Python, by the documented contract.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import { readAll, until } from '../fixtures/mesh.js'
import { Host, settings } from './connect-supervisor.js'
import { commandLineOf } from './processes.js'

const PROGRAM = join(import.meta.dirname, '..', '..', 'examples', 'supervisor', 'plain-proxy.py')

async function exchange(port: number, said: string): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  socket.end(said)
  return readAll(socket)
}

test('the example in Python leads bytes from an upstream to a service, and follows its configuration', async (t) => {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, '127.0.0.1')
  t.after(() => echo.close())
  await once(echo, 'listening')
  const { port } = echo.address() as AddressInfo
  const [first = 0, second = 0] = await freePorts(2)
  const web = (local: number): object => ({
    service: {
      name: 'web',
      port: 1,
      connect: { proxy: { upstreams: [{ destination_name: 'echo', local_bind_port: local }] } },
    },
  })
  const host = new Host(t, {
    agent: agent.address,
    files: {
      'agent.json': await settings(),
      // For all services, in the defaults.
      'defaults.json': { connect: { proxy_defaults: { daemon_command: ['python3', PROGRAM] } } },
      'echo.json': { service: { name: 'echo', port, connect: { proxy: {} } } },
      'web.json': web(first),
    },
  })
  const supervisor = await host.start()
  const { pid } = await host.running('web')
  // `python3` may be a shell script that replaces itself with the interpreter, so the command line changes once.
  await until('the command is running', () => /python3 .*plain-proxy\.py$/.test(commandLineOf(pid).join(' ')))
  await until('bytes go there and back', async () => (await exchange(first, 'hello')) === 'hello')
  host.write('web.json', web(second))
  supervisor.signal('SIGHUP')
  await until('and by its new port', async () => (await exchange(second, 'again')) === 'again')
  assert.equal((await host.running('web')).pid, pid)
  const before = performance.now()
  await host.command('stop', 'web')
  assert.ok(performance.now() - before < 4_000, 'it ends at SIGINT')
})
