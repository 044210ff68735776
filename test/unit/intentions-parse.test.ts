import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { AgentResponse } from '../../src/agent/client.js'
import { type Intention, intentionsReader, parseMatch } from '../../src/agent/endpoints/intentions.js'
import type { BlockingQuery } from '../../src/agent/watch.js'
import { AgentError } from '../../src/base/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { settle } from '../fixtures/fake-clock.js'
import { webSource } from '../fixtures/web-source.js'

const MATCH = '/v1/connect/intentions/match'
const LIST = '/v1/connect/intentions'

const least = { SourceName: 'web', DestinationName: 'db', Action: 'allow' }
const parsed: Intention = {
  source: webSource,
  destination: { namespace: 'default', name: 'db' },
  action: 'allow',
  hasPermissions: false,
}

const parseOne = (entry: unknown): Intention | undefined => parseMatch({ db: [entry] }, 'db')[0]

describe('parseMatch: what is read', () => {
  it('an entry of the oldest kind, with what it does not say', () => {
    assert.deepEqual(parseOne(least), parsed)
  })

  it('every field, as it is written', () => {
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
      hasPermissions: false,
    })
  })

  // What a real 1.8.7 and a 1.22 put there, and what a version to come may.
  const beside: object[] = [
    {
      ID: '8f246b77-f3e1-ff88-5b48-8ec93abf3e05',
      Description: '',
      Meta: {},
      DefaultAddr: '',
      DefaultPort: 0,
    },
    { Precedence: 9, CreateIndex: 11, ModifyIndex: 11, Hash: null, CreatedAt: '2026-01-01T00:00:00Z' },
    { DestinationPartition: 'default', JWT: null, ToCome: { deep: [1] } },
    JSON.parse('{"__proto__":{"Action":"deny"},"constructor":5}') as object,
  ]
  for (const fields of beside) {
    it(`fields that nobody knows change nothing: ${inspect(fields, { breakLength: Infinity })}`, () => {
      assert.deepEqual(parseOne({ ...fields, ...least }), parsed)
    })
  }

  it('an action is kept as it is written, whatever it is', () => {
    for (const action of ['allow', 'deny', 'Allow', 'ALLOW', ' allow', 'allow ', 'audit', '__proto__'])
      assert.equal(parseOne({ ...least, Action: action })?.action, action)
  })

  it('several, in the order of the agent', () => {
    const names = ['c', 'a', 'b', '*']
    const entries = names.map((SourceName) => ({ ...least, SourceName }))
    assert.deepEqual(
      parseMatch({ db: entries }, 'db').map(({ source }) => source.name),
      names,
    )
  })

  it('only those under the name that was asked for', () => {
    const body = { db: [least], DB: [{ ...least, Action: 'deny' }], other: 5 }
    assert.deepEqual(parseMatch(body, 'db'), [parsed])
  })
})

describe('parseMatch: fields that are not there', () => {
  type Read = (intention: Intention) => unknown
  const optional: [key: string, read: Read, otherwise: unknown][] = [
    ['SourcePartition', ({ source }) => source.partition, 'default'],
    ['SourceNS', ({ source }) => source.namespace, 'default'],
    ['SourceType', ({ source }) => source.type, 'consul'],
    ['SourcePeer', ({ source }) => source.peer, undefined],
    ['SourceSamenessGroup', ({ source }) => source.samenessGroup, undefined],
    ['DestinationNS', ({ destination }) => destination.namespace, 'default'],
    ['Action', ({ action }) => action, ''],
  ]
  for (const [key, read, otherwise] of optional) {
    it(`${key} may be absent, null or empty: ${inspect(otherwise)}`, () => {
      for (const value of [undefined, null, '']) {
        const found = parseOne({ ...least, [key]: value })
        assert.ok(found)
        assert.equal(read(found), otherwise)
      }
    })

    for (const value of [5, 0, true, false, {}, [], ['default']]) {
      it(`${key} may not be ${inspect(value)}`, () => {
        assert.throws(() => parseOne({ ...least, [key]: value }), {
          name: 'ShapeError',
          message: new RegExp(`^db\\[0\\]\\.${key}: expected a string, got `),
        })
      })
    }
  }

  for (const key of ['SourceName', 'DestinationName']) {
    for (const value of [undefined, null, '', 5, true, {}, ['web']]) {
      it(`${key} may not be ${inspect(value)}`, () => {
        assert.throws(() => parseOne({ ...least, [key]: value }), {
          name: 'ShapeError',
          message: new RegExp(`^db\\[0\\]\\.${key}: expected a non-empty string, got `),
        })
      })
    }
  }
})

describe('parseMatch: permissions', () => {
  for (const permissions of [undefined, null, []]) {
    it(`${inspect(permissions)} are none`, () => {
      assert.equal(parseOne({ ...least, Permissions: permissions })?.hasPermissions, false)
    })
  }

  const some: unknown[][] = [[{ Action: 'allow', HTTP: { PathPrefix: '/' } }], [{}], [null], [5], ['']]
  for (const permissions of some) {
    it(`${inspect(permissions, { depth: 3 })} are some, with an action beside them or without`, () => {
      for (const Action of ['allow', 'deny', '', undefined]) {
        const found = parseOne({ ...least, Action, Permissions: permissions })
        assert.deepEqual(found, { ...parsed, action: Action ?? '', hasPermissions: true })
      }
    })
  }

  for (const permissions of ['', 'allow', 0, 1, true, false, {}, { length: 0 }]) {
    it(`may not be ${inspect(permissions)}`, () => {
      assert.throws(() => parseOne({ ...least, Permissions: permissions }), {
        name: 'ShapeError',
        message: /^db\[0\]\.Permissions: expected an array, got /,
      })
    })
  }
})

describe('parseMatch: bodies', () => {
  it('a null list is an empty one, as Consul writes it', () => {
    assert.deepEqual(parseMatch({ db: null }, 'db'), [])
    assert.deepEqual(parseMatch({ db: [] }, 'db'), [])
  })

  const wrong: unknown[] = [undefined, null, [], [least], 'db', 5, true]
  for (const body of wrong) {
    it(`the body may not be ${inspect(body)}`, () => {
      assert.throws(() => parseMatch(body, 'db'), { name: 'ShapeError', message: /^the body: expected / })
    })
  }

  for (const list of [{}, { db: least }, { DB: [least] }, { db: 'x' }, { db: 5 }, { db: false }]) {
    it(`there is no list in ${inspect(list)}`, () => {
      assert.throws(() => parseMatch(list, 'db'), {
        name: 'ShapeError',
        message: /^db: expected an array, got /,
      })
    })
  }

  for (const service of ['__proto__', 'constructor', 'toString', 'length']) {
    it(`a service may be called ${service}`, () => {
      assert.throws(() => parseMatch({}, service), { name: 'ShapeError' })
      const body: unknown = JSON.parse(`{${JSON.stringify(service)}:[${JSON.stringify(least)}]}`)
      assert.deepEqual(parseMatch(body, service), [parsed])
    })
  }

  for (const bad of [
    null,
    undefined,
    'x',
    5,
    [],
    {},
    { ...least, Action: 5 },
    { ...least, SourceName: '' },
  ]) {
    it(`one entry that cannot be read spoils all: ${inspect(bad)}`, () => {
      for (const place of [0, 1, 2]) {
        const entries: unknown[] = [least, least]
        entries.splice(place, 0, bad)
        assert.throws(() => parseMatch({ db: entries }, 'db'), {
          name: 'ShapeError',
          message: new RegExp(`^db\\[${place}\\]`),
        })
      }
    })
  }
})

const FORBIDDEN = new AgentError('ERR_CONNECT_AGENT_FORBIDDEN', 'no', { address: 'a', request: 'GET /' })
const ALLOW = { db: [least] }
const DENY = { db: [{ ...least, Action: 'deny' }] }

function start(service = 'db') {
  const agent = new FakeAgent()
  const read = intentionsReader(agent, service)
  return {
    agent,
    read: (query: BlockingQuery = {}): Promise<AgentResponse<readonly Intention[]>> => {
      const reading = read(query)
      // Awaited later; a rejection must have somebody from the start.
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

describe('intentionsReader: an agent that tells an index', () => {
  it('is watched where the intentions are', async () => {
    const { agent, read, answer, paths } = start()
    const first = read({ waitMs: 30_000 })
    await answer(MATCH, ALLOW, 7)
    assert.deepEqual(await first, { value: [parsed], index: 7, hash: undefined })
    const second = read({ index: 7, waitMs: 30_000 })
    await answer(MATCH, DENY, 8)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 8)
    assert.deepEqual(paths(), [MATCH, MATCH])
    const name = { by: 'destination', name: 'db', hash: undefined }
    assert.deepEqual(agent.requests[0]!.request.query, { ...name, index: undefined, wait: undefined })
    assert.deepEqual(agent.requests[1]!.request.query, { ...name, index: 7, wait: '30000ms' })
  })

  it('a service’s name goes into the query as it is', async () => {
    const { agent, read, answer } = start('my ü&=service')
    const reading = read()
    await answer(MATCH, { 'my ü&=service': null }, 1)
    assert.deepEqual((await reading).value, [])
    assert.equal(agent.last(MATCH).request.query?.['name'], 'my ü&=service')
  })

  it('and then tells none is not asked for the list in the middle: the next read starts anew', async () => {
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

describe('intentionsReader: an agent that tells none there', () => {
  /** Reads once, as by an agent of version 1.8. */
  async function startByList() {
    const started = start()
    const first = started.read({ waitMs: 30_000 })
    await started.answer(MATCH, ALLOW)
    await started.answer(LIST, [], 7)
    await started.answer(MATCH, ALLOW)
    assert.deepEqual(await first, { value: [parsed], index: 7, hash: undefined })
    return started
  }

  it('is waited for by the list, of which nothing is taken', async () => {
    const { agent, read, answer, paths } = await startByList()
    const second = read({ index: 7, waitMs: 30_000 })
    assert.deepEqual(paths(), [MATCH, LIST, MATCH, LIST])
    const { query } = agent.last(LIST).request
    const filter = 'DestinationName == ""'
    assert.deepEqual(query, { index: 7, hash: undefined, wait: '30000ms', filter })
    await answer(LIST, [{ ...least, Action: 'allow' }, 'not even an entry'], 8)
    await answer(MATCH, DENY)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 8)
  })

  it('the index is read first, so that what is read is as new or newer', async () => {
    const { agent, read, answer, paths } = await startByList()
    const second = read({ index: 7 })
    await settle()
    assert.equal(agent.count(MATCH), 2)
    await answer(LIST, null, 8)
    assert.equal(agent.count(MATCH), 3)
    await answer(MATCH, DENY, 99)
    assert.equal((await second).index, 8)
    assert.deepEqual(paths(), [MATCH, LIST, MATCH, LIST, MATCH])
  })

  it('what is read then does not wait', async () => {
    const { agent, read, answer } = await startByList()
    for (const { request } of agent.requests) assert.equal(request.query?.['wait'], undefined)
    void read({ index: 7, waitMs: 30_000, timeoutMs: 42_000 })
    await answer(LIST, [], 8)
    const { query, timeoutMs } = agent.last(MATCH).request
    assert.deepEqual([query?.['index'], query?.['wait'], timeoutMs], [undefined, undefined, undefined])
  })

  it('may tell none by the list either', async () => {
    const { read, answer, paths } = start()
    for (const body of [ALLOW, DENY]) {
      const reading = read()
      await answer(MATCH, ALLOW)
      await answer(LIST, [])
      await answer(MATCH, body)
      assert.deepEqual(await reading, { value: parseMatch(body, 'db'), index: undefined, hash: undefined })
    }
    assert.deepEqual(paths(), [MATCH, LIST, MATCH, MATCH, LIST, MATCH])
  })

  it('may be another version at the next start', async () => {
    const { agent, read, answer } = await startByList()
    const second = read()
    await answer(MATCH, DENY, 3)
    assert.deepEqual(actions(await second), ['deny'])
    assert.equal((await second).index, 3)
    void read({ index: 3 })
    assert.equal(agent.last(MATCH).request.query?.['index'], 3)
    assert.equal(agent.count(LIST), 1)
  })

  it('a list of another shape is refused', async () => {
    for (const body of [undefined, {}, 'x', 5]) {
      const { read, answer } = await startByList()
      const reading = read({ index: 7 })
      await answer(LIST, body, 8)
      await assert.rejects(reading, { name: 'ShapeError' })
    }
  })
})

describe('intentionsReader: failures and bounds', () => {
  it('a refusal of what is read is passed on, although the list would answer', async () => {
    const { agent, read } = start()
    const reading = read()
    agent.last(MATCH).fail(FORBIDDEN)
    await assert.rejects(reading, (error) => error === FORBIDDEN)
    assert.equal(agent.count(LIST), 0)
  })

  it('the same where the list was waited for', async () => {
    const { agent, read, answer } = start()
    const reading = read()
    await answer(MATCH, ALLOW)
    await answer(LIST, [], 7)
    agent.last(MATCH).fail(FORBIDDEN)
    await assert.rejects(reading, (error) => error === FORBIDDEN)
  })

  it('a refusal of the list is passed on too', async () => {
    const { agent, read, answer } = start()
    const reading = read()
    await answer(MATCH, ALLOW)
    agent.last(LIST).fail(FORBIDDEN)
    await assert.rejects(reading, (error) => error === FORBIDDEN)
    assert.equal(agent.count(MATCH), 1)
  })

  it('the signal and the timeout reach what may take long, and the signal reaches all', async () => {
    const { agent, read, answer } = start()
    const { signal } = new AbortController()
    void read({ signal, timeoutMs: 42_000 })
    await answer(MATCH, ALLOW)
    await answer(LIST, [], 7)
    const given = agent.requests.map(({ request }) => [request.path, request.signal, request.timeoutMs])
    assert.deepEqual(given, [
      [MATCH, signal, 42_000],
      [LIST, signal, 42_000],
      [MATCH, signal, undefined],
    ])
  })

  for (const answered of [0, 1, 2]) {
    it(`an abort ends it, after ${answered} answers`, async () => {
      const { read, answer } = start()
      const mine = new AbortController()
      const reading = read({ signal: mine.signal })
      if (answered > 0) await answer(MATCH, ALLOW)
      if (answered > 1) await answer(LIST, [], 7)
      mine.abort()
      await assert.rejects(reading, { name: 'AbortError' })
    })
  }
})
