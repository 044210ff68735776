import assert from 'node:assert/strict'
import { type Socket, connect } from 'node:net'
import { describe, it } from 'node:test'
import type { DialError, ServiceUpstream } from '../../src/index.js'
import { offer, portOf, readAll, rejection } from '../fixtures/mesh.js'
import { plainServer } from '../fixtures/plain-server.js'
import { startDatacenters } from './cluster.js'
import { type RealAgent, skip } from './real-agent.js'
import { agentJson, deregister, joiner, register, until } from './service-mesh.js'

/** Registers the mesh gateway of a datacenter, and waits until the other datacenter lists it. */
async function registerGateway(consul: RealAgent, from: RealAgent, dc: string, port: number): Promise<void> {
  const address = { Address: '127.0.0.1', Port: port }
  await register(consul, {
    Kind: 'mesh-gateway',
    ID: 'gateway',
    Name: 'mesh-gateway',
    ...address,
    TaggedAddresses: { lan: address, wan: address },
    Check: { TTL: '1h', Status: 'passing' },
  })
  await until('the datacenters list the gateway', async () => {
    const path = '/v1/internal/federation-states/mesh-gateways'
    const listed = await agentJson<Record<string, { Service: { Port: number } }[]>>(from, path)
    return listed[dc]?.some(({ Service }) => Service.Port === port)
  })
}

describe('A dial through a mesh gateway', { skip }, () => {
  it('sends the server name of the target, and trusts the gateway with nothing', async (t) => {
    const { dc1, dc2 } = await startDatacenters(t)
    const web = joiner(t, dc1)('web')
    const join = joiner(t, dc2)
    const api = await offer(join('api'), (socket) => socket.end('api'))
    const other = await offer(join('other'), (socket) => socket.end('other'))
    const upstream: ServiceUpstream = { service: 'api', datacenter: 'dc2', meshGateway: 'remote' }

    await t.test('to nowhere, without a gateway', async () => {
      const error = await until('the instances are known', async () => {
        const error = await rejection(web.dial(upstream))
        return error.code === 'ERR_CONNECT_GATEWAY' && error
      })
      assert.match(
        error.message,
        /api in dc2 is reached through the mesh gateways of dc2, and none of them is healthy/,
      )
    })

    let hello = Buffer.alloc(0)
    const cases: [what: string, onSocket: (socket: Socket) => void, code: string | undefined][] = [
      [
        'that passes the bytes on',
        (socket) => {
          socket.once('data', (chunk) => {
            hello = chunk
            const onward = connect(portOf(api), '127.0.0.1').on('error', () => undefined)
            onward.write(chunk)
            socket.pipe(onward).pipe(socket)
          })
        },
        undefined,
      ],
      [
        'that leads to another service',
        (socket) => {
          const onward = connect(portOf(other), '127.0.0.1').on('error', () => undefined)
          socket.pipe(onward).pipe(socket)
        },
        'ERR_CONNECT_PEER_IDENTITY',
      ],
      [
        'that cuts after the ClientHello',
        (socket) => socket.once('data', () => socket.destroy()),
        'ERR_CONNECT_DIAL_FAILED',
      ],
      [
        'that answers something else than TLS',
        (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
        'ERR_CONNECT_DIAL_FAILED',
      ],
      ['that never answers', () => undefined, 'ERR_CONNECT_TIMEOUT'],
    ]
    for (const [what, onSocket, code] of cases) {
      await t.test(what, async (t) => {
        const port = await plainServer(t, onSocket)
        await registerGateway(dc2, dc1, 'dc2', port)
        const dial = () => web.dial(upstream, { timeoutMs: 2_000 })
        const attempts = await until('the dial takes the new gateway', async () => {
          const outcome = await dial().catch((error: unknown) => error as DialError)
          if (!(outcome instanceof Error)) {
            const { remotePort } = outcome
            assert.equal(await readAll(outcome), 'api')
            return remotePort === port ? [] : undefined
          }
          const isThis = outcome.attempts.some(({ address }) => address === `127.0.0.1:${port}`)
          if (!isThis) return undefined
          assert.equal(outcome.code, code)
          return outcome.attempts
        })
        for (const { target } of attempts)
          assert.deepEqual([target.service, target.datacenter], ['api', 'dc2'])
      })
    }
    const { TrustDomain } = await agentJson<{ TrustDomain: string }>(dc1, '/v1/agent/connect/ca/roots')
    assert.ok(hello.includes(`api.default.dc2.internal.${TrustDomain}`))

    await t.test('to nowhere, after the gateway was deregistered', async () => {
      await deregister(dc2, 'gateway')
      await until('no gateway is left', async () => {
        const error = await rejection(web.dial(upstream, { timeoutMs: 2_000 }))
        return error.code === 'ERR_CONNECT_GATEWAY'
      })
    })
  })
})
