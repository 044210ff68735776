// Types of errors, their codes, and of the messages of channels; the compiler is who checks them.
import { subscribe } from 'node:diagnostics_channel'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  AbortError,
  AgentError,
  type AgentRequestMessage,
  type ChannelMessages,
  ClosedError,
  ConnectError,
  type DecisionBasis,
  type DecisionMessage,
  DeniedError,
  type DialAttempt,
  DialError,
  type DialMessage,
  type ResolutionMessage,
  DnsError,
  ERROR_CODES,
  type ErrorCode,
  type HandshakeMessage,
  HostError,
  IdentityError,
  type Leaf,
  type NoInstancesReason,
  OptionError,
  type Peer,
  RedirectError,
  RevokedError,
  type RevocationMessage,
  type Roots,
  type RotationMessage,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('error classes', () => {
  it('are each a ConnectError, and that an Error', () => {
    expectTypeOf<ConnectError>().toExtend<Error>()
    expectTypeOf<ConnectError['code']>().toEqualTypeOf<ErrorCode>()
    expectTypeOf<ConnectError['cause']>().toBeUnknown()
    expectTypeOf<
      | AbortError
      | AgentError
      | ClosedError
      | DeniedError
      | DialError
      | DnsError
      | HostError
      | IdentityError
      | OptionError
      | RedirectError
      | RevokedError
      | SpiffeIdError
      | TimeoutError
      | VerificationError
    >().toExtend<ConnectError>()
  })

  it('say by instanceof what there is to read', () => {
    compiled((error: unknown) => {
      if (error instanceof OptionError) {
        expectTypeOf(error).toEqualTypeOf<OptionError>()
        expectTypeOf(error.option).toBeString()
        expectTypeOf(error.expected).toBeString()
        expectTypeOf(error.actual).toBeString()
      }
      if (error instanceof AbortError) expectTypeOf(error).toEqualTypeOf<AbortError>()
      if (error instanceof ClosedError) expectTypeOf(error).toEqualTypeOf<ClosedError>()
      if (error instanceof IdentityError) expectTypeOf(error).toEqualTypeOf<IdentityError>()
      if (error instanceof HostError) expectTypeOf(error.host).toBeString()
      if (error instanceof RedirectError) expectTypeOf(error.to).toBeString()
      if (error instanceof TimeoutError) {
        expectTypeOf(error.timeoutMs).toBeNumber()
        expectTypeOf(error.attempts).toEqualTypeOf<readonly DialAttempt[]>()
      }
      if (error instanceof AgentError) {
        expectTypeOf(error.address).toBeString()
        expectTypeOf(error.request).toBeString()
        expectTypeOf(error.status).toEqualTypeOf<number | undefined>()
      }
      if (error instanceof SpiffeIdError) expectTypeOf(error.input).toBeString()
      if (error instanceof VerificationError) expectTypeOf(error.actual).toBeString()
      if (error instanceof DialError) {
        expectTypeOf(error.upstream).toBeString()
        expectTypeOf(error.attempts).toEqualTypeOf<readonly DialAttempt[]>()
        expectTypeOf(error.reason).toEqualTypeOf<NoInstancesReason | undefined>()
      }
      if (error instanceof DnsError) expectTypeOf(error.question).toBeString()
      if (error instanceof DeniedError) {
        expectTypeOf(error.peer).toEqualTypeOf<Peer>()
        expectTypeOf(error.basis).toEqualTypeOf<DecisionBasis>()
      }
      if (error instanceof RevokedError) expectTypeOf(error.ageMs).toBeNumber()
      if (error instanceof ConnectError) {
        // @ts-expect-error -- only some have it
        expectTypeOf(error.attempts).toBeArray()
        // @ts-expect-error -- read-only
        error.code = 'ERR_CONNECT_OPTION'
      }
    })
  })

  it('can be made and extended, by authors of resolvers', () => {
    class NoSuchShard extends DialError {}
    expectTypeOf<NoSuchShard>().toExtend<DialError>()
    compiled((cause: unknown) => [
      new NoSuchShard('ERR_CONNECT_NO_INSTANCES', 'shard-7', 'nobody has it', { cause, reason: 'empty' }),
      // @ts-expect-error -- the code comes first
      new DialError('shard-7', 'nobody has it'),
      // @ts-expect-error -- codes are this library's
      new ConnectError('ERR_SHARD', 'nobody has it'),
      // @ts-expect-error -- the reasons are these
      new DialError('ERR_CONNECT_NO_INSTANCES', 'shard-7', 'nobody has it', { reason: 'lost' }),
    ])
  })

  it('tell of each try of a dial', () => {
    expectTypeOf<DialAttempt>().toEqualTypeOf<{
      readonly address: string
      readonly error: Error
      readonly durationMs: number
    }>()
    expectTypeOf<NoInstancesReason>().toEqualTypeOf<
      'unknown' | 'not-connect' | 'no-match' | 'not-passing' | 'empty'
    >()
  })
})

describe('error codes', () => {
  it('are the keys of a table that tells what they mean', () => {
    expectTypeOf<keyof typeof ERROR_CODES>().toEqualTypeOf<ErrorCode>()
    expectTypeOf<ErrorCode>().toExtend<`ERR_CONNECT_${string}`>()
    expectTypeOf<string>().not.toExtend<ErrorCode>()
    expectTypeOf(ERROR_CODES).toExtend<Readonly<Record<ErrorCode, string>>>()
    compiled((error: ConnectError) => {
      // @ts-expect-error -- there is no such code
      if (error.code === 'ERR_CONNECT_REFUSED') return
      // @ts-expect-error -- read-only
      ERROR_CODES.ERR_CONNECT_OPTION = 'something else'
      if (error.code === 'ERR_CONNECT_DENIED' || error.code === 'ERR_CONNECT_REVOKED') {
        expectTypeOf(error.code).toEqualTypeOf<'ERR_CONNECT_DENIED' | 'ERR_CONNECT_REVOKED'>()
      }
    })
  })
})

describe('ChannelMessages', () => {
  it('has the name of every channel, and what it carries', () => {
    expectTypeOf<ChannelMessages>().toEqualTypeOf<{
      'consul-connect:dial': DialMessage
      'consul-connect:resolution': ResolutionMessage
      'consul-connect:handshake': HandshakeMessage
      'consul-connect:decision': DecisionMessage
      'consul-connect:revocation': RevocationMessage
      'consul-connect:rotation': RotationMessage
      'consul-connect:agent-request': AgentRequestMessage
    }>()
    compiled(
      (listen: <K extends keyof ChannelMessages>(name: K, on: (m: ChannelMessages[K]) => void) => void) => {
        listen('consul-connect:dial', ({ upstream, durationMs, attempts, peer, address, error }) => {
          expectTypeOf(upstream).toBeString()
          expectTypeOf(durationMs).toBeNumber()
          expectTypeOf(attempts).toEqualTypeOf<readonly DialAttempt[]>()
          expectTypeOf(peer).toEqualTypeOf<Peer | undefined>()
          expectTypeOf(address).toEqualTypeOf<string | undefined>()
          expectTypeOf(error).toEqualTypeOf<Error | undefined>()
        })
        // @ts-expect-error -- there is no such channel
        listen('consul-connect:dials', () => undefined)
      },
    )
  })

  it('types what node:diagnostics_channel does not', () => {
    compiled(() => {
      subscribe('consul-connect:decision', (message) => {
        const { peer, authorized, basis } = message as ChannelMessages['consul-connect:decision']
        expectTypeOf(peer).toEqualTypeOf<Peer>()
        expectTypeOf(authorized).toBeBoolean()
        expectTypeOf(basis).toEqualTypeOf<DecisionBasis>()
      })
    })
  })

  it('has messages of plain values', () => {
    expectTypeOf<HandshakeMessage>().toEqualTypeOf<{
      readonly service: string
      readonly durationMs: number | undefined
      readonly peer: Peer | undefined
      readonly error: Error | undefined
    }>()
    expectTypeOf<RevocationMessage>().toEqualTypeOf<{
      readonly service: string
      readonly peer: Peer
      readonly error: RevokedError
    }>()
    expectTypeOf<RotationMessage>().toEqualTypeOf<{
      readonly service: string
      readonly what: 'leaf' | 'roots'
      readonly leaf: Leaf
      readonly roots: Roots
    }>()
    expectTypeOf<AgentRequestMessage>().toEqualTypeOf<{
      readonly address: string
      readonly method: string
      readonly path: string
      readonly isBlocking: boolean
      readonly durationMs: number
      readonly status: number | undefined
      readonly error: Error | undefined
    }>()
  })
})
