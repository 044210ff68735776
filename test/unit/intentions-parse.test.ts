import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { AgentResponse } from '../../src/agent/client.js'
import { type Intention, intentionsReader, parseMatch } from '../../src/agent/endpoints/intentions.js'
import type { BlockingQuery } from '../../src/agent/watch.js'
import { FORBIDDEN } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { settle } from '../fixtures/fake-clock.js'
import { webSource } from '../fixtures/web-source.js'

const MATCH = '/v1/connect/intentions/match'
const LIST = '/v1/connect/intentions'

const MINIMAL = { SourceName: 'web', DestinationName: 'db', Action: 'allow' }
const PARSED: Intention = {
  source: webSource,
  destination: { namespace: 'default', name: 'db' },
  action: 'allow',
  permissions: [],
  problem: undefined,
}

const parseOne = (entry: unknown): Intention | undefined => parseMatch({ db: [entry] }, 'db')[0]

describe('parseMatch', () => {
  it('reads a minimal entry, with defaults', () => {
    assert.deepEqual(parseOne(MINIMAL), PARSED)
  })

  it('reads every field', () => {
    const entry = {
      SourcePartition: 'p',
      SourceNS: 'n',
      SourceName: '*',
      SourceType: 'saml',
      SourcePeer: 'cluster-2',
      SourceSamenessGroup: 'group',
      DestinationNS: '*',
      DestinationName: '*',
      Action: 'deny',
      Permissions: null,
    }
    assert.deepEqual(parseOne(entry), {
      source: {
        partition: 'p',
        namespace: 'n',
        name: '*',
        type: 'saml',
        peer: 'cluster-2',
        samenessGroup: 'group',
      },
      destination: { namespace: '*', name: '*' },
      action: 'deny',
      permissions: [],
      problem: undefined,
    })
  })

  it('ignores the fields that decide nothing, and fields without a value', () => {
    const ofConsul122 = { ID: '8f246b77', Meta: {}, Precedence: 9, Hash: null, JWT: null, CreateIndex: 5 }
    const ofConsul18 = {
      Description: 'x',
      DefaultAddr: '',
      DefaultPort: 0,
      CreatedAt: '2026-11-30T20:01:48Z',
    }
    const empty = { Future: null, Flag: false, List: [], Part: {}, Text: '', Number: 0 }
    for (const fields of [ofConsul122, ofConsul18, empty])
      assert.deepEqual(parseOne({ ...fields, ...MINIMAL }), PARSED)
  })

  const problems: [fields: object, problem: string][] = [
    [{ Future: { deep: [1] } }, 'the unknown field "Future"'],
    [{ A: 'x', B: 1 }, 'the unknown field "A", "B"'],
    [JSON.parse('{"__proto__":{"Action":"deny"}}') as object, 'the unknown field "__proto__"'],
    [{ constructor: 5 }, 'the unknown field "constructor"'],
    [{ JWT: { Providers: [{ Name: 'okta' }] } }, 'a requirement of JSON Web Tokens, which are not supported'],
  ]
  for (const [fields, problem] of problems) {
    it(`finds ${problem}`, () => {
      assert.deepEqual(
        parseOne(Object.defineProperties({ ...MINIMAL }, Object.getOwnPropertyDescriptors(fields))),
        {
          ...PARSED,
          problem,
        },
      )
    })
  }

  it('does not change the action', () => {
    for (const action of ['allow', 'deny', 'Allow', 'ALLOW', ' allow', 'allow ', 'audit', '__proto__'])
      assert.equal(parseOne({ ...MINIMAL, Action: action })?.action, action)
  })

  it('keeps the order of the agent', () => {
    const names = ['c', 'a', 'b', '*']
    const entries = names.map((SourceName) => ({ ...MINIMAL, SourceName }))
    assert.deepEqual(
      parseMatch({ db: entries }, 'db').map(({ source }) => source.name),
      names,
    )
  })

  it('reads only the list of the service', () => {
    const body = { db: [MINIMAL], DB: [{ ...MINIMAL, Action: 'deny' }], other: 5 }
    assert.deepEqual(parseMatch(body, 'db'), [PARSED])
  })
})

describe('parseMatch: fields', () => {
  type Read = (intention: Intention) => unknown
  const optional: [key: string, read: Read, expected: unknown][] = [
    ['SourcePartition', ({ source }) => source.partition, 'default'],
    ['SourceNS', ({ source }) => source.namespace, 'default'],
    ['SourceType', ({ source }) => source.type, 'consul'],
    ['SourcePeer', ({ source }) => source.peer, undefined],
    ['SourceSamenessGroup', ({ source }) => source.samenessGroup, undefined],
    ['DestinationNS', ({ destination }) => destination.namespace, 'default'],
    ['Action', ({ action }) => action, ''],
  ]
  for (const [key, read, expected] of optional) {
    it(`reads an absent, null, or empty ${key} as ${inspect(expected)}`, () => {
      for (const value of [undefined, null, '']) {
        const found = parseOne({ ...MINIMAL, [key]: value })
        assert.ok(found)
        assert.equal(read(found), expected)
      }
    })

    for (const value of [0, false, {}, ['default']]) {
      it(`refuses the ${key} ${inspect(value)}`, () => {
        assert.throws(() => parseOne({ ...MINIMAL, [key]: value }), {
          name: 'ShapeError',
          message: new RegExp(`^db\\[0\\]\\.${key}: expected a string, got `),
        })
      })
    }
  }

  for (const key of ['SourceName', 'DestinationName']) {
    for (const value of [undefined, null, '', 5, true, {}, ['web']]) {
      it(`refuses the ${key} ${inspect(value)}`, () => {
        assert.throws(() => parseOne({ ...MINIMAL, [key]: value }), {
          name: 'ShapeError',
          message: new RegExp(`^db\\[0\\]\\.${key}: expected a non-empty string, got `),
        })
      })
    }
  }
})

describe('parseMatch: permissions', () => {
  for (const permissions of [undefined, null, []]) {
    it(`reads ${inspect(permissions)} as no permissions`, () => {
      assert.deepEqual(parseOne({ ...MINIMAL, Permissions: permissions })?.permissions, [])
    })
  }

  for (const permissions of ['', 'allow', 0, 1, true, false, {}, { length: 0 }]) {
    it(`refuses ${inspect(permissions)}`, () => {
      assert.throws(() => parseOne({ ...MINIMAL, Permissions: permissions }), {
        name: 'ShapeError',
        message: /^db\[0\]\.Permissions: expected an array, got /,
      })
    })
  }
})

describe('parseMatch: bodies', () => {
  it('reads null, which Consul returns for no intentions, as an empty list', () => {
    assert.deepEqual(parseMatch({ db: null }, 'db'), [])
    assert.deepEqual(parseMatch({ db: [] }, 'db'), [])
  })

  const bodies: unknown[] = [undefined, null, [], [MINIMAL], 'db', 5, true]
  for (const body of bodies) {
    it(`refuses the body ${inspect(body)}`, () => {
      assert.throws(() => parseMatch(body, 'db'), { name: 'ShapeError', message: /^the body: expected / })
    })
  }

  for (const list of [{}, { db: MINIMAL }, { DB: [MINIMAL] }, { db: 'x' }, { db: 5 }, { db: false }]) {
    it(`refuses the body ${inspect(list)} without a list for the service`, () => {
      assert.throws(() => parseMatch(list, 'db'), {
        name: 'ShapeError',
        message: /^db: expected an array, got /,
      })
    })
  }

  for (const service of ['__proto__', 'constructor', 'toString', 'length']) {
    it(`reads a service with the name ${service}`, () => {
      assert.throws(() => parseMatch({}, service), { name: 'ShapeError' })
      const body: unknown = JSON.parse(`{${JSON.stringify(service)}:[${JSON.stringify(MINIMAL)}]}`)
      assert.deepEqual(parseMatch(body, service), [PARSED])
    })
  }

  for (const entry of [null, 'x', [], {}, { ...MINIMAL, Action: 5 }, { ...MINIMAL, SourceName: '' }]) {
    it(`refuses a list with the entry ${inspect(entry)}`, () => {
      assert.throws(() => parseMatch({ db: [MINIMAL, entry, MINIMAL] }, 'db'), {
        name: 'ShapeError',
        message: /^db\[1\]/,
      })
    })
  }
})

const ALLOW = { db: [MINIMAL] }
const DENY = { db: [{ ...MINIMAL, Action: 'deny' }] }

function start(service = 'db') {
  const agent = new FakeAgent()
  const read = intentionsReader(agent, service)
  return {
    agent,
    read: (query: BlockingQuery = {}): Promise<AgentResponse<readonly Intention[]>> => {
      const reading = read(query)
      // Without a handler, a rejection before the assertion would be unhandled.
      reading.catch(() => undefined)
      return reading
    },
    paths: () => agent.requests.map(({ request }) => request.path),
    answer: async (path: string, body: unknown, index?: number) => {
      agent.last(path).answer({ body, ...(index !== undefined && { index }) })
      await settle()
    },
  }
}

const actions = ({ value }: AgentResponse<readonly Intention[]>): string[] =>
  value.map(({ action }) => action)

describe('intentionsReader with an index', () => {
  it('watches the match endpoint', async () => {
    const { agent, read, answer, paths } = start()
    const first = read({ waitMs: 30_000 })
    await answer(MATCH, ALLOW, 7)
    assert.deepEqual(await first, { value: [PARSED], index: 7, hash: undefined })
    const second = read({ index: 7, waitMs: 30_000 })
    await answer(MATCH, DENY, 8)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 8)
    assert.deepEqual(paths(), [MATCH, MATCH])
    const name = { by: 'destination', name: 'db', hash: undefined }
    assert.deepEqual(agent.requests[0]!.request.query, { ...name, index: undefined, wait: undefined })
    assert.deepEqual(agent.requests[1]!.request.query, { ...name, index: 7, wait: '30000ms' })
  })

  it('sends the name of the service unencoded to the client', async () => {
    const { agent, read, answer } = start('my ü&=service')
    const reading = read()
    await answer(MATCH, { 'my ü&=service': null }, 1)
    assert.deepEqual((await reading).value, [])
    assert.equal(agent.last(MATCH).request.query?.['name'], 'my ü&=service')
  })

  it('changes to the list only at the next first read if the index disappears', async () => {
    const { read, answer, paths } = start()
    const first = read()
    await answer(MATCH, ALLOW, 7)
    await first
    const second = read({ index: 7 })
    await answer(MATCH, DENY)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, undefined)
    const third = read()
    await answer(MATCH, DENY)
    await answer(LIST, [], 3)
    await answer(MATCH, DENY)
    assert.equal((await third).index, 3)
    assert.deepEqual(paths(), [MATCH, MATCH, MATCH, LIST, MATCH])
  })
})

describe('intentionsReader without an index, with an agent before 1.9', () => {
  /** Makes the first read, as with an agent of version 1.8. */
  async function startByList() {
    const started = start()
    const first = started.read({ waitMs: 30_000 })
    await started.answer(MATCH, ALLOW)
    await started.answer(LIST, [], 7)
    await started.answer(MATCH, ALLOW)
    assert.deepEqual(await first, { value: [PARSED], index: 7, hash: undefined })
    return started
  }

  it('waits for a change of the list, and then reads the intentions, with the older index', async () => {
    const { agent, read, answer, paths } = await startByList()
    const second = read({ index: 7, waitMs: 30_000 })
    assert.deepEqual(paths(), [MATCH, LIST, MATCH, LIST])
    const { query } = agent.last(LIST).request
    const filter = 'DestinationName == ""'
    assert.deepEqual(query, { index: 7, hash: undefined, wait: '30000ms', filter })
    assert.equal(agent.count(MATCH), 2)
    await answer(LIST, [{ ...MINIMAL, Action: 'allow' }, 'not even an entry'], 8)
    await answer(MATCH, DENY, 99)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 8)
  })

  it('does not wait in the match endpoint', async () => {
    const { agent, read, answer } = await startByList()
    for (const { request } of agent.requests) assert.equal(request.query?.['wait'], undefined)
    void read({ index: 7, waitMs: 30_000, timeoutMs: 42_000 })
    await answer(LIST, [], 8)
    const { query, timeoutMs } = agent.last(MATCH).request
    assert.deepEqual([query?.['index'], query?.['wait'], timeoutMs], [undefined, undefined, undefined])
  })

  it('supports a list without an index', async () => {
    const { read, answer, paths } = start()
    for (const body of [ALLOW, DENY]) {
      const reading = read()
      await answer(MATCH, ALLOW)
      await answer(LIST, null)
      await answer(MATCH, body)
      assert.deepEqual(await reading, { value: parseMatch(body, 'db'), index: undefined, hash: undefined })
    }
    assert.deepEqual(paths(), [MATCH, LIST, MATCH, MATCH, LIST, MATCH])
  })

  it('watches the match endpoint again if the agent was upgraded', async () => {
    const { agent, read, answer } = await startByList()
    const second = read()
    await answer(MATCH, DENY, 3)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 3)
    void read({ index: 3 })
    assert.equal(agent.last(MATCH).request.query?.['index'], 3)
    assert.equal(agent.count(LIST), 1)
  })

  it('refuses a malformed list', async () => {
    for (const body of [undefined, {}, 'x', 5]) {
      const { read, answer } = await startByList()
      const reading = read({ index: 7 })
      await answer(LIST, body, 8)
      await assert.rejects(reading, { name: 'ShapeError' })
    }
  })
})

describe('intentionsReader', () => {
  it('passes the signal to all requests, and the timeout to blocking queries', async () => {
    const { agent, read, answer } = start()
    const { signal } = new AbortController()
    void read({ signal, timeoutMs: 42_000 })
    await answer(MATCH, ALLOW)
    await answer(LIST, [], 7)
    const bounds = agent.requests.map(({ request }) => [request.path, request.signal, request.timeoutMs])
    assert.deepEqual(bounds, [
      [MATCH, signal, 42_000],
      [LIST, signal, 42_000],
      [MATCH, signal, undefined],
    ])
  })

  for (const answered of [0, 1, 2]) {
    /** Reads, with answers to the first requests. */
    const readUpTo = async (query: BlockingQuery) => {
      const { agent, read, answer } = start()
      const reading = read(query)
      if (answered > 0) await answer(MATCH, ALLOW)
      if (answered > 1) await answer(LIST, [], 7)
      return { agent, reading }
    }

    it(`rejects with the error of a request after ${answered} answers`, async () => {
      const { agent, reading } = await readUpTo({})
      agent.requests.at(-1)!.fail(FORBIDDEN)
      await assert.rejects(reading, (error) => error === FORBIDDEN)
      assert.equal(agent.requests.length, answered + 1)
    })

    it(`rejects when the signal is aborted after ${answered} answers`, async () => {
      const controller = new AbortController()
      const { reading } = await readUpTo({ signal: controller.signal })
      controller.abort()
      await assert.rejects(reading, { name: 'AbortError' })
    })
  }
})
