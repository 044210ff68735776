// Type tests of the events of Service, Forward, and ProxyConfigSource. The compiler checks them; nothing runs.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type {
  DeniedError,
  Forward,
  ForwardConnection,
  Leaf,
  RevokedError,
  Roots,
  Service,
  Staleness,
} from '../../src/index.js'
import type { ProxyConfig, ProxyConfigSource } from '../../src/proxy.js'
import { compiled } from './compiled.js'

describe('types: events of a Service', () => {
  it('infer the arguments of their listeners', () => {
    compiled((web: Service) =>
      web
        .on('rotated', (leaf) => {
          expectTypeOf(leaf).toEqualTypeOf<Leaf>()
        })
        .on('roots', (roots) => {
          expectTypeOf(roots).toEqualTypeOf<Roots>()
        })
        .on('denied', (error) => {
          expectTypeOf(error).toEqualTypeOf<DeniedError>()
        })
        .on('revoked', (error) => {
          expectTypeOf(error).toEqualTypeOf<RevokedError>()
        })
        .on('stale', (staleness) => {
          expectTypeOf(staleness).toEqualTypeOf<Staleness>()
        })
        .on('rejected', (error, remoteAddress) => {
          expectTypeOf(error).toEqualTypeOf<Error>()
          expectTypeOf(remoteAddress).toEqualTypeOf<string | undefined>()
        })
        .on('warning', (error) => {
          expectTypeOf(error).toEqualTypeOf<Error>()
        }),
    )
    compiled((web: Service) =>
      (['decisions', 'fresh', 'closed'] as const).map((event) =>
        web.on(event, (...args) => {
          expectTypeOf(args).toEqualTypeOf<[]>()
        }),
      ),
    )
  })

  it('work with every method of an emitter', () => {
    compiled((web: Service, listener: (leaf: Leaf) => void) => [
      web.on('rotated', listener).once('rotated', listener).off('rotated', listener),
      web.addListener('rotated', listener).removeListener('rotated', listener),
      web.removeAllListeners('rotated').removeAllListeners(),
      web.listenerCount('rotated'),
    ])
  })

  it('reject unknown names and listeners of other arguments', () => {
    compiled((web: Service, onRoots: (roots: Roots) => void, ignore: () => void) => [
      // @ts-expect-error -- unknown event
      web.on('rotate', ignore),
      // @ts-expect-error -- not an event: await `ready()`
      web.once('ready', ignore),
      // @ts-expect-error -- not an event: failures are warnings or rejections
      web.on('error', ignore),
      // @ts-expect-error -- the argument is a Leaf
      web.on('rotated', onRoots),
      // @ts-expect-error -- there is no argument
      web.on('closed', onRoots),
      // @ts-expect-error -- unknown event
      web.off('rotate', ignore),
    ])
  })
})

describe('types: events of a Forward', () => {
  it('carry the connection, and reject unknown names', () => {
    compiled((forward: Forward, ignore: () => void) => [
      (['accepted', 'dialed', 'ended'] as const).map((event) =>
        forward.on(event, (connection) => {
          expectTypeOf(connection).toEqualTypeOf<ForwardConnection>()
        }),
      ),
      // @ts-expect-error -- unknown event
      forward.on('dialled', ignore),
      // @ts-expect-error -- a Forward emits no event for its own end
      forward.on('closed', ignore),
    ])
  })
})

describe('types: events of a ProxyConfigSource', () => {
  it('carry the configuration or an error, and reject unknown names', () => {
    compiled((source: ProxyConfigSource, ignore: () => void) => [
      source
        .on('changed', (config) => {
          expectTypeOf(config).toEqualTypeOf<ProxyConfig>()
        })
        .on('warning', (error) => {
          expectTypeOf(error).toEqualTypeOf<Error>()
        }),
      // @ts-expect-error -- unknown event
      source.on('change', ignore),
    ])
  })
})
