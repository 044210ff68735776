import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { type TestContext, describe, it } from 'node:test'
import { Server, ServerCredentials, type ServerUnaryCall, type sendUnaryData } from '@grpc/grpc-js'
import type { Listener, Service } from '../../src/index.js'
import { type TestMesh, rejection, startMesh, until } from '../fixtures/mesh.js'
import { bytesMethod, grpcCaller, grpcServer } from './grpc.js'
import { offerServer } from './offer-server.js'

const echo = { echo: bytesMethod('/test/echo') }

interface Serving extends TestMesh {
  readonly web: Service
  readonly listener: Listener
  readonly ask: (text: string) => Promise<string>
}

type Handler = (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => void

async function serving(t: TestContext, handle: Handler): Promise<Serving> {
  const mesh = await startMesh(t)
  const server = grpcServer(t)
  server.addService(echo, { echo: handle })
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const listener = await offerServer(mesh.join('api'), injector)
  const web = mesh.join('web')
  const call = await grpcCaller(t, web)
  const ask = (text: string): Promise<string> => call(echo.echo.path, text)
  return { ...mesh, web, listener, ask }
}

describe('serve with a gRPC server', () => {
  it('exposes the certificate of the caller to the handler', async (t) => {
    const { ask } = await serving(t, (call, answer) => {
      const { subjectaltname } = call.getAuthContext().sslPeerCertificate ?? {}
      answer(null, Buffer.from(`${String(call.request)} ${subjectaltname ?? ''}`))
    })
    assert.match(await ask('hello'), /^hello URI:spiffe:\/\/.*\/svc\/web$/)
    assert.match(await ask('again'), /^again /)
  })

  it('accepts clients with and without ALPN h2', async (t) => {
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

  it('rejects an injector that another listener uses', async (t) => {
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

  it('completes pending calls when it drains', async (t) => {
    let answerNow: (() => void) | undefined
    const { ask, listener } = await serving(t, (call, answer) => {
      answerNow = () => {
        answer(null, call.request)
      }
    })
    const answer = ask('slow')
    await until('the call has arrived', () => answerNow !== undefined)
    const closing = listener.close({ drainTimeoutMs: 10_000 })
    answerNow?.()
    assert.equal(await answer, 'slow')
    await closing
  })

  it('ends calls when an intention changes to deny', async (t) => {
    let hasArrived = false
    const { agent, ask } = await serving(t, () => {
      hasArrived = true
    })
    const failed = rejection(ask('never'))
    await until('the call has arrived', () => hasArrived)
    agent.setIntention('web', 'api', 'deny')
    assert.match(String(await failed), /UNAVAILABLE/)
  })
})
