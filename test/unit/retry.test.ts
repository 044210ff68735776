import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { RetryDefinition } from '../../src/agent/endpoints/chain-nodes.js'
import {
  type Failure,
  mayRetry,
  retriesFailure,
  retriesResponse,
  retryPauseMs,
  retryPolicy,
} from '../../src/http/routes/retry.js'

const NO_RETRIES: RetryDefinition = { most: 1, onConnectFailure: false, onStatusCodes: [], on: [] }

function policyOf(definition: Partial<RetryDefinition>) {
  const ignored: string[] = []
  const policy = retryPolicy({ ...NO_RETRIES, ...definition }, (problem) => ignored.push(problem))
  return { policy, ignored }
}

function knownPolicy(definition: Partial<RetryDefinition>) {
  const { policy, ignored } = policyOf(definition)
  assert.ok(policy !== undefined)
  assert.deepEqual(ignored, [])
  return policy
}

/** Whether a response is a reason for a retry. */
function retries(definition: Partial<RetryDefinition>, status: number, headers: Record<string, string> = {}) {
  return retriesResponse(knownPolicy(definition), status, (name) => headers[name])
}

const STATUSES = [200, 301, 400, 404, 408, 409, 425, 429, 499, 500, 501, 502, 503, 504, 505, 599]
const FAILURES: readonly Failure[] = ['not connected', 'reset', 'refused']

/** What Envoy retries for each condition. */
const CONDITIONS: readonly (readonly [condition: string, statuses: number[], failures: Failure[]])[] = [
  ['5xx', [500, 501, 502, 503, 504, 505, 599], ['not connected', 'reset', 'refused']],
  ['gateway-error', [502, 503, 504], ['not connected', 'reset', 'refused']],
  ['reset', [], ['not connected', 'reset', 'refused']],
  ['connect-failure', [], ['not connected']],
  ['refused-stream', [], ['refused']],
  ['retriable-4xx', [409], []],
  ['retriable-status-codes', [], []],
  ['envoy-ratelimited', [], []],
  ['cancelled', [], []],
  ['deadline-exceeded', [], []],
  ['resource-exhausted', [], []],
  ['internal', [], []],
  ['unavailable', [], []],
]

describe('retryPolicy: a condition', () => {
  for (const [condition, statuses, failures] of CONDITIONS) {
    it(`${condition} retries as Envoy does`, () => {
      const definition = { on: [condition] }
      assert.deepEqual(
        STATUSES.filter((status) => retries(definition, status)),
        statuses,
      )
      assert.deepEqual(
        FAILURES.filter((failure) => retriesFailure(knownPolicy(definition), failure)),
        failures,
      )
    })
  }

  it('retries by gRPC statuses of the response headers', () => {
    const names = ['cancelled', 'deadline-exceeded', 'resource-exhausted', 'internal', 'unavailable']
    const expected: Record<string, string> = {
      1: names[0]!,
      4: names[1]!,
      8: names[2]!,
      13: names[3]!,
      14: names[4]!,
    }
    for (let status = 0; status <= 16; status += 1) {
      for (const name of names) {
        const found = retries({ on: [name] }, 200, { 'grpc-status': String(status) })
        assert.equal(found, expected[status] === name, `${name}, ${status}`)
      }
      assert.equal(retries({ on: ['5xx'] }, 200, { 'grpc-status': String(status) }), false)
    }
    assert.equal(retries({ on: names }, 200, { 'grpc-status': '' }), false)
  })

  it('is combined with others', () => {
    const definition = { on: ['connect-failure', 'retriable-4xx'], onStatusCodes: [418] }
    assert.deepEqual(
      [409, 418, 500].map((status) => retries(definition, status)),
      [true, true, false],
    )
    assert.equal(retriesFailure(knownPolicy(definition), 'not connected'), true)
    assert.equal(retriesFailure(knownPolicy(definition), 'reset'), false)
  })

  it('that is unknown is reported and left out', () => {
    const { policy, ignored } = policyOf({ on: ['5xx', 'http3-post-connect-failure', '5XX', ''] })
    assert.deepEqual([...(policy?.conditions ?? [])], ['5xx'])
    assert.deepEqual(ignored, [
      'the retry condition "http3-post-connect-failure" is not supported',
      'the retry condition "5XX" is not supported',
      'the retry condition "" is not supported',
    ])
  })

  it('that is unknown and alone means no retries', () => {
    const { policy, ignored } = policyOf({ on: ['future'] })
    assert.equal(policy, undefined)
    assert.equal(ignored.length, 1)
  })
})

describe('retryPolicy: the fields of Consul', () => {
  it('without a condition mean no retries, whatever their number', () => {
    assert.equal(policyOf({ most: 7 }).policy, undefined)
  })

  it('RetryOnConnectFailure and RetryOnStatusCodes act both', () => {
    const definition = { onConnectFailure: true, onStatusCodes: [500, 401] }
    assert.equal(retriesFailure(knownPolicy(definition), 'not connected'), true)
    assert.equal(retriesFailure(knownPolicy(definition), 'reset'), false)
    assert.deepEqual(
      [401, 500, 503].map((status) => retries(definition, status)),
      [true, true, false],
    )
  })

  it('keep the number of retries', () => {
    assert.equal(knownPolicy({ most: 3, on: ['5xx'] }).most, 3)
  })

  it('have no status codes without the condition', () => {
    assert.equal(retries({ on: ['reset'] }, 503), false)
  })
})

describe('retriesResponse: x-envoy-ratelimited', () => {
  const limited = { 'x-envoy-ratelimited': 'true' }

  it('prevents a retry for any other reason', () => {
    const definition = { on: ['5xx', 'gateway-error', 'retriable-4xx', 'unavailable'], onStatusCodes: [429] }
    for (const status of [409, 429, 503]) {
      assert.equal(retries(definition, status), true)
      assert.equal(retries(definition, status, limited), false)
      assert.equal(retries(definition, status, { ...limited, 'grpc-status': '14' }), false)
    }
  })

  it('is a reason for a retry with envoy-ratelimited, whatever the status', () => {
    const definition = { on: ['envoy-ratelimited'] }
    for (const status of [200, 429, 503]) {
      assert.equal(retries(definition, status, limited), true)
      assert.equal(retries(definition, status), false)
    }
    // Its value does not matter.
    assert.equal(retries(definition, 429, { 'x-envoy-ratelimited': '' }), true)
  })
})

describe('retryPauseMs', () => {
  it('is from 0 to a bound that doubles from 25 ms to 250 ms', () => {
    const bounds = [25, 50, 100, 200, 250, 250, 250]
    for (const [i, bound] of bounds.entries()) {
      assert.equal(
        retryPauseMs(i + 1, () => 0),
        0,
      )
      assert.equal(
        retryPauseMs(i + 1, () => 0.5),
        bound / 2,
      )
      assert.ok(retryPauseMs(i + 1, () => 1 - 2 ** -53) < bound)
    }
    assert.equal(
      retryPauseMs(10_000, () => 0.5),
      125,
    )
  })
})

describe('mayRetry', () => {
  const cases: [pending: number, retrying: number, expected: boolean][] = [
    [1, 0, true],
    [3, 2, true],
    [3, 3, false],
    [15, 2, true],
    [15, 3, false],
    [16, 3, true],
    [20, 3, true],
    [20, 4, false],
    [1_000, 199, true],
    [1_000, 200, false],
  ]
  for (const [pending, retrying, expected] of cases) {
    it(`is ${expected} for ${retrying} retries among ${pending} requests`, () => {
      assert.equal(mayRetry(pending, retrying), expected)
    })
  }
})
