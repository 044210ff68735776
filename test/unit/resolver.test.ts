import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { AgentError, ConnectError, DialError } from '../../src/errors.js'
import { type Resolver, resolveEndpoints } from '../../src/resolve/resolver.js'
import { staticResolver } from '../../src/resolve/static.js'

const { signal } = new AbortController()
const good = { host: 'a', port: 1, identity: { service: 'web' } }
const resolver = (resolve: () => unknown): Resolver => ({
  name: 'mine',
  resolve: resolve as Resolver['resolve'],
})

describe('resolveEndpoints', () => {
  it('gives what the resolver gives, at once or later, and passes the signal on', async () => {
    const list = [good, { ...good, port: 65535, host: '::1', more: true }]
    assert.equal(
      await resolveEndpoints(
        resolver(() => list),
        signal,
      ),
      list,
    )
    assert.equal(
      await resolveEndpoints(
        resolver(() => Promise.resolve(list)),
        signal,
      ),
      list,
    )
    assert.deepEqual(await resolveEndpoints(staticResolver('fixed', list), signal), list)
    let given: unknown
    const spy: Resolver = {
      name: 'spy',
      resolve: (options) => {
        given = options.signal
        return list
      },
    }
    await resolveEndpoints(spy, signal)
    assert.equal(given, signal)
  })

  it('an empty list is an error of its own', async () => {
    await assert.rejects(
      resolveEndpoints(
        resolver(() => []),
        signal,
      ),
      {
        name: 'DialError',
        code: 'ERR_CONNECT_NO_INSTANCES',
        upstream: 'mine',
      },
    )
  })

  const bad: unknown[] = [
    undefined,
    null,
    'a:1',
    {},
    good,
    new Set([good]),
    [null],
    ['a:1'],
    [good, undefined],
    [{}],
    [{ ...good, host: '' }],
    [{ ...good, host: 5 }],
    [{ ...good, port: 0 }],
    [{ ...good, port: 65536 }],
    [{ ...good, port: 1.5 }],
    [{ ...good, port: '80' }],
    [{ host: 'a', port: 1 }],
    // An address without an expectation is never dialled.
    [{ ...good, identity: null }],
    [{ ...good, identity: {} }],
    [{ ...good, identity: 'web' }],
    [{ ...good, identity: { service: '' } }],
    [{ ...good, identity: { service: 5 } }],
  ]
  for (const answer of bad) {
    it(`refuses ${inspect(answer, { breakLength: Infinity })}`, async () => {
      await assert.rejects(
        resolveEndpoints(
          resolver(() => answer),
          signal,
        ),
        {
          name: 'DialError',
          code: 'ERR_CONNECT_RESOLVER',
          upstream: 'mine',
        },
      )
    })
  }

  it('what a resolver throws, at once or later, is the cause', async () => {
    const cause = new Error('no DNS')
    const fail = (): never => {
      throw cause
    }
    for (const resolve of [fail, () => Promise.reject(cause)]) {
      await assert.rejects(
        resolveEndpoints(resolver(resolve), signal),
        (error) =>
          error instanceof DialError &&
          error.code === 'ERR_CONNECT_RESOLVER' &&
          error.cause === cause &&
          error.message.endsWith('failed: no DNS'),
      )
    }
  })

  it('an error of ours is told as it is', async () => {
    const forbidden = new AgentError('ERR_CONNECT_AGENT_FORBIDDEN', 'no', { address: 'a', request: 'GET /' })
    for (const ours of [forbidden, new ConnectError('ERR_CONNECT_RESOLVER', 'mine')]) {
      await assert.rejects(
        resolveEndpoints(
          resolver(() => Promise.reject(ours)),
          signal,
        ),
        (error) => error === ours,
      )
    }
  })
})
