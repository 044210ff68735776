import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import {
  Client,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  credentials,
  type sendUnaryData,
} from '@grpc/grpc-js'
import type { Listener, Service } from '../../src/index.js'
import { rejection, startMesh, type TestMesh, until } from '../fixtures/mesh.js'

const asIs = (value: Buffer): Buffer => value

/** One method that answers with what it is asked. */
const echo = {
  echo: {
    path: '/test/echo',
    requestStream: false,
    responseStream: false,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
  },
} satisfies ServiceDefinition

interface Serving extends TestMesh {
  readonly api: Service
  readonly web: Service
  readonly listener: Listener
  readonly ask: (text: string) => Promise<string>
}

type Answer = (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => void

async function serving(t: TestContext, handle: Answer): Promise<Serving> {
  const mesh = await startMesh(t)
  const server = new Server()
  server.addService(echo, { echo: handle })
  t.after(() => {
    server.forceShutdown()
  })
  const api = mesh.join('api')
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const listener = await api.serve(injector, { port: 0, host: '127.0.0.1' })
  await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
  const web = mesh.join('web')
  const door = await web.forward('api', { port: 0 })
  const client = new Client(`127.0.0.1:${(door.address() as AddressInfo).port}`, credentials.createInsecure())
  t.after(() => {
    client.close()
  })
  const ask = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const deadline = { deadline: Date.now() + 10_000 }
      client.makeUnaryRequest(echo.echo.path, asIs, asIs, Buffer.from(text), deadline, (error, value) => {
        if (error === null) resolve(String(value))
        else reject(error)
      })
    })
  return { ...mesh, api, web, listener, ask }
}

describe('serve, of a gRPC server', () => {
  it('lets it answer, and shows it the certificate of its caller', async (t) => {
    const { ask } = await serving(t, (call, answer) => {
      const { subjectaltname } = call.getAuthContext().sslPeerCertificate ?? {}
      answer(null, Buffer.from(`${String(call.request)} ${subjectaltname ?? ''}`))
    })
    assert.match(await ask('hello'), /^hello URI:spiffe:\/\/.*\/svc\/web$/)
    assert.match(await ask('again'), /^again /)
  })

  it('takes clients that agree on h2, and those that agree on nothing', async (t) => {
    const { web } = await serving(t, (call, answer) => {
      answer(null, call.request)
    })
    for (const options of [{ alpnProtocols: ['h2'] }, {}]) {
      const socket = await web.dial('api', options)
      const session = http2.connect('http://api', { createConnection: () => socket })
      await once(session, 'remoteSettings')
      session.close()
      await once(session, 'close')
    }
  })

  it('refuses an injector that stands behind another listener', async (t) => {
    const { join } = await startMesh(t)
    const server = new Server()
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
    const api = join('api')
    await api.serve(injector, { port: 0, host: '127.0.0.1' })
    const error = await rejection(api.serve(injector, { port: 0, host: '127.0.0.1' }))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
    await api.close()
    server.forceShutdown()
  })

  it('drains: a call under way is answered', async (t) => {
    let answerNow: (() => void) | undefined
    const { ask, listener } = await serving(t, (call, answer) => {
      answerNow = () => {
        answer(null, call.request)
      }
    })
    const asked = ask('slow')
    await until('it is asked', () => answerNow !== undefined)
    const closing = listener.close({ drainTimeoutMs: 10_000 })
    answerNow?.()
    assert.equal(await asked, 'slow')
    await closing
  })

  it('ends calls when an intention turns to deny', async (t) => {
    let isAsked = false
    const { agent, ask } = await serving(t, () => {
      isAsked = true
    })
    const asked = ask('never').catch((error: unknown) => error as Error)
    await until('it is asked', () => isAsked)
    agent.setIntention('web', 'api', 'deny')
    assert.match(String(await asked), /UNAVAILABLE/)
  })
})
