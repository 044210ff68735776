import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { Socket } from 'node:net'
import { describe, it } from 'node:test'
import { peer, service } from '../../src/index.js'
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'

describe('close', () => {
  it('waits for open connections of both directions, and is idempotent', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await offer(api, (socket) => socket.pipe(socket))
    const socket = await web.dial('api')
    socket.write('x')
    await once(socket, 'data')
    let closed = 0
    const closing = [api.close(), api.close(), web.close()].map((each) => each.then(() => (closed += 1)))
    await new Promise(setImmediate)
    assert.equal(closed, 0)
    socket.end()
    await Promise.all(closing)
    api.destroy()
    await api.close()
  })

  it('cuts what has not ended when the drain time is over', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api', { drainTimeoutMs: 50 })
    const web = join('web')
    await offer(api, (socket) => socket.write('x'))
    const socket = await web.dial('api')
    await once(socket, 'data')
    const gone = rejection(once(socket, 'close'))
    await api.close()
    assert.equal((await gone).code, 'ECONNRESET')
    const held = await rejection(web.dial('api'))
    assert.equal(held.code, 'ERR_CONNECT_NO_INSTANCES')
    await web.close({ drainTimeoutMs: 50 })
  })

  it('does not depend on listeners that a user may take away', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => {
      // The other end is about to break the connection.
      socket.removeAllListeners().on('error', () => undefined)
      socket.write('x')
    })
    const socket = await web.dial('api')
    await once(socket, 'data')
    socket.removeAllListeners()
    socket.destroy()
    await Promise.all([web.close({ drainTimeoutMs: 100 }), api.close({ drainTimeoutMs: 100 })])
  })

  it('ends a wait for readiness', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.pause()
    const web = join('web')
    const waiting = rejection(web.ready())
    const listening = rejection(web.listen({ port: 0 }, greet))
    await web.close()
    assert.equal((await waiting).code, 'ERR_CONNECT_CLOSED')
    assert.equal((await listening).code, 'ERR_CONNECT_CLOSED')
  })

  it('waits for what somebody else has begun to close', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const registration = await api.register({ port: 1234 })
    await Promise.all([registration.close(), api.close()])
    const left = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as object
    assert.deepEqual(Object.keys(left), [])
  })

  it('of a listener that drains is overtaken by the destruction of its service', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await offer(api, (socket) => socket.write('x'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const gone = rejection(once(socket, 'close'))
    const closing = listener.close({ drainTimeoutMs: 60_000 })
    api.destroy()
    assert.equal((await gone).code, 'ECONNRESET')
    await closing
  })

  it('that is asked for with a wrong option rejects', async (t) => {
    const { join } = await startMesh(t)
    const error = await rejection(join('api').close({ drainTimeoutMs: -1 }))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })

  it('tells that it is done, and works with await using', async (t) => {
    const { agentOptions } = await startMesh(t)
    let closed = false
    {
      await using web = service('web', { agent: agentOptions })
      web.on('closed', () => (closed = true))
      await web.ready()
    }
    assert.equal(closed, true)
  })
})

describe('destroy', () => {
  it('cuts both directions at once, with the error it was given', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await offer(api, (socket) => socket.write('x'))
    const socket = await web.dial('api')
    await once(socket, 'data')
    const failed = once(socket, 'error')
    const reason = new Error('enough')
    web.destroy(reason)
    assert.equal((await failed)[0], reason)
    web.destroy()
    await web.close()
  })
})

it('a listener of events that throws does not disturb the service', async (t) => {
  const { agent } = await startMesh(t)
  const said = await runProgram(`
    process.on('uncaughtException', (error) => process.stdout.write(error.message + ' '))
    const web = connect.service('web', { agent: { address: '${agent.address}', env: {} } })
    web.on('rotated', () => { throw new Error('my own fault') })
    await web.ready()
    await new Promise(setImmediate)
    process.stdout.write(web.leaf.id.service)
    await web.close()
  `)
  assert.equal(said, 'my own fault web')
})

it('leaves nothing behind that could keep a process alive', async (t) => {
  const { agent } = await startMesh(t)
  const said = await runProgram(`
    import { createServer } from 'node:http'
    const agent = { address: '${agent.address}', env: {} }
    const api = connect.service('api', { agent })
    const web = connect.service('web', { agent })
    const listener = await api.serve(createServer((request, response) => response.end('hi')), { port: 0, host: '127.0.0.1' })
    await api.register({ port: listener.address().port, address: '127.0.0.1' })
    const socket = await web.dial('api')
    socket.write('GET / HTTP/1.1\\r\\nhost: api\\r\\nconnection: close\\r\\n\\r\\n')
    let answer = ''
    for await (const chunk of socket) answer += chunk
    await Promise.all([web.close(), api.close()])
    // A closed handle is gone at the end of the event loop's turn.
    await new Promise((resolve) => setImmediate(setImmediate, resolve))
    const left = process.getActiveResourcesInfo().filter((name) => !/^(PipeWrap|TTYWrap|MessagePort)$/.test(name))
    process.stdout.write(answer.split('\\r\\n').at(-1) + ' ' + left.join())
  `)
  assert.equal(said, 'hi ')
})

/** Runs a program that has the library as `connect`; returns what it printed when it has ended by itself, well. */
async function runProgram(body: string): Promise<string> {
  const program = `import * as connect from './src/index.js'\n${body}`
  const args = ['--import', 'tsx', '--input-type=module', '--eval', program]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const [code] = (await once(child, 'exit')) as [number]
  assert.equal(code, 0)
  return said
}

describe('TLS of somebody’s own', () => {
  it('can be built from the options, on both sides, and be asked who is there', async (t) => {
    const tls = await import('node:tls')
    const { join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await Promise.all([api.ready(), web.ready()])
    const server = tls.createServer({ ...api.tlsServerOptions() }, (socket) => {
      const peer = api.peer(socket)
      void api.authorize(peer).then(({ authorized }) => socket.end(`${peer.service} ${String(authorized)}`))
    })
    server.on('tlsClientError', () => undefined).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const { port } = server.address() as { port: number }
    const socket = tls.connect({ ...web.tlsClientOptions('api'), port, host: '127.0.0.1' })
    await once(socket, 'secureConnect')
    assert.equal(web.peer(socket).service, 'api')
    assert.equal(web.peer(socket), web.peer(socket))
    assert.equal(await readAll(socket), 'web true')
    for (const wrong of ['db', { service: 'api', datacenter: 'dc2' }]) {
      const refused = tls.connect({ ...web.tlsClientOptions(wrong), port, host: '127.0.0.1' })
      const error = await new Promise<Error & { code?: string }>((resolve) => refused.once('error', resolve))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    }
    // A socket that is ours already is taken at its word; one with no certificate is not.
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const dialled = await web.dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    assert.equal(web.peer(dialled as never), dialled.peer)
    await readAll(dialled)
    assert.throws(() => web.peer(new tls.TLSSocket(new Socket())), {
      code: 'ERR_CONNECT_CERTIFICATE_MISSING',
    })
    for (const wrong of [new Socket(), {}, null, undefined, 'a socket']) {
      assert.throws(() => web.peer(wrong as never), { code: 'ERR_CONNECT_OPTION' })
      assert.equal(peer(wrong as never), undefined)
    }
  })

  it('is not to be had before there is a certificate', async (t) => {
    const { join } = await startMesh(t)
    assert.throws(() => join('web').tlsServerOptions(), { code: 'ERR_CONNECT_NOT_READY' })
    assert.throws(() => join('web').tlsClientOptions('api'), { code: 'ERR_CONNECT_NOT_READY' })
  })
})

describe('options', () => {
  for (const [what, name, options] of [
    ['no name', '', {}],
    ['a name that is no string', 7, {}],
    ['an unknown option', 'web', { adress: 'x' }],
    ['an unknown agent option', 'web', { agent: { adress: 'x' } }],
    ['an address that is none', 'web', { agent: { address: 'http://[', env: {} } }],
    ['a duration as text', 'web', { dialTimeoutMs: '10s' }],
    ['a duration of nothing', 'web', { handshakeTimeoutMs: 0 }],
    ['an authorizer that is no function', 'web', { authorize: true }],
    ['an agent that is no object', 'web', { agent: '127.0.0.1:8500' }],
    ['a token with a line break', 'web', { agent: { token: 'a\nb', env: {} } }],
    ['token and tokenFile', 'web', { agent: { token: 'a', tokenFile: 'b', env: {} } }],
    ['CONSUL_HTTP_SSL_VERIFY that is neither', 'web', { agent: { env: { CONSUL_HTTP_SSL_VERIFY: 'nope' } } }],
  ] as const) {
    it(`refuse ${what}, at once`, () => {
      assert.throws(() => service(name as never, options as never), { code: 'ERR_CONNECT_OPTION' })
    })
  }

  for (const [what, options] of [
    ['neither port nor path', {}],
    ['port and path', { port: 1, path: '/x' }],
    ['a port that is none', { port: 65536 }],
    ['an unknown option', { port: 0, prot: 1 }],
    ['a signal that is none', { port: 0, signal: {} }],
  ] as const) {
    it(`of listen refuse ${what}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('web').listen(options as never, greet))).code, 'ERR_CONNECT_OPTION')
      assert.equal(
        (await rejection(join('web').serve(createServer(), options as never))).code,
        'ERR_CONNECT_OPTION',
      )
    })
  }
})
