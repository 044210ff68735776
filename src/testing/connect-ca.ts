import { TestCa } from './ca.js'
import type { IssuedCertificate } from './ca-options.js'
import type { Changes } from './changes.js'
import { formatDuration } from './duration.js'
import type { JsonObject } from './json.js'

const minute = 60_000

interface Root {
  ca: TestCa
  /** The root's certificate as the one before it signed it. */
  crossSigned: string | undefined
  createIndex: number
  modifyIndex: number
}

export interface Leaf {
  service: string
  issued: IssuedCertificate
  ca: TestCa
  issuedAt: number
  renewAt: number
  index: number
}

/** The mesh's certificate authority as an agent shows it: its roots, and one leaf for each service. */
export class ConnectCa {
  readonly trustDomain: string
  readonly #datacenter: string
  readonly #changes: Changes
  readonly #leaves = new Map<string, Leaf>()
  readonly #configIndex: number
  #roots: Root[] = []
  #config: JsonObject
  leafTtlMs: number

  constructor(changes: Changes, options: { datacenter: string; leafTtlMs: number; trustDomain?: string }) {
    this.#changes = changes
    this.#datacenter = options.datacenter
    this.leafTtlMs = options.leafTtlMs
    this.#configIndex = changes.touch('ca-config')
    this.#config = {
      IntermediateCertTTL: '8760h',
      LeafCertTTL: formatDuration(options.leafTtlMs),
      RotationPeriod: '2160h',
    }
    const ca = TestCa.create(options.trustDomain === undefined ? {} : { trustDomain: options.trustDomain })
    this.trustDomain = ca.trustDomain
    this.#add(ca, undefined)
  }

  /** The CA that signs now. */
  get ca(): TestCa {
    return this.#active().ca
  }

  get rootsIndex(): number {
    return this.#changes.modified('roots')
  }

  /** A new root signs from now on; the old one stays listed until `dropOldRoots`. */
  rotate(options: { crossSign: boolean; privateKeyPem?: string }): void {
    const old = this.ca
    const next = TestCa.create({
      trustDomain: this.trustDomain,
      serial: old.nextSerial + 1n,
      ...(options.privateKeyPem === undefined ? {} : { privateKeyPem: options.privateKeyPem }),
    })
    this.#add(next, options.crossSign ? old.crossSign(next) : undefined)
  }

  dropOldRoots(): void {
    if (this.#roots.length > 1) {
      this.#roots = this.#roots.slice(-1)
      this.#changes.touch('roots')
    }
  }

  /** The leaf as it lies in the agent's cache, or a first one. */
  leaf(service: string): Leaf {
    const leaf = this.#leaves.get(service)
    return leaf && leaf.renewAt > Date.now() ? leaf : this.renew(service)
  }

  /**
   * As `leaf`, but of the current root: the result of a blocking query. Without one, Consul keeps returning the leaf of
   * the old root.
   */
  watchedLeaf(service: string): Leaf {
    const leaf = this.leaf(service)
    return leaf.ca === this.ca ? leaf : this.renew(service)
  }

  /** Issues a new leaf now. */
  renew(service: string): Leaf {
    const now = Date.now()
    // Certificates count whole seconds: a leaf for a test's few seconds must not lose them to the backdating.
    const notBefore = now - Math.min(minute, this.leafTtlMs / 10)
    const notAfter = notBefore + this.leafTtlMs
    const { ca, crossSigned } = this.#active()
    const issued = ca.issue({
      service,
      datacenter: this.#datacenter,
      notBefore: new Date(notBefore),
      notAfter: new Date(notAfter),
      intermediates: crossSigned === undefined ? [] : [crossSigned],
    })
    // Consul renews at a random point between 60 and 90 % of the life.
    const renewAt = now + (notAfter - now) * (0.6 + 0.3 * Math.random())
    const index = this.#changes.touch(`leaf:${service}`)
    const leaf: Leaf = { service, issued, ca, issuedAt: now, renewAt, index }
    this.#leaves.set(service, leaf)
    return leaf
  }

  /** The PEM certificates of all roots. */
  rootsPem(): string {
    return this.#byId()
      .map(({ ca }) => ca.rootPem)
      .join('')
  }

  rootsJson(): JsonObject {
    return {
      ActiveRootID: rootId(this.ca),
      TrustDomain: this.trustDomain,
      Roots: this.#byId().map((root) => rootJson(root, root.ca === this.ca)),
    }
  }

  leafJson(leaf: Leaf): JsonObject {
    const { certificate, chainPem, privateKeyPem } = leaf.issued
    return {
      SerialNumber: colons(certificate.serialNumber.toLowerCase()),
      CertPEM: chainPem,
      PrivateKeyPEM: privateKeyPem,
      Service: leaf.service,
      ServiceURI: `spiffe://${this.trustDomain}/ns/default/dc/${this.#datacenter}/svc/${encodeURIComponent(leaf.service)}`,
      ValidAfter: rfc3339(certificate.validFrom),
      ValidBefore: rfc3339(certificate.validTo),
      CreateIndex: leaf.index,
      ModifyIndex: leaf.index,
    }
  }

  /** Takes new settings, which Consul then shows just as they were sent. */
  configure(config: JsonObject, leafTtlMs: number): void {
    this.#config = config
    this.leafTtlMs = leafTtlMs
    this.#changes.touch('ca-config')
  }

  configurationJson(): JsonObject {
    return {
      Provider: 'consul',
      Config: this.#config,
      State: null,
      ForceWithoutCrossSigning: false,
      CreateIndex: this.#configIndex,
      ModifyIndex: this.#changes.modified('ca-config'),
    }
  }

  /** Consul's order, which says nothing about age. */
  #byId(): Root[] {
    return [...this.#roots].sort((a, b) => (rootId(a.ca) < rootId(b.ca) ? -1 : 1))
  }

  #active(): Root {
    const active = this.#roots.at(-1)
    if (!active) throw new Error('the mesh has no CA')
    return active
  }

  #add(ca: TestCa, crossSigned: string | undefined): void {
    const index = this.#changes.touch('roots')
    this.#roots = this.#roots.map((root) => ({ ...root, modifyIndex: index }))
    this.#roots.push({ ca, crossSigned, createIndex: index, modifyIndex: index })
  }
}

function rootJson({ ca, crossSigned, createIndex, modifyIndex }: Root, active: boolean): JsonObject {
  const intermediates = crossSigned === undefined ? null : [crossSigned]
  return {
    ID: rootId(ca),
    Name: 'Consul CA Root Cert',
    SerialNumber: Number(BigInt(`0x${ca.root.serialNumber}`)),
    SigningKeyID: colons(ca.keyId.toString('hex')),
    ExternalTrustDomain: ca.trustDomain.replace(/\.consul$/, ''),
    NotBefore: rfc3339(ca.root.validFrom),
    NotAfter: rfc3339(ca.root.validTo),
    RootCert: ca.rootPem,
    IntermediateCerts: intermediates,
    Active: active,
    PrivateKeyType: 'ec',
    PrivateKeyBits: 256,
    CreateIndex: createIndex,
    ModifyIndex: modifyIndex,
  }
}

function rootId(ca: TestCa): string {
  return ca.root.fingerprint.toLowerCase()
}

function colons(hex: string): string {
  const even = hex.length % 2 === 0 ? hex : `0${hex}`
  return even.match(/../g)?.join(':') ?? ''
}

function rfc3339(date: string): string {
  return new Date(date).toISOString().replace('.000Z', 'Z')
}
