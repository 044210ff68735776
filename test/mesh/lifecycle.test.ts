import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { Socket } from 'node:net'
import { describe, it } from 'node:test'
import * as tls from 'node:tls'
import { inspect } from 'node:util'
import { peer, service } from '../../src/index.js'
import { ask, greet, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { startTlsServer } from './tls-peer.js'

describe('close', () => {
  it('waits for inbound and outbound connections, and can be called again', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.pipe(socket))
    const socket = await web.dial('api')
    await ask(socket, 'x')
    let closed = 0
    const closing = [api.close(), api.close(), web.close()].map((each) => each.then(() => (closed += 1)))
    await new Promise(setImmediate)
    assert.equal(closed, 0)
    socket.end()
    await Promise.all(closing)
    api.destroy()
    await api.close()
  })

  it('destroys the connections that are still open after the drain timeout', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api', { drainTimeoutMs: 50 }), join('web')]
    await offer(api, (socket) => socket.write('x'))
    const socket = await web.dial('api')
    await once(socket, 'data')
    const failed = rejection(once(socket, 'close'))
    await api.close()
    assert.equal((await failed).code, 'ECONNRESET')
    assert.equal((await rejection(web.dial('api'))).code, 'ERR_CONNECT_NO_INSTANCES')
    await web.close({ drainTimeoutMs: 50 })
  })

  it('does not depend on event listeners that the application can remove', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => {
      // The client resets the connection.
      socket.removeAllListeners().on('error', () => undefined)
      socket.write('x')
    })
    const socket = await web.dial('api')
    await once(socket, 'data')
    socket.removeAllListeners()
    socket.destroy()
    await Promise.all([web.close({ drainTimeoutMs: 100 }), api.close({ drainTimeoutMs: 100 })])
  })

  it('allows pending handlers to dial', async (t) => {
    const { join } = await startMesh(t)
    const [front, api, web] = [join('front'), join('api'), join('web')]
    await offer(api, greet)
    let answer: (() => void) | undefined
    await offer(front, async (socket) => {
      await new Promise<void>((resolve) => (answer = resolve))
      socket.end(await readAll(await front.dial('api')))
    })
    const socket = await web.dial('front')
    const received = readAll(socket)
    await until('the handler waits', () => answer !== undefined)
    const closing = front.close()
    answer?.()
    assert.equal(await received, 'hello front')
    await closing
    assert.equal((await rejection(front.dial('api'))).code, 'ERR_CONNECT_CLOSED')
  })

  it('ends idle streams and waits for streams that await an answer', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    let answer: (() => void) | undefined
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
    await until('the request has arrived', () => answer !== undefined)
    answer?.()
    assert.equal(String((await once(slow, 'data'))[0]), 'answer')
    await closing
  })

  it('destroys connections at once with a drain timeout of 0, also while it drains with a longer one', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.write('x'))
    const sockets = await Promise.all([web.dial('api'), web.dial('api')])
    await Promise.all(sockets.map((socket) => once(socket, 'data')))
    const failed = sockets.map((socket) => rejection(once(socket, 'close')))
    const draining = api.close({ drainTimeoutMs: 60_000 })
    await api.close({ drainTimeoutMs: 0 })
    await draining
    for (const error of await Promise.all(failed)) assert.equal(error.code, 'ECONNRESET')
  })

  it('fails ready() and listen() that wait for a certificate', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.pause()
    const web = join('web')
    const waiting = rejection(web.ready())
    const listening = rejection(web.listen({ port: 0 }, greet))
    await web.close()
    assert.equal((await waiting).code, 'ERR_CONNECT_CLOSED')
    assert.equal((await listening).code, 'ERR_CONNECT_CLOSED')
  })

  it('waits for a registration that is being closed', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const registration = await api.register({ port: 1234 })
    await Promise.all([registration.close(), api.close()])
    assert.deepEqual(await (await fetch(`${agent.url}/v1/agent/services`)).json(), {})
  })

  it('of a listener ends early when its service is destroyed', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await offer(api, (socket) => socket.write('x'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const failed = rejection(once(socket, 'close'))
    const closing = listener.close({ drainTimeoutMs: 60_000 })
    api.destroy()
    assert.equal((await failed).code, 'ECONNRESET')
    await closing
  })

  it('rejects invalid options', async (t) => {
    const { join } = await startMesh(t)
    const error = await rejection(join('api').close({ drainTimeoutMs: -1 }))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })

  it('emits closed, and works with await using', async (t) => {
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
  it('destroys inbound and outbound connections with the given error', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    await offer(join('api'), (socket) => socket.write('x'))
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

it('a service survives event listeners that throw', async (t) => {
  const { agent } = await startMesh(t)
  const { output } = await runProgram(`
    process.on('uncaughtException', (error) => process.stdout.write(error.message + ' '))
    const web = connect.service('web', { agent: { address: '${agent.address}', env: {} } })
    web.on('rotated', () => { throw new Error('my own fault') })
    await web.ready()
    await new Promise(setImmediate)
    process.stdout.write(web.leaf.id.service)
    await web.close()
  `)
  assert.equal(output, 'my own fault web')
})

it('closed services keep no resource of the process open', async (t) => {
  const { agent } = await startMesh(t)
  const { output } = await runProgram(`
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
    // Node.js frees a closed handle at the end of the turn of the event loop.
    await new Promise((resolve) => setImmediate(setImmediate, resolve))
    const resources = process.getActiveResourcesInfo().filter((name) => !/^(PipeWrap|TTYWrap|MessagePort)$/.test(name))
    process.stdout.write(answer.split('\\r\\n').at(-1) + ' ' + resources.join())
  `)
  assert.equal(output, 'hi ')
})

/**
 * Runs a program with the library as `connect`, and returns its output and how it ended. Without a signal it must exit
 * with code 0.
 * @param signal - sent after the first output
 */
async function runProgram(
  body: string,
  signal?: NodeJS.Signals,
): Promise<{ readonly output: string; readonly end: unknown[] }> {
  const program = `import * as connect from './src/index.js'\n${body}`
  const args = ['--import', 'tsx', '--input-type=module', '--eval', program]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  if (signal !== undefined) child.stdout.once('data', () => child.kill(signal))
  const end: unknown[] = await once(child, 'close')
  if (signal === undefined) assert.deepEqual(end, [0, null])
  return { output, end }
}

describe('closeOnSignals', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`closes the service, and ends the process with ${signal}`, async (t) => {
      const { agent } = await startMesh(t)
      const program = `
        const api = connect.service('api', { agent: { address: '${agent.address}', env: {} } })
        connect.closeOnSignals(api)
        api.on('closed', () => console.log('closed'))
        await api.register({ port: 1 })
        console.log('registered')`
      const { output, end } = await runProgram(program, signal)
      assert.deepEqual(end, [null, signal])
      assert.equal(output, 'registered\nclosed\n')
      assert.equal(agent.requestCount('/v1/agent/service/deregister'), 1)
    })
  }
})

describe('a service', () => {
  it('prints its name, identity, ports, and connections', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await offer(api, greet)
    const shown = inspect(api)
    assert.match(shown, /^Service \{\n {2}name: 'api',\n {2}state: 'open',\n {2}identity: 'spiffe:/)
    assert.match(shown, new RegExp(`port: ${portOf(listener)}`))
    assert.match(shown, /inboundConnections: 0,\n {2}outboundConnections: 0/)
  })

  it('reports the calling line in the stacks of its errors', async (t) => {
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

  it('emits repeated warnings as one process warning when it has no warning listener', async (t) => {
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
    await until('the warning is emitted', () => warnings.length > 0)
    const ours = warnings.filter(({ name }) => name === 'ConsulConnectWarning')
    assert.deepEqual(
      ours.map(({ code, message }) => [code, message]),
      [['ERR_CONNECT_HANDLER', 'api: connection handler failed: boom']],
    )
  })
})

describe('TLS sockets of the application', () => {
  it('work with the TLS options and verifyPeer on both sides', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await Promise.all([api.ready(), web.ready()])
    const { port } = await startTlsServer(t, { ...api.tlsServerOptions() }, (socket) => {
      const peer = api.verifyPeer(socket)
      void api.authorize(peer).then(({ authorized }) => socket.end(`${peer.service} ${String(authorized)}`))
    })
    const socket = tls.connect({ ...web.tlsClientOptions('api'), port, host: '127.0.0.1' })
    await once(socket, 'secureConnect')
    assert.equal(web.verifyPeer(socket).service, 'api')
    assert.equal(web.verifyPeer(socket), web.verifyPeer(socket))
    assert.equal(await readAll(socket), 'web true')
    for (const upstream of ['db', { service: 'api', datacenter: 'dc2' }]) {
      const rejected = tls.connect({ ...web.tlsClientOptions(upstream), port, host: '127.0.0.1' })
      const error = await new Promise<Error & { code?: string }>((resolve) => rejected.once('error', resolve))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    }
    // A socket of dial() is verified already; a socket without a certificate is rejected.
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const dialed = await web.dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    assert.equal(web.verifyPeer(dialed as never), dialed.peer)
    await readAll(dialed)
    assert.throws(() => web.verifyPeer(new tls.TLSSocket(new Socket())), {
      code: 'ERR_CONNECT_CERTIFICATE_MISSING',
    })
    for (const value of [new Socket(), {}, null, undefined, 'a socket']) {
      assert.throws(() => web.verifyPeer(value as never), { code: 'ERR_CONNECT_OPTION' })
      assert.equal(peer(value as never), undefined)
    }
  })

  it('cannot be configured before the service has a certificate', async (t) => {
    const { join } = await startMesh(t)
    assert.throws(() => join('web').tlsServerOptions(), { code: 'ERR_CONNECT_NOT_READY' })
    assert.throws(() => join('web').tlsClientOptions('api'), { code: 'ERR_CONNECT_NOT_READY' })
  })
})

describe('options', () => {
  for (const [fault, name, options] of [
    ['no name', '', {}],
    ['a name that is not a string', 7, {}],
    ['an unknown option', 'web', { adress: 'x' }],
    ['an unknown agent option', 'web', { agent: { adress: 'x' } }],
    ['an invalid address', 'web', { agent: { address: 'http://[', env: {} } }],
    ['a duration as a string', 'web', { dialTimeoutMs: '10s' }],
    ['a duration of 0', 'web', { handshakeTimeoutMs: 0 }],
    ['an authorizer that is not a function', 'web', { authorize: true }],
    ['an agent that is not an object', 'web', { agent: '127.0.0.1:8500' }],
    ['a token with a line break', 'web', { agent: { token: 'a\nb', env: {} } }],
    ['both token and tokenFile', 'web', { agent: { token: 'a', tokenFile: 'b', env: {} } }],
    [
      'a CONSUL_HTTP_SSL_VERIFY that is not a boolean',
      'web',
      { agent: { env: { CONSUL_HTTP_SSL_VERIFY: 'nope' } } },
    ],
  ] as const) {
    it(`reject ${fault} synchronously`, () => {
      assert.throws(() => service(name as never, options as never), { code: 'ERR_CONNECT_OPTION' })
    })
  }

  for (const [fault, options] of [
    ['neither port nor path', {}],
    ['both port and path', { port: 1, path: '/x' }],
    ['a port above 65535', { port: 65536 }],
    ['an unknown option', { port: 0, prot: 1 }],
    ['a signal that is not an AbortSignal', { port: 0, signal: {} }],
  ] as const) {
    it(`of listen and serve reject ${fault}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('web').listen(options as never, greet))).code, 'ERR_CONNECT_OPTION')
      assert.equal(
        (await rejection(join('web').serve(createServer(), options as never))).code,
        'ERR_CONNECT_OPTION',
      )
    })
  }
})
