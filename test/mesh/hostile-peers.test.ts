import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { DialError, type Service } from '../../src/index.js'
import { type IssueOptions, TestCa } from '../../src/testing/index.js'
import { type TestMesh, greet, nextEvent, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { startTlsServer, tlsOptions } from './tls-peer.js'

type LeafRow = readonly [flaw: string, issue: (trustDomain: string) => IssueOptions, code: string]

const PATH = '/ns/default/dc/dc1/svc/web'
const uris = (...uris: readonly string[]): IssueOptions => ({ uris })
const URI_COUNT = 'ERR_CONNECT_CERTIFICATE_URI_COUNT'
const COMPONENT = 'ERR_CONNECT_SPIFFE_COMPONENT'

/** Leaves that the CA of the mesh could sign by mistake or for another purpose, and the code of the rejection. */
const BAD_LEAVES: readonly LeafRow[] = [
  ['no URI', () => uris(), URI_COUNT],
  ['only a DNS name', () => ({ uris: [], dnsNames: ['web'] }), URI_COUNT],
  [
    'two URIs',
    (td) => uris(`spiffe://${td}${PATH}`, `spiffe://${td}/ns/default/dc/dc1/svc/admin`),
    URI_COUNT,
  ],
  ['a second URI of another scheme', (td) => uris(`spiffe://${td}${PATH}`, 'https://x.example/'), URI_COUNT],
  ['another scheme', (td) => uris(`https://${td}${PATH}`), 'ERR_CONNECT_SPIFFE_SCHEME'],
  ['user info', (td) => uris(`spiffe://me@${td}${PATH}`), COMPONENT],
  ['a port', (td) => uris(`spiffe://${td}:80${PATH}`), COMPONENT],
  ['a query', (td) => uris(`spiffe://${td}${PATH}?a`), COMPONENT],
  ['a fragment', (td) => uris(`spiffe://${td}${PATH}#a`), COMPONENT],
  [
    'an upper-case trust domain',
    (td) => uris(`spiffe://${td.toUpperCase()}${PATH}`),
    'ERR_CONNECT_SPIFFE_TRUST_DOMAIN',
  ],
  [
    'an encoded trust domain',
    (td) => uris(`spiffe://%61${td.slice(1)}${PATH}`),
    'ERR_CONNECT_SPIFFE_TRUST_DOMAIN',
  ],
  [
    'a URI that is too long',
    (td) => uris(`spiffe://${td}${PATH}${'x'.repeat(2048)}`),
    'ERR_CONNECT_SPIFFE_LENGTH',
  ],
  ['no path', (td) => uris(`spiffe://${td}`), 'ERR_CONNECT_CERTIFICATE_SIGNING'],
  ['a path of dots', (td) => uris(`spiffe://${td}/ns/default/dc/dc1/svc/..`), 'ERR_CONNECT_SPIFFE_PATH'],
  ['a trailing slash', (td) => uris(`spiffe://${td}${PATH}/`), 'ERR_CONNECT_SPIFFE_PATH'],
  [
    'the identity of an agent',
    (td) => uris(`spiffe://${td}/agent/client/dc/dc1/id/x`),
    'ERR_CONNECT_PEER_KIND',
  ],
  ['the identity of a gateway', (td) => uris(`spiffe://${td}/gateway/mesh/dc/dc1`), 'ERR_CONNECT_PEER_KIND'],
  ['another trust domain', () => uris(`spiffe://other.consul${PATH}`), 'ERR_CONNECT_PEER_TRUST_DOMAIN'],
  ['the CA flag', () => ({ isCa: true }), 'ERR_CONNECT_CERTIFICATE_CA'],
  ['keyCertSign', () => ({ keyUsage: ['digitalSignature', 'keyCertSign'] }), 'ERR_CONNECT_CERTIFICATE_CA'],
  ['cRLSign', () => ({ keyUsage: ['digitalSignature', 'cRLSign'] }), 'ERR_CONNECT_CERTIFICATE_CA'],
  ['no key usage', () => ({ keyUsage: null }), 'ERR_CONNECT_CERTIFICATE_KEY_USAGE'],
]

/** Leaves that OpenSSL rejects. */
const REJECTED_BY_OPENSSL: readonly (readonly [flaw: string, issue: IssueOptions])[] = [
  ['is expired', { notBefore: new Date(Date.now() - 7_200_000), notAfter: new Date(Date.now() - 60_000) }],
  ['is not valid yet', { notBefore: new Date(Date.now() + 3_600_000) }],
  ['is self-signed', { selfSigned: true }],
  ['is not for TLS clients or servers', { extendedKeyUsage: ['codeSigning'] }],
  [
    'has an unknown critical extension',
    { extraExtensions: [{ oid: '1.3.6.1.4.1.99999.1', critical: true, value: Buffer.from([5, 0]) }] },
  ],
]

describe('a listener rejects a client whose certificate', () => {
  for (const [flaw, issue, code] of BAD_LEAVES) {
    it(`has ${flaw}`, async (t) => {
      await assertRejected(
        t,
        ({ agent }) => tlsOptions(agent.issueLeaf('web', issue(agent.trustDomain)), agent.ca),
        code,
      )
    })
  }

  for (const [flaw, issue] of REJECTED_BY_OPENSSL) {
    it(flaw, async (t) => {
      await assertRejected(
        t,
        ({ agent }) => tlsOptions(agent.issueLeaf('web', issue), agent.ca),
        'ERR_CONNECT_PEER_UNTRUSTED',
      )
    })
  }

  it('is of another mesh', async (t) => {
    const issue = ({ agent }: TestMesh): object =>
      tlsOptions(TestCa.create({ trustDomain: agent.trustDomain }).issue({ service: 'web' }), agent.ca)
    await assertRejected(t, issue, 'ERR_CONNECT_PEER_UNTRUSTED')
  })

  for (const maxVersion of ['TLSv1.3', 'TLSv1.2'] as const) {
    it(`is missing (${maxVersion})`, async (t) => {
      const options = ({ agent }: TestMesh): object => ({ ca: agent.ca.rootPem, maxVersion })
      await assertRejected(t, options, 'ERR_CONNECT_CERTIFICATE_MISSING')
    })
  }

  it('leads to the root through more than 16 certificates', async (t) => {
    const issue = ({ agent }: TestMesh): object => {
      const issuer = Array.from({ length: 16 }).reduce<TestCa>((above) => above.intermediate(), agent.ca)
      return tlsOptions(issuer.issue({ service: 'web' }), agent.ca)
    }
    await assertRejected(t, issue, 'ERR_CONNECT_CERTIFICATE_CHAIN')
  })

  it('comes with more than 100 KiB of other certificates', async (t) => {
    const issue = ({ agent }: TestMesh): object => {
      const unrelated = TestCa.create({ trustDomain: agent.trustDomain })
      const intermediates = Array.from({ length: 250 }, () => agent.ca.crossSign(unrelated))
      return tlsOptions(agent.issueLeaf('web', { intermediates }), agent.ca)
    }
    await assertRejected(t, issue, 'ERR_SSL_EXCESSIVE_MESSAGE_SIZE')
  })
})

describe('dial rejects a server whose certificate', () => {
  for (const [flaw, issue, code] of BAD_LEAVES) {
    it(`has ${flaw}`, async (t) => {
      const mesh = await startMesh(t)
      const error = await dialFailure(t, mesh, mesh.agent.issueLeaf('web', issue(mesh.agent.trustDomain)))
      assert.ok(error instanceof DialError)
      const { code: actual } = (error.attempts[0]?.error ?? {}) as { code?: string }
      assert.equal(actual, code, error.message)
    })
  }

  for (const [flaw, issue] of REJECTED_BY_OPENSSL) {
    it(flaw, async (t) => {
      const mesh = await startMesh(t)
      const error = await dialFailure(t, mesh, mesh.agent.issueLeaf('web', issue))
      assert.equal(error.code, 'ERR_CONNECT_PEER_UNTRUSTED', error.message)
    })
  }

  it('is of another mesh', async (t) => {
    const mesh = await startMesh(t)
    const { trustDomain } = mesh.agent
    const error = await dialFailure(t, mesh, TestCa.create({ trustDomain }).issue({ service: 'web' }))
    assert.equal(error.code, 'ERR_CONNECT_PEER_UNTRUSTED')
  })
})

describe('TLS sessions', () => {
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`are never resumed by a listener (${version})`, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = join('api')
      const { port } = await listen(api)
      const options = {
        ...tlsOptions(agent.issueLeaf('web'), agent.ca),
        port,
        host: '127.0.0.1',
        minVersion: version,
        maxVersion: version,
      }
      let session: Buffer | undefined
      const first = tlsConnect(options, () => (session ??= first.getSession()))
      first.on('session', (ticket) => (session = ticket))
      await readAll(first)
      assert.ok(session !== undefined)
      let reused: boolean | undefined
      const second = tlsConnect({ ...options, session }, () => (reused = second.isSessionReused()))
      assert.equal(await readAll(second), 'hello web')
      assert.equal(reused, false)
    })
  }

  it('are never resumed by dial', async (t) => {
    const { agent, join } = await startMesh(t)
    const reused: boolean[] = []
    const options = { ...tlsOptions(agent.issueLeaf('web'), agent.ca), requestCert: true }
    const { address } = await startTlsServer(t, options, (socket) => {
      reused.push(socket.isSessionReused())
      // In the turn of the handshake Node.js 20 ends without a close_notify.
      setImmediate(() => socket.end('x'))
    })
    const client = join('client')
    for (let i = 0; i < 3; i += 1) await readAll(await client.dial({ address, service: 'web' }))
    assert.deepEqual(reused, [false, false, false])
  })
})

describe('a client without authorization', () => {
  it('reaches no handler with data that it sends before the decision', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const api = join('api')
    const { port, handled } = await listen(api)
    const denied = nextEvent(api, 'denied')
    const socket = tlsConnect({
      ...tlsOptions(agent.issueLeaf('web'), agent.ca),
      port,
      host: '127.0.0.1',
    })
    socket.on('error', () => undefined)
    socket.write('DELETE / HTTP/1.1\r\n\r\n')
    await once(socket.resume(), 'close')
    const [error] = await denied
    assert.equal(error.code, 'ERR_CONNECT_DENIED')
    assert.equal(error.peer.service, 'web')
    assert.notEqual(error.reason, '')
    assert.equal(handled(), 0)
  })

  it('receives a rejection from dial', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const { port } = await listen(join('api'))
    const socket = await join('web').dial({ address: `127.0.0.1:${port}`, service: 'api' })
    const error = await rejection(readAll(socket))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_REJECTED')
    assert.match(error.message, /intention/)
  })

  it('receives a rejection when the server does not trust its certificate', async (t) => {
    const { agent, join } = await startMesh(t)
    const options = { ...tlsOptions(agent.issueLeaf('web'), TestCa.create()), requestCert: true }
    const { address } = await startTlsServer(t, options)
    const socket = await join('client').dial({ address, service: 'web' })
    assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
  })

  it('is not confused with one that sends everything and receives nothing', async (t) => {
    const { agent, join } = await startMesh(t)
    const { address } = await startTlsServer(t, tlsOptions(agent.issueLeaf('web'), agent.ca), (socket) => {
      socket.resume().on('end', () => socket.end())
    })
    const socket = await join('client').dial({ address, service: 'web' })
    socket.end('one way')
    assert.equal(await readAll(socket), '')
  })
})

async function listen(service: Service): Promise<{ port: number; handled: () => number }> {
  let count = 0
  const listener = await service.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    count += 1
    greet(socket)
  })
  return { port: portOf(listener), handled: () => count }
}

/** Asserts that a listener rejects a client with these TLS options with this code, and calls no handler. */
async function assertRejected(
  t: TestContext,
  options: (mesh: TestMesh) => object,
  code: string,
): Promise<void> {
  const mesh = await startMesh(t)
  const api = mesh.join('api')
  const { port, handled } = await listen(api)
  const rejected = nextEvent(api, 'rejected')
  await attack(port, options(mesh))
  const [error] = await rejected
  assert.equal((error as { code?: string }).code, code, error.message)
  assert.equal(handled(), 0)
}

/** Connects, sends at once, and waits until the listener has closed the connection without sending data. */
async function attack(port: number, options: object): Promise<void> {
  const socket = tlsConnect({ checkServerIdentity: () => undefined, ...options, port, host: '127.0.0.1' })
  // An alert is emitted as an error.
  const closed = new Promise((resolve) => socket.on('error', () => undefined).on('close', resolve))
  socket.resume().write('hello?')
  await closed
  assert.equal(socket.bytesRead > 0 && socket.readableDidRead, false, 'the listener sent data')
}

/** Returns the error of a dial to a server with this leaf. */
async function dialFailure(
  t: TestContext,
  { agent, join }: TestMesh,
  leaf: Parameters<typeof tlsOptions>[0],
): Promise<Error & { code?: string }> {
  const { address } = await startTlsServer(t, tlsOptions(leaf, agent.ca))
  return rejection(join('client').dial({ address, service: 'web' }))
}
