// Types of SPIFFE IDs, certificates and TLS options; the compiler is who checks them.
import type { X509Certificate } from 'node:crypto'
import type * as http2 from 'node:http2'
import type * as https from 'node:https'
import { describe, it } from 'node:test'
import type * as tls from 'node:tls'
import { expectTypeOf } from 'expect-type'
import {
  type Leaf,
  type Peer,
  type Roots,
  type Service,
  type ServiceId,
  SpiffeId,
  type SpiffeIdParts,
  type TlsClientOptions,
  type TlsServerOptions,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('SpiffeId', () => {
  it('is parsed from a URI, or made for a service, and not otherwise', () => {
    expectTypeOf(SpiffeId.parse.bind(SpiffeId)).toEqualTypeOf<(uri: string) => SpiffeId>()
    compiled(() => [
      SpiffeId.service({ trustDomain: 'x.consul', datacenter: 'dc1', service: 'web' }),
      SpiffeId.service({ trustDomain: 'x', partition: 'p', namespace: 'n', datacenter: 'd', service: 's' }),
      // @ts-expect-error -- a URL folds what must not be folded
      SpiffeId.parse(new URL('spiffe://x.consul')),
      // @ts-expect-error -- a service is in a datacenter
      SpiffeId.service({ trustDomain: 'x.consul', service: 'web' }),
      // @ts-expect-error -- a misspelt key
      SpiffeId.service({ trustDomain: 'x.consul', datacenter: 'dc1', service: 'web', ns: 'n' }),
    ])
    compiled((parts: SpiffeIdParts) => {
      // @ts-expect-error -- its parts have not been checked
      new SpiffeId(parts)
    })
  })

  it('writes itself, and compares', () => {
    expectTypeOf<SpiffeId['toString']>().returns.toBeString()
    expectTypeOf<SpiffeId['toJSON']>().returns.toBeString()
    expectTypeOf<SpiffeId['equals']>().toEqualTypeOf<(other: SpiffeId) => boolean>()
    compiled((id: SpiffeId) => {
      // @ts-expect-error -- a text may be another spelling
      id.equals('spiffe://x.consul')
    })
  })

  it('has parts by its kind', () => {
    expectTypeOf<SpiffeId['parts']['kind']>().toEqualTypeOf<
      'service' | 'agent' | 'server' | 'mesh-gateway' | 'signing'
    >()
    compiled(({ parts }: SpiffeId) => {
      expectTypeOf(parts.trustDomain).toBeString()
      switch (parts.kind) {
        case 'service':
          expectTypeOf(parts).toEqualTypeOf<ServiceId>()
          return parts.service
        case 'agent':
          expectTypeOf(parts.agentId).toBeString()
          expectTypeOf(parts).not.toHaveProperty('service')
          return parts.partition
        case 'server':
          expectTypeOf(parts).not.toHaveProperty('partition')
          return parts.datacenter
        case 'mesh-gateway':
          expectTypeOf(parts).not.toHaveProperty('agentId')
          return parts.partition
        case 'signing':
          expectTypeOf(parts).not.toHaveProperty('datacenter')
          return parts.trustDomain
        default:
          expectTypeOf(parts).toBeNever()
          return undefined
      }
    })
    // It may be no service.
    expectTypeOf<SpiffeIdParts>().not.toHaveProperty('service')
    compiled(
      ({ parts }: SpiffeId) =>
        // @ts-expect-error -- there is no such kind
        parts.kind === 'gateway',
    )
  })

  it('does not change', () => {
    compiled((id: SpiffeId, parts: SpiffeIdParts) => {
      // @ts-expect-error -- read-only
      id.parts = parts
      // @ts-expect-error -- read-only
      id.parts.trustDomain = 'x.consul'
    })
  })
})

describe('what is known of somebody', () => {
  it('is plain and read-only of a peer', () => {
    expectTypeOf<Peer>().toEqualTypeOf<{
      readonly spiffeId: string
      readonly trustDomain: string
      readonly partition: string
      readonly namespace: string
      readonly datacenter: string
      readonly service: string
      readonly serialNumber: string
      readonly fingerprint256: string
      readonly notAfter: Date
    }>()
  })

  it('is without a key of our own certificate', () => {
    expectTypeOf<Leaf>().toEqualTypeOf<{
      readonly id: ServiceId
      readonly uri: string
      readonly serialNumber: string
      readonly notBefore: Date
      readonly notAfter: Date
      readonly expiresAt: Date
      readonly chainPem: string
    }>()
  })

  it('is a list of the roots', () => {
    expectTypeOf<Roots>().toEqualTypeOf<{
      readonly trustDomain: string
      readonly certificates: readonly X509Certificate[]
      readonly pems: readonly string[]
      readonly activeRootId: string
    }>()
  })
})

describe('TLS options', () => {
  it('are what the servers of Node take', () => {
    expectTypeOf<Service['tlsServerOptions']>().toEqualTypeOf<() => TlsServerOptions>()
    expectTypeOf<TlsServerOptions>().toExtend<tls.TlsOptions>()
    expectTypeOf<TlsServerOptions>().toExtend<tls.SecureContextOptions>()
    expectTypeOf<TlsServerOptions>().toExtend<https.ServerOptions>()
    expectTypeOf<TlsServerOptions>().toExtend<http2.SecureServerOptions>()
  })

  it('are what the clients of Node take', () => {
    expectTypeOf<Service['tlsClientOptions']>().returns.toEqualTypeOf<TlsClientOptions>()
    expectTypeOf<TlsClientOptions>().toExtend<tls.ConnectionOptions>()
    expectTypeOf<TlsClientOptions>().toExtend<https.AgentOptions>()
    expectTypeOf<TlsClientOptions>().toExtend<https.RequestOptions>()
    expectTypeOf<TlsClientOptions>().toExtend<http2.SecureClientSessionOptions>()
  })

  it('verify, whatever else they are spread into', () => {
    expectTypeOf<TlsServerOptions['requestCert']>().toEqualTypeOf<true>()
    expectTypeOf<TlsServerOptions['rejectUnauthorized']>().toEqualTypeOf<true>()
    expectTypeOf<TlsClientOptions['rejectUnauthorized']>().toEqualTypeOf<true>()
    expectTypeOf<TlsClientOptions['maxCachedSessions']>().toEqualTypeOf<0>()
    expectTypeOf<TlsClientOptions['checkServerIdentity']>().returns.toEqualTypeOf<Error | undefined>()
    compiled((client: TlsClientOptions, server: TlsServerOptions) => {
      // @ts-expect-error -- read-only
      client.rejectUnauthorized = true
      // @ts-expect-error -- nobody is let in unverified
      const open: TlsServerOptions = { ...server, rejectUnauthorized: false }
      // @ts-expect-error -- a resumed session would skip the check
      const resuming: TlsClientOptions = { ...client, maxCachedSessions: 100 }
      return [open, resuming]
    })
  })
})
