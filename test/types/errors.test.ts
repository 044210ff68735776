// Type tests of errors, error codes, and messages of diagnostics channels. The compiler checks them; nothing runs.
import { subscribe } from 'node:diagnostics_channel'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type * as library from '../../src/index.js'
import {
  type ChannelMessages,
  ConnectError,
  type DecisionBasis,
  type DialAttempt,
  DialError,
  ERROR_CODES,
  type ErrorCode,
  type Peer,
} from '../../src/index.js'
import { compiled } from './compiled.js'

type Library = typeof library
type ErrorClass = {
  [Name in keyof Library]: Name extends `${string}Error` ? Library[Name] : never
}[keyof Library]

describe('types: error classes', () => {
  it('extend ConnectError', () => {
    expectTypeOf<InstanceType<ErrorClass>>().toExtend<ConnectError>()
    expectTypeOf<ConnectError>().toExtend<Error>()
  })

  it('narrow an unknown value with instanceof', () => {
    compiled((error: unknown) => {
      if (error instanceof DialError) {
        expectTypeOf(error.attempts).toEqualTypeOf<readonly DialAttempt[]>()
      } else if (error instanceof ConnectError) {
        expectTypeOf(error.code).toEqualTypeOf<ErrorCode>()
        // @ts-expect-error -- only some classes have attempts
        expectTypeOf(error.attempts).toBeArray()
        // @ts-expect-error -- read-only
        error.code = 'ERR_CONNECT_OPTION'
      }
    })
  })

  it('can be constructed and extended by authors of resolvers, with codes of this library', () => {
    class NoSuchShard extends DialError {}
    expectTypeOf<NoSuchShard>().toExtend<DialError>()
    compiled((cause: unknown) => [
      new NoSuchShard('ERR_CONNECT_NO_INSTANCES', 'shard-7', 'no host', { cause, reason: 'empty' }),
      // @ts-expect-error -- the code comes first
      new DialError('shard-7', 'no host'),
      // @ts-expect-error -- unknown code
      new ConnectError('ERR_SHARD', 'no host'),
      // @ts-expect-error -- unknown reason
      new DialError('ERR_CONNECT_NO_INSTANCES', 'shard-7', 'no host', { reason: 'lost' }),
    ])
  })
})

describe('types: error codes', () => {
  it('are a closed set of strings with a read-only table of descriptions', () => {
    expectTypeOf<keyof typeof ERROR_CODES>().toEqualTypeOf<ErrorCode>()
    expectTypeOf<string>().not.toExtend<ErrorCode>()
    compiled((error: ConnectError) => {
      // @ts-expect-error -- unknown code
      if (error.code === 'ERR_CONNECT_REFUSED') return
      // @ts-expect-error -- read-only
      ERROR_CODES.ERR_CONNECT_OPTION = 'other text'
    })
  })
})

describe('types: ChannelMessages', () => {
  it('infers the message from the name of the channel', () => {
    compiled(
      (listen: <K extends keyof ChannelMessages>(name: K, on: (m: ChannelMessages[K]) => void) => void) => {
        listen('consul-connect:dial', ({ attempts, peer }) => {
          expectTypeOf(attempts).toEqualTypeOf<readonly DialAttempt[]>()
          expectTypeOf(peer).toEqualTypeOf<Peer | undefined>()
        })
        // @ts-expect-error -- unknown channel
        listen('consul-connect:dials', () => undefined)
      },
    )
  })

  it('types messages that node:diagnostics_channel leaves unknown', () => {
    compiled(() => {
      subscribe('consul-connect:decision', (message) => {
        const { peer, basis } = message as ChannelMessages['consul-connect:decision']
        expectTypeOf(peer).toEqualTypeOf<Peer>()
        expectTypeOf(basis).toEqualTypeOf<DecisionBasis>()
      })
    })
  })
})
