// A managed proxy of another program: the example in Python, which follows the documented contract.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import { readAll, until } from '../fixtures/mesh.js'
import { managed, startHost } from './connect-supervisor.js'
import { commandLineOf } from './processes.js'

const PROGRAM = join(import.meta.dirname, '..', '..', 'examples', 'supervisor', 'plain-proxy.py')

/** Sends a message, and returns the answer. */
async function exchange(port: number, message: string): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  socket.end(message)
  return readAll(socket)
}

test('the example in Python connects an upstream to a service, and follows changes of its configuration', async (t) => {
  const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, '127.0.0.1')
  t.after(() => echo.close())
  await once(echo, 'listening')
  const { port } = echo.address() as AddressInfo
  const [first = 0, second = 0] = await freePorts(2)
  const web = (localPort: number): object =>
    managed('web', { upstreams: [{ destination_name: 'echo', local_bind_port: localPort }] })
  const { host } = await startHost(t, {
    'defaults.json': { connect: { proxy_defaults: { daemon_command: ['python3', PROGRAM] } } },
    'echo.json': managed('echo', {}, { port }),
    'web.json': web(first),
  })
  const supervisor = await host.start()
  const { pid } = await host.running('web')
  // `python3` may be a shell script that replaces itself with the interpreter, so the command line changes once.
  await until('the command is running', () => /python3 .*plain-proxy\.py$/.test(commandLineOf(pid).join(' ')))
  await until('the first port works', async () => (await exchange(first, 'hello')) === 'hello')
  host.write('web.json', web(second))
  supervisor.signal('SIGHUP')
  await until('the second port works', async () => (await exchange(second, 'again')) === 'again')
  assert.equal((await host.running('web')).pid, pid)
  const before = performance.now()
  await host.command('stop', 'web')
  assert.ok(performance.now() - before < 4_000, 'the proxy must end on SIGINT')
})
