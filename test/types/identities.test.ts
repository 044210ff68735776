// Type tests of SPIFFE IDs and TLS options. The compiler checks them; nothing runs.
import type * as http2 from 'node:http2'
import type * as https from 'node:https'
import { describe, it } from 'node:test'
import type * as tls from 'node:tls'
import { expectTypeOf } from 'expect-type'
import {
  type Leaf,
  type Peer,
  type ServiceId,
  SpiffeId,
  type SpiffeIdParts,
  type TlsClientOptions,
  type TlsServerOptions,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('types: SpiffeId', () => {
  it('is created by parsing a URI or for a service only', () => {
    compiled(() => [
      SpiffeId.service({ trustDomain: 'x.consul', datacenter: 'dc1', service: 'web' }),
      SpiffeId.service({ trustDomain: 'x', partition: 'p', namespace: 'n', datacenter: 'd', service: 's' }),
      // @ts-expect-error -- a URL object normalizes percent-encoding and dots, which an ID must keep
      SpiffeId.parse(new URL('spiffe://x.consul')),
      // @ts-expect-error -- the datacenter is missing
      SpiffeId.service({ trustDomain: 'x.consul', service: 'web' }),
      // @ts-expect-error -- unknown key
      SpiffeId.service({ trustDomain: 'x.consul', datacenter: 'dc1', service: 'web', ns: 'n' }),
    ])
    compiled((parts: SpiffeIdParts) => {
      // @ts-expect-error -- a public constructor would accept unchecked parts
      new SpiffeId(parts)
    })
  })

  it('compares with another SpiffeId, not with text', () => {
    compiled((id: SpiffeId) => {
      id.equals(SpiffeId.parse('spiffe://x.consul'))
      // @ts-expect-error -- a text may be another spelling of the same ID
      id.equals('spiffe://x.consul')
    })
  })

  it('narrows its parts by kind', () => {
    compiled(({ parts }: SpiffeId) => {
      switch (parts.kind) {
        case 'service':
          expectTypeOf(parts).toEqualTypeOf<ServiceId>()
          return parts.service
        case 'agent':
          expectTypeOf(parts).not.toHaveProperty('service')
          return parts.agentId
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
    // The kind must be checked first: the ID may not be that of a service.
    expectTypeOf<SpiffeIdParts>().not.toHaveProperty('service')
    compiled(
      ({ parts }: SpiffeId) =>
        // @ts-expect-error -- unknown kind
        parts.kind === 'gateway',
    )
  })
})

describe('types: identities', () => {
  it('are read-only', () => {
    compiled((id: SpiffeId, parts: SpiffeIdParts, peer: Peer, leaf: Leaf) => {
      // @ts-expect-error -- read-only
      id.parts = parts
      // @ts-expect-error -- read-only
      id.parts.trustDomain = 'x.consul'
      // @ts-expect-error -- read-only
      peer.service = 'api'
      // @ts-expect-error -- read-only
      leaf.chainPem = 'PEM'
    })
  })

  it('do not contain the private key of the leaf', () => {
    expectTypeOf<Extract<keyof Leaf, `${string}${'k' | 'K'}ey${string}`>>().toBeNever()
  })
})

describe('types: TLS options', () => {
  it('are accepted by the servers of Node.js', () => {
    expectTypeOf<TlsServerOptions>().toExtend<
      tls.TlsOptions & tls.SecureContextOptions & https.ServerOptions & http2.SecureServerOptions
    >()
  })

  it('are accepted by the clients of Node.js', () => {
    expectTypeOf<TlsClientOptions>().toExtend<
      tls.ConnectionOptions & https.AgentOptions & https.RequestOptions & http2.SecureClientSessionOptions
    >()
  })

  it('do not compile when verification is turned off', () => {
    expectTypeOf<TlsServerOptions['requestCert']>().toEqualTypeOf<true>()
    expectTypeOf<TlsClientOptions['rejectUnauthorized']>().toEqualTypeOf<true>()
    expectTypeOf<TlsClientOptions['checkServerIdentity']>().returns.toEqualTypeOf<Error | undefined>()
    compiled((client: TlsClientOptions, server: TlsServerOptions) => {
      // @ts-expect-error -- read-only
      client.rejectUnauthorized = true
      // @ts-expect-error -- would accept unverified clients
      const open: TlsServerOptions = { ...server, rejectUnauthorized: false }
      // @ts-expect-error -- would accept clients without a certificate
      const anonymous: TlsServerOptions = { ...server, requestCert: false }
      // @ts-expect-error -- a resumed session would skip the verification
      const resuming: TlsClientOptions = { ...client, maxCachedSessions: 100 }
      return [open, anonymous, resuming]
    })
  })
})
