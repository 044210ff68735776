import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { type SecureContext, createServer, connect as tlsConnect } from 'node:tls'
import type { ExpectedIdentity } from '../../src/index.js'
import { rejection, startMesh } from '../fixtures/mesh.js'

describe('the server name of an outbound handshake', () => {
  const cases: [identity: ExpectedIdentity, serverName: (trustDomain: string) => string | undefined][] = [
    [{ service: 'api' }, (td) => `api.default.dc1.internal.${td}`],
    [{ service: 'api', datacenter: 'dc2' }, (td) => `api.default.dc2.internal.${td}`],
    [{ service: 'api', namespace: 'shop' }, (td) => `api.shop.dc1.internal.${td}`],
    [{ service: 'api', partition: 'east' }, (td) => `api.default.east.dc1.internal-v1.${td}`],
    [{ service: 'an api' }, () => undefined],
    [{ service: 'größe' }, () => undefined],
    [{ service: 'a'.repeat(255) }, () => undefined],
  ]
  for (const [identity, serverName] of cases) {
    it(`names the service of ${JSON.stringify(identity).slice(0, 60)}`, async (t) => {
      const { join } = await startMesh(t)
      const web = join('web')
      await web.ready()
      const expected = serverName(web.trustDomain ?? '')
      const { port, serverNames } = await recordingServer(t)
      await rejection(web.dial({ ...identity, address: `127.0.0.1:${port}` }))
      const socket = tlsConnect({ port, host: '127.0.0.1', ...web.tlsClientOptions(identity) })
      await rejection(once(socket, 'secureConnect'))
      assert.deepEqual(
        serverNames,
        [expected, expected].filter((name) => name !== undefined),
      )
    })
  }
})

/** A server that records the server names of handshakes, and fails them. */
async function recordingServer(t: TestContext): Promise<{ port: number; serverNames: string[] }> {
  const serverNames: string[] = []
  const SNICallback = (
    name: string,
    callback: (error: Error | null, context?: SecureContext) => void,
  ): void => {
    serverNames.push(name)
    callback(new Error('the name is all that this server wants'))
  }
  const server = createServer({ SNICallback }).listen(0, '127.0.0.1')
  t.after(() => server.close())
  server.on('tlsClientError', () => undefined)
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, serverNames }
}
