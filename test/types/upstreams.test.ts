// Types of what can be dialled, and of resolvers; the compiler is who checks them.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type {
  AddressTarget,
  DnsTarget,
  Endpoint,
  ExpectedIdentity,
  QueryTarget,
  ResolveRequest,
  Resolver,
  Service,
  ServiceTarget,
  Upstream,
} from '../../src/index.js'
import { compiled } from './compiled.js'

/** Takes an upstream as `dial` does, and does nothing with it. */
function upstream(given: Upstream): Upstream {
  return given
}

describe('an upstream', () => {
  it('is a name, or a service with more said about its instances', () => {
    upstream('api')
    upstream({ service: 'api' })
    upstream({ service: 'api', datacenter: 'dc2', namespace: 'n', partition: 'p' })
    upstream({
      service: 'api',
      tags: ['blue'],
      near: '_agent',
      filter: 'Service.Port == 1',
      onlyPassing: false,
    })
    expectTypeOf<ServiceTarget>().toExtend<Upstream>()
  })

  it('is a prepared query', () => {
    upstream({ query: 'nearest-api' })
    upstream({ query: 'nearest-api', near: '_agent', datacenter: 'dc2' })
    expectTypeOf<QueryTarget>().toExtend<Upstream>()
  })

  it('is a DNS name, with the service that must be there', () => {
    upstream({ dns: 'api.connect.consul', service: 'api' })
    expectTypeOf<DnsTarget>().toExtend<Upstream>()
  })

  it('is an address or several, with the service that must be there', () => {
    upstream({ address: '10.0.0.7:8181', service: 'api' })
    upstream({ address: ['10.0.0.7:8181', '[::1]:8181'], service: 'api', datacenter: 'dc2' })
    expectTypeOf<AddressTarget>().toExtend<Upstream>()
  })

  it('may have what was left out as undefined, and what is never changed', () => {
    const tags = ['blue'] as const
    upstream({ service: 'api', datacenter: undefined, tags, near: undefined, onlyPassing: undefined })
    expectTypeOf<{ readonly service: 'api'; readonly tags: readonly ['blue'] }>().toExtend<Upstream>()
  })

  it('is the same for every verb', () => {
    expectTypeOf<Service['dial']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['resolve']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['forward']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['stream']>().parameter(0).toEqualTypeOf<Upstream>()
  })

  it('is nothing else', () => {
    compiled(() => {
      // @ts-expect-error -- an address says nothing of who must be there
      upstream({ address: '10.0.0.7:8181' })
      // @ts-expect-error -- nor does DNS
      upstream({ dns: 'api.connect.consul' })
      // @ts-expect-error -- nor does nothing
      upstream({})
      // @ts-expect-error -- where it is makes no service
      upstream({ datacenter: 'dc2' })
      // @ts-expect-error -- a misspelt key
      upstream({ service: 'api', tag: 'blue' })
      // @ts-expect-error -- tags are a list
      upstream({ service: 'api', tags: 'blue' })
      // @ts-expect-error -- a name is a text
      upstream({ service: 1 })
      // @ts-expect-error -- only true and false
      upstream({ service: 'api', onlyPassing: 'yes' })
      // @ts-expect-error -- a port belongs into an address
      upstream({ service: 'api', port: 8181 })
      // @ts-expect-error -- an address is a text, with its port
      upstream({ address: 8181, service: 'api' })
      // @ts-expect-error -- a list is for addresses alone
      upstream(['api', 'db'])
      // @ts-expect-error -- a URL is for fetch
      upstream(new URL('https://api.service.consul'))
      // @ts-expect-error -- nothing to dial
      upstream(undefined)
      // @ts-expect-error -- nothing to dial
      upstream(null)
    })
    compiled((target: ServiceTarget, others: AddressTarget) => {
      // @ts-expect-error -- read-only
      target.service = 'other'
      // @ts-expect-error -- read-only
      others.address = '10.0.0.8:8181'
    })
  })
})

describe('who must be there', () => {
  it('is a service, and where it is', () => {
    expectTypeOf<Service['tlsClientOptions']>().parameter(0).toEqualTypeOf<string | ExpectedIdentity>()
    compiled((web: Service) => [
      web.tlsClientOptions('api'),
      web.tlsClientOptions({ service: 'api', namespace: 'n', partition: 'p', datacenter: undefined }),
      // @ts-expect-error -- tags are nothing that a certificate proves
      web.tlsClientOptions({ service: 'api', tags: ['blue'] }),
      // @ts-expect-error -- whoever answers is nobody in particular
      web.tlsClientOptions(),
      // @ts-expect-error -- a query names no service
      web.tlsClientOptions({ query: 'api' }),
    ])
  })
})

describe('a resolver', () => {
  const identity = { service: 'api' }

  it('answers at once or later, with a list that nobody needs to change', () => {
    upstream({ name: 'static', resolve: () => [{ host: '10.0.0.7', port: 8181, identity }] })
    upstream({ name: 'later', resolve: () => Promise.resolve([]) })
    upstream({ name: 'sorted', isSorted: true, resolve: (): readonly Endpoint[] => [] })
    upstream({
      name: 'asked',
      lastError: undefined,
      resolve: ({ signal, datacenter, refresh }) => {
        expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
        expectTypeOf(datacenter).toBeString()
        expectTypeOf(refresh).toBeBoolean()
        return [{ host: '10.0.0.7', port: 8181, identity: { service: 'api', datacenter }, weight: 2 }]
      },
    })
  })

  it('may be a class', () => {
    class Fixed implements Resolver {
      readonly name = 'fixed'
      lastError: Error | undefined
      resolve(request: ResolveRequest): readonly Endpoint[] {
        request.signal.throwIfAborted()
        return [{ host: '10.0.0.7', port: 8181, identity, weight: undefined }]
      }
    }
    upstream(new Fixed())
  })

  it('says of each endpoint where it is and who must be there', () => {
    expectTypeOf<Endpoint>().toEqualTypeOf<{
      readonly host: string
      readonly port: number
      readonly identity: ExpectedIdentity
      readonly weight?: number | undefined
    }>()
    compiled(() => {
      // @ts-expect-error -- an endpoint has an identity
      upstream({ name: 'x', resolve: () => [{ host: '10.0.0.7', port: 8181 }] })
      // @ts-expect-error -- which is a service, and where
      upstream({ name: 'x', resolve: () => [{ host: '10.0.0.7', port: 8181, identity: 'api' }] })
      // @ts-expect-error -- a port is a number
      upstream({ name: 'x', resolve: () => [{ host: '10.0.0.7', port: '8181', identity }] })
      // @ts-expect-error -- and apart from the host
      upstream({ name: 'x', resolve: () => ['10.0.0.7:8181'] })
      // @ts-expect-error -- errors call it by its name
      upstream({ resolve: () => [] })
      // @ts-expect-error -- it answers
      upstream({ name: 'x', resolve: () => undefined })
      // @ts-expect-error -- it is asked, each time
      upstream({ name: 'x', resolve: [] })
      // @ts-expect-error -- a function alone has no name
      upstream(() => [])
    })
  })
})
