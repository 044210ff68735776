import { serviceUri, TestCa } from './ca.js'
import type { IssuedCertificate } from './ca-options.js'
import type { Changes } from '../state/changes.js'
import type { JsonObject } from '../http/http.js'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

interface Root {
  readonly ca: TestCa
  /** The certificate of this root, signed by the root before it. */
  readonly crossSigned: string | undefined
  readonly createIndex: number
}

export interface Leaf {
  readonly service: string
  readonly issued: IssuedCertificate
  readonly ca: TestCa
  /** In milliseconds since the epoch. */
  readonly renewAt: number
  readonly index: number
}

/** The CA of the mesh as an agent shows it: the roots, and one leaf for each service. */
export class ConnectCa {
  readonly trustDomain: string
  readonly #datacenter: string
  readonly #changes: Changes
  readonly #leaves = new Map<string, Leaf>()
  /** The root that signs. */
  #active: Root
  #oldRoots: Root[] = []
  #config: JsonObject
  leafTtlMs: number

  constructor(
    changes: Changes,
    options: { datacenter: string; leafTtlMs: number; trustDomain: string | undefined },
  ) {
    this.#changes = changes
    this.#datacenter = options.datacenter
    this.leafTtlMs = options.leafTtlMs
    const LeafCertTTL = `${options.leafTtlMs / HOUR_MS}h`
    this.#config = { IntermediateCertTTL: '8760h', LeafCertTTL, RotationPeriod: '2160h' }
    const ca = TestCa.create(options.trustDomain === undefined ? {} : { trustDomain: options.trustDomain })
    this.trustDomain = ca.trustDomain
    this.#active = { ca, crossSigned: undefined, createIndex: changes.touch('roots') }
  }

  /** The CA that signs. */
  get ca(): TestCa {
    return this.#active.ca
  }

  get rootsIndex(): number {
    return this.#changes.modified('roots')
  }

  /** Adds a root that signs from now on. The old root stays in the list until `dropOldRoots`. */
  rotate(options: { crossSign: boolean; privateKeyPem?: string }): void {
    const old = this.ca
    const { privateKeyPem } = options
    const ca = TestCa.create({
      trustDomain: this.trustDomain,
      serial: old.nextSerial + 1n,
      ...(privateKeyPem === undefined ? {} : { privateKeyPem }),
    })
    const crossSigned = options.crossSign ? old.crossSign(ca) : undefined
    this.#oldRoots.push(this.#active)
    this.#active = { ca, crossSigned, createIndex: this.#changes.touch('roots') }
  }

  dropOldRoots(): void {
    if (this.#oldRoots.length > 0) this.#changes.touch('roots')
    this.#oldRoots = []
  }

  /** Returns the cached leaf, or a new leaf if there is none or it is due for renewal. */
  leaf(service: string): Leaf {
    const leaf = this.#leaves.get(service)
    return leaf && leaf.renewAt > Date.now() ? leaf : this.renew(service)
  }

  /**
   * Returns a leaf of the current root, for a blocking query. Without a blocking query, Consul continues to return the
   * leaf of the old root.
   */
  watchedLeaf(service: string): Leaf {
    const leaf = this.leaf(service)
    return leaf.ca === this.ca ? leaf : this.renew(service)
  }

  /** Issues a new leaf. */
  renew(service: string): Leaf {
    const now = Date.now()
    // The backdating must not use up the lifetime of a leaf of a few seconds.
    const notBefore = now - Math.min(MINUTE_MS, this.leafTtlMs / 10)
    const notAfter = notBefore + this.leafTtlMs
    const { ca, crossSigned } = this.#active
    const issued = ca.issue({
      service,
      datacenter: this.#datacenter,
      notBefore: new Date(notBefore),
      notAfter: new Date(notAfter),
      intermediates: crossSigned === undefined ? [] : [crossSigned],
    })
    // Consul renews at a random time between 60 and 90 % of the lifetime.
    const renewAt = now + (notAfter - now) * (0.6 + 0.3 * Math.random())
    const index = this.#changes.touch(`leaf:${service}`)
    const leaf: Leaf = { service, issued, ca, renewAt, index }
    this.#leaves.set(service, leaf)
    return leaf
  }

  /** Sets the configuration, which Consul returns as it was sent. */
  configure(config: JsonObject, leafTtlMs: number): void {
    this.#config = config
    this.leafTtlMs = leafTtlMs
  }

  configurationJson(): JsonObject {
    return { Provider: 'consul', Config: this.#config, State: null, ForceWithoutCrossSigning: false }
  }

  rootsJson(): JsonObject {
    // Consul orders roots by ID, not by age.
    const roots = [...this.#oldRoots, this.#active].map((root) => this.#rootJson(root))
    roots.sort((a, b) => (a.ID < b.ID ? -1 : 1))
    return { ActiveRootID: rootId(this.ca), TrustDomain: this.trustDomain, Roots: roots }
  }

  leafJson({ service, issued, index }: Leaf): JsonObject {
    const { certificate, chainPem, privateKeyPem } = issued
    return {
      SerialNumber: withColons(certificate.serialNumber.toLowerCase()),
      CertPEM: chainPem,
      PrivateKeyPEM: privateKeyPem,
      Service: service,
      ServiceURI: serviceUri(this.trustDomain, this.#datacenter, service),
      ValidAfter: rfc3339(certificate.validFrom),
      ValidBefore: rfc3339(certificate.validTo),
      CreateIndex: index,
      ModifyIndex: index,
    }
  }

  #rootJson({ ca, crossSigned, createIndex }: Root): JsonObject & { ID: string } {
    return {
      ID: rootId(ca),
      Name: 'Consul CA Root Cert',
      SerialNumber: Number(BigInt(`0x${ca.root.serialNumber}`)),
      SigningKeyID: withColons(ca.keyId.toString('hex')),
      ExternalTrustDomain: ca.trustDomain.replace(/\.consul$/, ''),
      NotBefore: rfc3339(ca.root.validFrom),
      NotAfter: rfc3339(ca.root.validTo),
      RootCert: ca.rootPem,
      IntermediateCerts: crossSigned === undefined ? null : [crossSigned],
      Active: ca === this.ca,
      PrivateKeyType: 'ec',
      PrivateKeyBits: 256,
      CreateIndex: createIndex,
      ModifyIndex: this.rootsIndex,
    }
  }
}

function rootId(ca: TestCa): string {
  return ca.root.fingerprint.toLowerCase()
}

function withColons(hex: string): string {
  const even = hex.length % 2 === 0 ? hex : `0${hex}`
  return even.match(/../g)?.join(':') ?? ''
}

function rfc3339(date: string): string {
  return new Date(date).toISOString().replace('.000Z', 'Z')
}
