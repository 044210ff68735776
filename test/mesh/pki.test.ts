// The path validation of this library and that of OpenSSL must agree. If only one of them accepted a certificate, a
// service could be ready but unreachable, or a connection could outlive its root. Each row runs through both.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { X509Certificate } from 'node:crypto'
import { CLIENT_AUTH, SERVER_AUTH } from '../../src/identity/certificate.js'
import { parsePemCertificates, verifyPath } from '../../src/identity/path.js'
import type { Generation } from '../../src/identity/identity-store.js'
import { tlsServerOptions } from '../../src/transport/tls-options.js'
import { selfHandshake } from '../../src/transport/self-handshake.js'
import {
  CODE_SIGNING,
  type Certified,
  KEY_USAGE,
  TLS_USAGES,
  ca,
  crossSign,
  leaf,
  newKey,
  privateKeyPem,
  root,
} from '../fixtures/pki.js'

const DAY = 24 * 3_600_000
const past = (days: number): Date => new Date(Date.now() - days * DAY)
const future = (days: number): Date => new Date(Date.now() + days * DAY)
const expired = { notBefore: past(20), notAfter: past(1) }
const early = { notBefore: future(1), notAfter: future(20) }

interface Pki {
  /** The leaf first. */
  readonly chain: readonly Certified[]
  readonly anchors: readonly Certified[]
  readonly isValid: boolean
}

function pki(isValid: boolean, chain: readonly Certified[], anchors: readonly Certified[]): Pki {
  return { isValid, chain, anchors }
}

/** A root, two levels of intermediate CAs, and a leaf, with these changes. */
function threeLevels(
  isValid: boolean,
  { top = {}, middle = {}, low = {}, end = {} }: Partial<Record<'top' | 'middle' | 'low' | 'end', object>>,
): Pki {
  const a = root(top)
  const b = ca(a, middle)
  const c = ca(b, low)
  return pki(isValid, [leaf(c, end), c, b], [a])
}

const rows: Record<string, () => Pki> = {
  'a root and a leaf': () => {
    const a = root()
    return pki(true, [leaf(a)], [a])
  },
  'a root of another name and key': () => pki(false, [leaf(root())], [root()]),
  'a self-signed leaf': () => {
    const key = newKey()
    const self = root({
      isCa: false,
      keyUsage: [KEY_USAGE.digitalSignature],
      extendedKeyUsage: TLS_USAGES,
      key,
    })
    return pki(false, [self], [root()])
  },
  'three levels': () => threeLevels(true, {}),
  'three levels in the wrong order': () => {
    const { chain, anchors } = threeLevels(true, {})
    return pki(true, [chain[0]!, chain[2]!, chain[1]!], anchors)
  },
  'three levels and an unrelated certificate': () => {
    const { chain, anchors } = threeLevels(true, {})
    return pki(true, [chain[0]!, ca(root()), ...chain.slice(1)], anchors)
  },
  'three levels followed by the root': () => {
    const { chain, anchors } = threeLevels(true, {})
    return pki(true, [...chain, ...anchors], anchors)
  },
  'a missing intermediate': () => {
    const { chain, anchors } = threeLevels(true, {})
    return pki(false, [chain[0]!, chain[2]!], anchors)
  },
  'a bundle of the mesh CA and the external CA above it': () => {
    const external = root()
    const mesh = ca(external)
    return pki(true, [leaf(mesh)], [mesh, external])
  },
  'the mesh CA alone, signed by a CA that is not in the bundle': () => {
    const mesh = ca(root())
    return pki(true, [leaf(mesh)], [mesh])
  },
  'the mesh CA alone, and an intermediate below it': () => {
    const mesh = ca(root())
    const dc2 = ca(mesh)
    return pki(true, [leaf(dc2), dc2], [mesh])
  },
  'the mesh CA alone, presented with the CA above it': () => {
    const external = root()
    const mesh = ca(external)
    return pki(true, [leaf(mesh), mesh, external], [mesh])
  },
  'a cross-signed new root under the old root': () => {
    const [old, next] = [root(), root()]
    return pki(true, [leaf(next), crossSign(old, next)], [old])
  },
  'a cross-signed new root under both roots': () => {
    const [old, next] = [root(), root()]
    return pki(true, [leaf(next), crossSign(old, next)], [old, next])
  },
  'a cross-signed new root under the new root alone': () => {
    const [old, next] = [root(), root()]
    return pki(true, [leaf(next), crossSign(old, next)], [next])
  },
  'a cross-signed certificate that has expired, under both roots': () => {
    const [old, next] = [root(), root()]
    return pki(true, [leaf(next), crossSign(old, next, expired)], [old, next])
  },
  'a cross-signed certificate that has expired, under the old root': () => {
    const [old, next] = [root(), root()]
    return pki(false, [leaf(next), crossSign(old, next, expired)], [old])
  },
  'an expired and a valid cross-signed certificate': () => {
    const [old, next] = [root(), root()]
    return pki(true, [leaf(next), crossSign(old, next, expired), crossSign(old, next)], [old])
  },
  'an expired root beside a cross-signed path': () => {
    const old = root()
    const next = root({ key: newKey(), ...expired })
    return pki(false, [leaf(next), crossSign(old, next)], [old, next])
  },
  'an expired root and its renewal with the same key': () => {
    const a = root(expired)
    const renewed = root({ name: a.name, key: a.key })
    return pki(true, [leaf(a)], [a, renewed])
  },
  'two CAs of one name, without key identifiers': () => {
    const [a, b] = [1, 2].map(() => root({ name: 'the same', withoutKeyIds: true })) as [Certified, Certified]
    return pki(false, [leaf(b, { withoutKeyIds: true })], [a, b])
  },
  'two CAs of one name, with key identifiers': () => {
    const [a, b] = [1, 2].map(() => root({ name: 'the same' })) as [Certified, Certified]
    return pki(true, [leaf(b)], [a, b])
  },
  'an expired root': () => threeLevels(false, { top: expired }),
  'an expired issuer': () => threeLevels(false, { middle: expired }),
  'an expired issuer of the leaf': () => threeLevels(false, { low: expired }),
  'an expired leaf': () => threeLevels(false, { end: expired }),
  'an issuer that is not valid yet': () => threeLevels(false, { middle: early }),
  'a leaf that is not valid yet': () => threeLevels(false, { end: early }),
  'an issuer that is not a CA': () => threeLevels(false, { low: { isCa: false } }),
  'an issuer without keyCertSign': () => threeLevels(false, { low: { keyUsage: [KEY_USAGE.cRLSign] } }),
  'an issuer without any key usage': () => threeLevels(true, { low: { keyUsage: null } }),
  'a path length that is exceeded': () => threeLevels(false, { middle: { pathLength: 0 } }),
  'a path length that is reached': () => threeLevels(true, { middle: { pathLength: 1 } }),
  'a path length of the root that is exceeded': () => threeLevels(false, { top: { pathLength: 1 } }),
  'a path length of the root that is reached': () => threeLevels(true, { top: { pathLength: 2 } }),
  'an issuer for code signing only': () =>
    threeLevels(false, { middle: { extendedKeyUsage: [CODE_SIGNING] } }),
  'an issuer for TLS clients and servers': () =>
    threeLevels(true, { middle: { extendedKeyUsage: TLS_USAGES } }),
  'a root for code signing only': () => threeLevels(false, { top: { extendedKeyUsage: [CODE_SIGNING] } }),
  'RSA of 2048 bits': () =>
    threeLevels(true, {
      top: { keyKind: 'rsa-2048' },
      low: { keyKind: 'rsa-2048' },
      end: { keyKind: 'rsa-2048' },
    }),
  'an EC leaf under an RSA root': () => threeLevels(true, { top: { keyKind: 'rsa-2048' } }),
  'an RSA leaf under an EC root': () => threeLevels(true, { end: { keyKind: 'rsa-2048' } }),
  'P-384 and SHA-384': () => threeLevels(true, { middle: { keyKind: 'ec-p384' }, low: { digest: 'sha384' } }),
  'an Ed25519 CA': () => threeLevels(true, { low: { keyKind: 'ed25519' } }),
  'a leaf with RSA of 1024 bits': () => threeLevels(false, { end: { keyKind: 'rsa-1024' } }),
  'an issuer with RSA of 1024 bits': () => threeLevels(false, { middle: { keyKind: 'rsa-1024' } }),
  'a root with RSA of 1024 bits': () => threeLevels(false, { top: { keyKind: 'rsa-1024' } }),
  'an issuer with P-192': () => threeLevels(false, { middle: { keyKind: 'ec-p192' } }),
  'a leaf that is signed with SHA-1': () => threeLevels(false, { end: { digest: 'sha1' } }),
  'an issuer that is signed with SHA-1': () => threeLevels(false, { middle: { digest: 'sha1' } }),
  'a root that is signed with SHA-1': () => threeLevels(true, { top: { digest: 'sha1' } }),
  'an RSA issuer that is signed with SHA-1': () =>
    threeLevels(false, { top: { keyKind: 'rsa-2048' }, middle: { digest: 'sha1' } }),
}

function acceptedByLibrary({ chain, anchors }: Pki): boolean {
  try {
    const certificates = chain.map(({ der }) => new X509Certificate(der))
    const expiry = verifyPath(
      certificates,
      anchors.map(({ x509 }) => x509),
      Date.now(),
      [CLIENT_AUTH, SERVER_AUTH],
    )
    assert.ok(expiry > Date.now())
    return true
  } catch {
    return false
  }
}

async function acceptedByOpenSsl({ chain, anchors }: Pki): Promise<boolean> {
  const generation = {
    leaf: { chainPem: chain.map(({ pem }) => pem).join('') },
    privateKeyPem: privateKeyPem(chain[0]!),
    roots: { pems: anchors.map(({ pem }) => pem) },
    tls: { ecdhCurve: 'auto', minVersion: 'TLSv1.2' },
  } as unknown as Generation
  return selfHandshake(generation).then(
    () => true,
    () => false,
  )
}

describe('the library and OpenSSL agree on', () => {
  for (const [name, make] of Object.entries(rows)) {
    it(name, async () => {
      const row = make()
      const verdicts = { library: acceptedByLibrary(row), openSsl: await acceptedByOpenSsl(row) }
      assert.deepEqual(verdicts, { library: row.isValid, openSsl: row.isValid })
    })
  }
})

describe('verifyPath', () => {
  it('returns the earliest expiry of the path', () => {
    const day = (days: number): Date => new Date(Math.floor(future(days).getTime() / 1_000) * 1_000)
    const a = root({ notAfter: day(9) })
    const b = ca(a, { notAfter: day(3) })
    const end = leaf(b, { notAfter: day(20) })
    const expiry = (anchors: readonly Certified[]): number =>
      verifyPath(
        parsePemCertificates(end.pem + b.pem),
        anchors.map(({ x509 }) => x509),
        Date.now(),
        [],
      )
    assert.equal(expiry([a]), day(3).getTime())
    assert.equal(expiry([ca(root(), { name: b.name, key: b.key, notAfter: day(5) })]), day(5).getTime())
  })

  it('reports why no path is valid', () => {
    const reason = ({ chain, anchors }: Pki): string => {
      try {
        verifyPath(
          chain.map(({ x509 }) => x509),
          anchors.map(({ x509 }) => x509),
          Date.now(),
          [],
        )
        return 'valid'
      } catch (error) {
        return (error as Error).message
      }
    }
    assert.match(reason(threeLevels(false, { middle: expired })), /^"CN=CA \d+" expired at/)
    assert.match(reason(threeLevels(false, { low: { isCa: false } })), /is not a CA certificate$/)
    assert.match(reason(pki(false, [leaf(root())], [root()])), /^no path to any of the 1 CA roots/)
  })
})

describe('tlsServerOptions', () => {
  const options = (...anchors: Certified[]): unknown => {
    const certificates = anchors.map(({ x509 }) => x509)
    const roots = { certificates, pems: certificates.map(String) }
    return tlsServerOptions({ leaf: {}, privateKeyPem: '', roots, tls: {} } as unknown as Generation)
  }

  it('throws when no root is self-signed, because tls.createServer cannot use such roots', () => {
    const external = root()
    assert.throws(() => options(ca(external), ca(external)), { code: 'ERR_CONNECT_ROOTS' })
    assert.ok(options(ca(external), external))
  })
})
