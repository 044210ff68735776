import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, it } from 'node:test'
import {
  type TLSSocket,
  type TlsOptions,
  connect as tlsConnect,
  createServer as createTlsServer,
} from 'node:tls'
import { DialError, type Service } from '../../src/index.js'
import { type IssueOptions, type TestAgent, TestCa } from '../../src/testing/index.js'
import { greet, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'

const second = 1000

interface BadLeaf {
  readonly what: string
  readonly issue: (trustDomain: string) => IssueOptions
  /** The code that our side gives, when it gets as far as to judge for itself. */
  readonly code: string
}

const uri = (trustDomain: string, path: string): string => `spiffe://${trustDomain}${path}`
const PATH = '/ns/default/dc/dc1/svc/web'

/** Every leaf that the mesh's own CA could have signed by mistake, or for another purpose. */
const BAD_LEAVES: readonly BadLeaf[] = [
  { what: 'no URI', issue: () => ({ uris: [] }), code: 'ERR_CONNECT_CERTIFICATE_URI_COUNT' },
  {
    what: 'only a DNS name',
    issue: () => ({ uris: [], dnsNames: ['web'] }),
    code: 'ERR_CONNECT_CERTIFICATE_URI_COUNT',
  },
  {
    what: 'two URIs',
    issue: (td) => ({ uris: [uri(td, PATH), uri(td, '/ns/default/dc/dc1/svc/admin')] }),
    code: 'ERR_CONNECT_CERTIFICATE_URI_COUNT',
  },
  {
    what: 'a second URI of another scheme',
    issue: (td) => ({ uris: [uri(td, PATH), 'https://x.example/'] }),
    code: 'ERR_CONNECT_CERTIFICATE_URI_COUNT',
  },
  {
    what: 'another scheme',
    issue: (td) => ({ uris: [`https://${td}${PATH}`] }),
    code: 'ERR_CONNECT_SPIFFE_SCHEME',
  },
  {
    what: 'user info',
    issue: (td) => ({ uris: [`spiffe://me@${td}${PATH}`] }),
    code: 'ERR_CONNECT_SPIFFE_COMPONENT',
  },
  {
    what: 'a port',
    issue: (td) => ({ uris: [`spiffe://${td}:80${PATH}`] }),
    code: 'ERR_CONNECT_SPIFFE_COMPONENT',
  },
  {
    what: 'a query',
    issue: (td) => ({ uris: [uri(td, `${PATH}?a`)] }),
    code: 'ERR_CONNECT_SPIFFE_COMPONENT',
  },
  {
    what: 'a fragment',
    issue: (td) => ({ uris: [uri(td, `${PATH}#a`)] }),
    code: 'ERR_CONNECT_SPIFFE_COMPONENT',
  },
  {
    what: 'an upper-case trust domain',
    issue: (td) => ({ uris: [uri(td.toUpperCase(), PATH)] }),
    code: 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN',
  },
  {
    what: 'an encoded trust domain',
    issue: (td) => ({ uris: [uri(`%61${td.slice(1)}`, PATH)] }),
    code: 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN',
  },
  {
    what: 'a URI that is too long',
    issue: (td) => ({ uris: [uri(td, `${PATH}${'x'.repeat(2048)}`)] }),
    code: 'ERR_CONNECT_SPIFFE_LENGTH',
  },
  { what: 'no path', issue: (td) => ({ uris: [uri(td, '')] }), code: 'ERR_CONNECT_CERTIFICATE_SIGNING' },
  {
    what: 'a path of dots',
    issue: (td) => ({ uris: [uri(td, '/ns/default/dc/dc1/svc/..')] }),
    code: 'ERR_CONNECT_SPIFFE_PATH',
  },
  {
    what: 'a trailing slash',
    issue: (td) => ({ uris: [uri(td, `${PATH}/`)] }),
    code: 'ERR_CONNECT_SPIFFE_PATH',
  },
  {
    what: 'the identity of an agent',
    issue: (td) => ({ uris: [uri(td, '/agent/client/dc/dc1/id/x')] }),
    code: 'ERR_CONNECT_PEER_KIND',
  },
  {
    what: 'the identity of a gateway',
    issue: (td) => ({ uris: [uri(td, '/gateway/mesh/dc/dc1')] }),
    code: 'ERR_CONNECT_PEER_KIND',
  },
  {
    what: 'another trust domain',
    issue: () => ({ uris: [uri('other.consul', PATH)] }),
    code: 'ERR_CONNECT_PEER_TRUST_DOMAIN',
  },
  { what: 'the CA flag', issue: () => ({ isCa: true }), code: 'ERR_CONNECT_CERTIFICATE_CA' },
  {
    what: 'keyCertSign',
    issue: () => ({ keyUsage: ['digitalSignature', 'keyCertSign'] }),
    code: 'ERR_CONNECT_CERTIFICATE_CA',
  },
  {
    what: 'cRLSign',
    issue: () => ({ keyUsage: ['digitalSignature', 'cRLSign'] }),
    code: 'ERR_CONNECT_CERTIFICATE_CA',
  },
  { what: 'no key usage', issue: () => ({ keyUsage: null }), code: 'ERR_CONNECT_CERTIFICATE_KEY_USAGE' },
]

/** Leaves that OpenSSL itself refuses, at one end or the other. */
const REFUSED_BY_OPENSSL: readonly { readonly what: string; readonly issue: IssueOptions }[] = [
  {
    what: 'is expired',
    issue: { notBefore: new Date(Date.now() - 7200 * second), notAfter: new Date(Date.now() - 60 * second) },
  },
  { what: 'is not valid yet', issue: { notBefore: new Date(Date.now() + 3600 * second) } },
  { what: 'is signed by itself', issue: { selfSigned: true } },
  { what: 'has no right to be a client or server', issue: { extendedKeyUsage: ['codeSigning'] } },
  {
    what: 'has an unknown critical extension',
    issue: { extraExtensions: [{ oid: '1.3.6.1.4.1.99999.1', critical: true, value: Buffer.from([5, 0]) }] },
  },
]

describe('a listener refuses a client whose certificate', () => {
  for (const { what, issue, code } of BAD_LEAVES) {
    it(`has ${what}`, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = join('api')
      const { port, handled } = await listen(api)
      const rejected = nextRejection(api)
      await attack(port, clientOptions(agent.issueLeaf('web', issue(agent.trustDomain)), agent.ca.rootPem))
      const error = await rejected
      assert.equal((error as { code?: string }).code, code, error.message)
      assert.equal(handled(), 0)
    })
  }

  for (const { what, issue } of REFUSED_BY_OPENSSL) {
    it(what, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = join('api')
      const { port, handled } = await listen(api)
      const rejected = nextRejection(api)
      await attack(port, clientOptions(agent.issueLeaf('web', issue), agent.ca.rootPem))
      assert.equal(((await rejected) as { code?: string }).code, 'ERR_CONNECT_PEER_UNTRUSTED')
      assert.equal(handled(), 0)
    })
  }

  it('comes from another mesh', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const { port, handled } = await listen(api)
    const stranger = TestCa.create({ trustDomain: agent.trustDomain })
    const rejected = nextRejection(api)
    await attack(port, clientOptions(stranger.issue({ service: 'web' }), agent.ca.rootPem))
    assert.equal(((await rejected) as { code?: string }).code, 'ERR_CONNECT_PEER_UNTRUSTED')
    assert.equal(handled(), 0)
  })

  it('is not there', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const { port, handled } = await listen(api)
    for (const maxVersion of ['TLSv1.3', 'TLSv1.2'] as const) {
      const rejected = nextRejection(api)
      await attack(port, { ca: agent.ca.rootPem, maxVersion })
      assert.equal(
        ((await rejected) as { code?: string }).code,
        'ERR_CONNECT_CERTIFICATE_MISSING',
        maxVersion,
      )
    }
    assert.equal(handled(), 0)
  })

  it('leads to the root through more than 16 certificates', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const { port, handled } = await listen(api)
    const rejected = nextRejection(api)
    const issuer = Array.from({ length: 16 }).reduce<TestCa>((above) => above.intermediate(), agent.ca)
    await attack(port, clientOptions(issuer.issue({ service: 'web' }), agent.ca.rootPem))
    assert.equal(((await rejected) as { code?: string }).code, 'ERR_CONNECT_CERTIFICATE_CHAIN')
    assert.equal(handled(), 0)
  })

  it('comes with more than 100 KiB of others', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const { port, handled } = await listen(api)
    const rejected = nextRejection(api)
    const leaf = agent.issueLeaf('web', { intermediates: others(agent, 250) })
    await attack(port, clientOptions(leaf, agent.ca.rootPem))
    assert.equal(((await rejected) as { code?: string }).code, 'ERR_SSL_EXCESSIVE_MESSAGE_SIZE')
    assert.equal(handled(), 0)
  })
})

describe('dial refuses a server whose certificate', () => {
  for (const { what, issue, code } of BAD_LEAVES) {
    it(`has ${what}`, async (t) => {
      const { agent, join } = await startMesh(t)
      const leaf = agent.issueLeaf('web', issue(agent.trustDomain))
      const port = await serveWith(t, { cert: leaf.chainPem, key: leaf.privateKeyPem, ca: agent.ca.rootPem })
      const error = await rejection(join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' }))
      assert.ok(error instanceof DialError)
      const found = (error.attempts[0]?.error as { code?: string } | undefined)?.code
      assert.equal(found, code, error.message)
    })
  }

  for (const { what, issue } of REFUSED_BY_OPENSSL) {
    it(what, async (t) => {
      const { agent, join } = await startMesh(t)
      const leaf = agent.issueLeaf('web', issue)
      const port = await serveWith(t, { cert: leaf.chainPem, key: leaf.privateKeyPem, ca: agent.ca.rootPem })
      const error = await rejection(join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' }))
      assert.equal(error.code, 'ERR_CONNECT_PEER_UNTRUSTED', error.message)
    })
  }

  it('proves another service', async (t) => {
    const { agent, join } = await startMesh(t)
    const leaf = agent.issueLeaf('admin')
    const port = await serveWith(t, { cert: leaf.chainPem, key: leaf.privateKeyPem, ca: agent.ca.rootPem })
    const error = await rejection(join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' }))
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
  })

  it('comes from another mesh', async (t) => {
    const { agent, join } = await startMesh(t)
    const leaf = TestCa.create({ trustDomain: agent.trustDomain }).issue({ service: 'web' })
    const port = await serveWith(t, { cert: leaf.chainPem, key: leaf.privateKeyPem })
    const error = await rejection(join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' }))
    assert.equal(error.code, 'ERR_CONNECT_PEER_UNTRUSTED')
  })
})

describe('TLS sessions', () => {
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`are never resumed by a listener (${version})`, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = join('api')
      const { port } = await listen(api)
      const leaf = agent.issueLeaf('web')
      const options = {
        ...clientOptions(leaf, agent.ca.rootPem),
        port,
        host: '127.0.0.1',
        minVersion: version,
        maxVersion: version,
      }
      let session: Buffer | undefined
      const first = tlsConnect(options, () => (session ??= first.getSession()))
      first.on('session', (given) => (session = given))
      await readAll(first)
      assert.ok(session !== undefined)
      let reused: boolean | undefined
      const again = tlsConnect({ ...options, session }, () => (reused = again.isSessionReused()))
      assert.equal(await readAll(again), 'hello web')
      assert.equal(reused, false)
    })
  }

  it('are never resumed by dial, whatever the server offers', async (t) => {
    const { agent, join } = await startMesh(t)
    const leaf = agent.issueLeaf('web')
    const reused: boolean[] = []
    const port = await serveWith(
      t,
      { cert: leaf.chainPem, key: leaf.privateKeyPem, ca: agent.ca.rootPem, requestCert: true },
      (socket) => {
        reused.push(socket.isSessionReused())
        // In the turn of the handshake Node.js 20 ends without a close_notify.
        setImmediate(() => socket.end('x'))
      },
    )
    const client = join('client')
    for (let i = 0; i < 3; i += 1)
      await readAll(await client.dial({ address: `127.0.0.1:${port}`, service: 'web' }))
    assert.deepEqual(reused, [false, false, false])
  })
})

describe('a client that may not connect', () => {
  it('gets nothing through before it is authorized, however early it sends', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const api = join('api')
    const { port, handled } = await listen(api)
    const denied = once(api as unknown as NodeJS.EventEmitter, 'denied')
    const socket = tlsConnect({
      ...clientOptions(agent.issueLeaf('web'), agent.ca.rootPem),
      port,
      host: '127.0.0.1',
    })
    socket.on('error', () => undefined)
    socket.write('DELETE / HTTP/1.1\r\n\r\n')
    await once(socket.resume(), 'close')
    const [error] = (await denied) as [Error & { code: string; reason: string; peer: { service: string } }]
    assert.equal(error.code, 'ERR_CONNECT_DENIED')
    assert.equal(error.peer.service, 'web')
    assert.notEqual(error.reason, '')
    assert.equal(handled(), 0)
  })

  it('is told by dial that it was rejected', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'deny')
    const { port } = await listen(join('api'))
    const socket = await join('web').dial({ address: `127.0.0.1:${port}`, service: 'api' })
    const error = await rejection(readAll(socket))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_REJECTED')
    assert.match(error.message, /intention/)
  })

  it('is told so when its own certificate is not trusted there', async (t) => {
    const { agent, join } = await startMesh(t)
    const other = TestCa.create()
    const leaf = agent.issueLeaf('web')
    const port = await serveWith(t, {
      cert: leaf.chainPem,
      key: leaf.privateKeyPem,
      ca: other.rootPem,
      requestCert: true,
      rejectUnauthorized: true,
    })
    const socket = await join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' })
    assert.equal((await rejection(readAll(socket))).code, 'ERR_CONNECT_REJECTED')
  })

  it('may say all it has and hear nothing without being called rejected', async (t) => {
    const { agent, join } = await startMesh(t)
    const leaf = agent.issueLeaf('web')
    const port = await serveWith(
      t,
      { cert: leaf.chainPem, key: leaf.privateKeyPem, ca: agent.ca.rootPem },
      (socket) => {
        socket.resume().on('end', () => socket.end())
      },
    )
    const socket = await join('client').dial({ address: `127.0.0.1:${port}`, service: 'web' })
    socket.end('one way')
    assert.equal(await readAll(socket), '')
  })
})

/** Certificates that have nothing to do with a leaf's path. */
function others(agent: TestAgent, count: number): string[] {
  const other = TestCa.create({ trustDomain: agent.trustDomain })
  return Array.from({ length: count }, () => agent.ca.crossSign(other))
}

async function listen(service: Service): Promise<{ port: number; handled: () => number }> {
  let count = 0
  const listener = await service.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    count += 1
    greet(socket)
  })
  return { port: portOf(listener), handled: () => count }
}

async function nextRejection(service: Service): Promise<Error> {
  const [error] = (await once(service as unknown as NodeJS.EventEmitter, 'rejected')) as [Error]
  return error
}

function clientOptions(
  leaf: { chainPem: string; privateKeyPem: string },
  ca: string,
): {
  cert: string
  key: string
  ca: string
  checkServerIdentity: () => undefined
} {
  return { cert: leaf.chainPem, key: leaf.privateKeyPem, ca, checkServerIdentity: () => undefined }
}

/** Connects as badly as told, sends at once, and waits until the other end has had enough. */
async function attack(port: number, options: object): Promise<void> {
  const socket = tlsConnect({ checkServerIdentity: () => undefined, ...options, port, host: '127.0.0.1' })
  // An alert arrives as an error; only the end is of interest.
  const closed = new Promise((resolve) => socket.on('error', () => undefined).on('close', resolve))
  socket.resume().write('hello?')
  await closed
  assert.equal(socket.bytesRead > 0 && socket.readableDidRead, false, 'it was sent something')
}

async function serveWith(
  t: { after(fn: () => void): void },
  options: TlsOptions,
  handler: (socket: TLSSocket) => void = (socket) => socket.end('hello'),
): Promise<number> {
  const server = createTlsServer(options, (socket) => {
    socket.on('error', () => undefined)
    handler(socket)
  })
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return (server.address() as { port: number }).port
}
