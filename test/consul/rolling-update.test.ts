import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { greet, offer, readAll } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { WAIT_MS, instances, joiner, until } from './service-mesh.js'

/** The number of clients with kept connections, and of clients with a new connection for each request. */
const CLIENTS = 4
const UPDATES = 5
const MIN_REQUESTS = 500

test('a rolling update under load fails no request', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  await offer(join('db'), greet)
  const web = join('web')
  const children = new Set<ChildProcess>()
  t.after(() => {
    for (const child of children) child.kill('SIGKILL')
  })
  const start = async (): Promise<ChildProcess> => {
    const child = fork(fileURLToPath(new URL('rolling-program.ts', import.meta.url)), [consul.address], {
      execArgv: ['--import', 'tsx'],
    })
    children.add(child)
    child.once('exit', () => children.delete(child))
    await once(child, 'message', { signal: AbortSignal.timeout(WAIT_MS) })
    return child
  }

  let running = await start()
  let isDone = false
  const servedBy = new Set<string>()
  const failures: unknown[] = []
  let requests = 0
  const client = async (ask: () => Promise<string>): Promise<void> => {
    for (; !isDone; requests += 1) {
      try {
        const [pid = '', answer] = (await ask()).split(/ (.*)/)
        assert.equal(answer, 'hello api')
        servedBy.add(pid)
      } catch (error) {
        failures.push(error)
      }
    }
  }
  const onKeptConnection = async (): Promise<string> => (await web.fetch('http://api.service.consul/')).text()
  const onNewConnection = async (): Promise<string> => {
    const socket = await web.dial('api')
    socket.write('GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n')
    const response = await readAll(socket)
    assert.match(response, /^HTTP\/1.1 200 OK\r\n/)
    return response.slice(response.indexOf('\r\n\r\n') + 4)
  }
  const clients = [onKeptConnection, onNewConnection].flatMap((ask) =>
    Array.from({ length: CLIENTS }, () => client(ask)),
  )
  for (let update = 0; update < UPDATES; update += 1) {
    const next = await start()
    await until('both instances pass', async () => (await instances(consul, 'api')) === 2)
    await until('the new instance serves', () => servedBy.has(String(next.pid)))
    running.kill('SIGTERM')
    const [, signal] = (await once(running, 'exit', { signal: AbortSignal.timeout(WAIT_MS) })) as [
      number | null,
      NodeJS.Signals | null,
    ]
    assert.equal(signal, 'SIGTERM')
    running = next
  }
  isDone = true
  await Promise.all(clients)
  assert.deepEqual(failures, [])
  assert.equal(servedBy.size, UPDATES + 1)
  assert.ok(requests >= MIN_REQUESTS, `${requests} requests`)
  t.diagnostic(`${requests} requests, ${UPDATES} updates`)
})
