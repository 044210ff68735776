import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { Socket } from 'node:net'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { peer, service } from '../../src/index.js'
import { greet, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'

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

  it('lets a request that is being answered dial its own upstreams', async (t) => {
    const { join } = await startMesh(t)
    const [front, api, web] = [join('front'), join('api'), join('web')]
    await offer(api, greet)
    let answer = (): void => undefined
    await offer(front, async (socket) => {
      await new Promise<void>((resolve) => {
        answer = resolve
      })
      socket.end(await readAll(await front.dial('api')))
    })
    const socket = await web.dial('front')
    const heard = readAll(socket)
    await until('front is asked', () => front.stats().connections === 1)
    const closing = front.close()
    answer()
    assert.equal(await heard, 'hello front')
    await closing
    assert.equal((await rejection(front.dial('api'))).code, 'ERR_CONNECT_CLOSED')
  })

  it('ends idle streams, and waits for the answer of a stream that is not', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    let answer = (): void => undefined
    await offer(api, (socket) => {
      socket.once('data', () => socket.write('idle'))
      socket.on('data', (chunk: Buffer) => {
        if (String(chunk) === 'slow') answer = () => socket.write('answer')
      })
    })
    const [idle, slow] = [web.stream('api'), web.stream('api')]
    for (const stream of [idle, slow]) {
      stream.write('x')
      await once(stream, 'data')
    }
    slow.write('slow')
    const closing = web.close({ drainTimeoutMs: 30_000 })
    await once(idle, 'close')
    assert.equal(slow.destroyed, false)
    await until('the question has arrived', () => api.stats().connections === 1)
    answer()
    assert.equal(String((await once(slow, 'data'))[0]), 'answer')
    await closing
  })

  it('cuts at once with a drain time of 0, also when it was called with a longer one before', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.write('x'))
    const sockets = await Promise.all([web.dial('api'), web.dial('api')])
    await Promise.all(sockets.map((socket) => once(socket, 'data')))
    const gone = sockets.map((socket) => rejection(once(socket, 'close')))
    await api.close({ drainTimeoutMs: 0 })
    for (const error of await Promise.all(gone)) assert.equal(error.code, 'ECONNRESET')
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

describe('closeOnSignals', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`closes in order and ends by ${signal}`, async (t) => {
      const { agent } = await startMesh(t)
      const program = `
        import { closeOnSignals, service } from './src/index.js'
        const api = service('api', { agent: { address: '${agent.address}', env: {} } })
        closeOnSignals(api)
        api.on('closed', () => console.log('closed'))
        await api.register({ port: 1 })
        console.log('registered')`
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let output = ''
      child.stdout.on('data', (chunk) => (output += String(chunk)))
      await once(child.stdout, 'data')
      child.kill(signal)
      assert.deepEqual(await once(child, 'close'), [null, signal])
      assert.equal(output, 'registered\nclosed\n')
      assert.equal(agent.requestCount('/v1/agent/service/deregister'), 1)
    })
  }
})

describe('what a program sees of a service', () => {
  it('is its name, identity, and connections when it is printed', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await offer(api, greet)
    const shown = inspect(api)
    assert.match(shown, /^Service \{\n {2}name: 'api',\n {2}state: 'open',\n {2}identity: 'spiffe:/)
    assert.match(shown, new RegExp(`port: ${portOf(listener)}`))
    assert.match(shown, /inboundConnections: 0,\n {2}outboundConnections: 0/)
  })

  it('is the line that made a call, in the stack of its error', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const callers = {
      dialingProgram: () => web.dial('none'),
      resolvingProgram: () => web.resolve('none'),
      listeningProgram: () => web.listen({ port: 0, host: '192.0.2.1' }, greet),
    }
    for (const [name, call] of Object.entries(callers)) {
      const { stack } = await rejection(call())
      assert.equal(stack?.split(`${name} (`).length, 2, stack)
    }
  })

  it('is a process warning, once, when no listener takes the warnings', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    api.removeAllListeners('warning')
    await offer(api, () => {
      throw new Error('boom')
    })
    const warnings: (Error & { code?: string })[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    t.after(() => process.off('warning', onWarning))
    for (let i = 0; i < 2; i += 1) await rejection(once(await web.dial('api'), 'close'))
    await until('the process is warned', () => warnings.length > 0)
    const ours = warnings.filter(({ name }) => name === 'ConsulConnectWarning')
    assert.deepEqual(
      ours.map(({ code, message }) => [code, message]),
      [['ERR_CONNECT_HANDLER', 'api: connection handler failed: boom']],
    )
  })
})

describe('TLS of somebody’s own', () => {
  it('can be built from the options, on both sides, and be asked who is there', async (t) => {
    const tls = await import('node:tls')
    const { join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await Promise.all([api.ready(), web.ready()])
    const server = tls.createServer({ ...api.tlsServerOptions() }, (socket) => {
      const peer = api.verifyPeer(socket)
      void api.authorize(peer).then(({ authorized }) => socket.end(`${peer.service} ${String(authorized)}`))
    })
    server.on('tlsClientError', () => undefined).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const { port } = server.address() as { port: number }
    const socket = tls.connect({ ...web.tlsClientOptions('api'), port, host: '127.0.0.1' })
    await once(socket, 'secureConnect')
    assert.equal(web.verifyPeer(socket).service, 'api')
    assert.equal(web.verifyPeer(socket), web.verifyPeer(socket))
    assert.equal(await readAll(socket), 'web true')
    for (const wrong of ['db', { service: 'api', datacenter: 'dc2' }]) {
      const refused = tls.connect({ ...web.tlsClientOptions(wrong), port, host: '127.0.0.1' })
      const error = await new Promise<Error & { code?: string }>((resolve) => refused.once('error', resolve))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    }
    // A socket that is ours already is taken at its word; one with no certificate is not.
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const dialled = await web.dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    assert.equal(web.verifyPeer(dialled as never), dialled.peer)
    await readAll(dialled)
    assert.throws(() => web.verifyPeer(new tls.TLSSocket(new Socket())), {
      code: 'ERR_CONNECT_CERTIFICATE_MISSING',
    })
    for (const wrong of [new Socket(), {}, null, undefined, 'a socket']) {
      assert.throws(() => web.verifyPeer(wrong as never), { code: 'ERR_CONNECT_OPTION' })
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
