// Types of what a Service, a Forward and a proxy's configuration tell; the compiler is who checks them.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type {
  DeniedError,
  DecisionBasis,
  Forward,
  ForwardConnection,
  ForwardEvents,
  Leaf,
  Peer,
  RevokedError,
  Roots,
  Service,
  ServiceEvents,
  Staleness,
} from '../../src/index.js'
import type { ProxyConfig, ProxyConfigEvents, ProxyConfigSource } from '../../src/proxy.js'
import { compiled } from './compiled.js'

describe('the events of a Service', () => {
  it('are these', () => {
    expectTypeOf<keyof ServiceEvents>().toEqualTypeOf<
      | 'rotated'
      | 'roots'
      | 'denied'
      | 'revoked'
      | 'decisions'
      | 'stale'
      | 'fresh'
      | 'rejected'
      | 'warning'
      | 'closed'
    >()
  })

  it('come with what they tell of', () => {
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
          expectTypeOf(error.peer).toEqualTypeOf<Peer>()
          expectTypeOf(error.basis).toEqualTypeOf<DecisionBasis>()
        })
        .on('revoked', (error) => {
          expectTypeOf(error).toEqualTypeOf<RevokedError>()
          expectTypeOf(error.ageMs).toBeNumber()
        })
        .on('stale', (staleness) => {
          expectTypeOf(staleness).toEqualTypeOf<Staleness>()
          expectTypeOf(staleness.deniesAt).toEqualTypeOf<Date>()
          expectTypeOf(staleness.cause).toEqualTypeOf<Error>()
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
        web.on(event, (...nothing) => {
          expectTypeOf(nothing).toEqualTypeOf<[]>()
        }),
      ),
    )
  })

  it('are listened to in every way of an emitter', () => {
    compiled((web: Service, listener: (leaf: Leaf) => void) => [
      web.on('rotated', listener).once('rotated', listener).off('rotated', listener),
      web.addListener('rotated', listener).removeListener('rotated', listener),
      web.removeAllListeners('rotated').removeAllListeners(),
      web.listenerCount('rotated'),
    ])
  })

  it('have no other names and no other arguments', () => {
    compiled((web: Service, takesRoots: (roots: Roots) => void, ignore: () => void) => [
      // @ts-expect-error -- there is no such event
      web.on('rotate', ignore),
      // @ts-expect-error -- ready() says it
      web.once('ready', ignore),
      // @ts-expect-error -- what goes wrong is a warning, or rejects what was asked for
      web.on('error', ignore),
      // @ts-expect-error -- a leaf comes with it
      web.on('rotated', takesRoots),
      // @ts-expect-error -- nothing comes with it
      web.on('closed', takesRoots),
      // @ts-expect-error -- a listener is a function
      web.on('closed', 'ignore'),
      // @ts-expect-error -- the event comes first
      web.on(ignore, 'closed'),
      // @ts-expect-error -- there is no such event
      web.off('rotate', ignore),
    ])
  })
})

describe('the events of a Forward', () => {
  it('each come with the connection', () => {
    expectTypeOf<keyof ForwardEvents>().toEqualTypeOf<'accepted' | 'dialed' | 'ended'>()
    compiled((door: Forward, ignore: () => void) => [
      (['accepted', 'dialed', 'ended'] as const).map((event) =>
        door.on(event, (connection) => {
          expectTypeOf(connection).toEqualTypeOf<ForwardConnection>()
        }),
      ),
      // @ts-expect-error -- there is no such event
      door.on('dialed', ignore),
      // @ts-expect-error -- a forward has no event for its own end
      door.on('closed', ignore),
    ])
  })

  it('tell what is known of it so far', () => {
    expectTypeOf<ForwardConnection>().toEqualTypeOf<{
      readonly sent: number
      readonly received: number
      readonly durationMs: number
      readonly dialMs: number | undefined
      readonly peer: Peer | undefined
      readonly remote: string | undefined
      readonly error: Error | undefined
    }>()
  })
})

describe("the events of a proxy's configuration", () => {
  it('come with the configuration, or with what is wrong with it', () => {
    expectTypeOf<keyof ProxyConfigEvents>().toEqualTypeOf<'changed' | 'warning'>()
    compiled((source: ProxyConfigSource, ignore: () => void) => [
      source
        .on('changed', (config) => {
          expectTypeOf(config).toEqualTypeOf<ProxyConfig>()
        })
        .on('warning', (error) => {
          expectTypeOf(error).toEqualTypeOf<Error>()
        }),
      // @ts-expect-error -- there is no such event
      source.on('change', ignore),
    ])
  })
})
