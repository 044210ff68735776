import './consul-binary.js'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, type IncomingMessage, createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import type { HashPolicy } from '../../src/agent/endpoints/chain-load-balancer.js'
import {
  type HashEntry,
  type HashTable,
  type RingSize,
  maglev,
  ringHash,
} from '../../src/resolve/balancing/hash-table.js'
import { requestHash } from '../../src/resolve/balancing/request-hash.js'
import { freePorts } from '../fixtures/free-ports.js'
import { readAll } from '../fixtures/mesh.js'
import { skip, startStaticEnvoy } from './envoy.js'

const KEY_COUNT = 200
const EQUAL = [1, 1, 1, 1, 1]
const UNEQUAL = [1, 2, 3, 50, 128]

interface Sent {
  /** Several values are several lines. */
  readonly headers?: Readonly<Record<string, string | string[]>>
  readonly path?: string
}

interface Case {
  readonly name: string
  readonly table: 'maglev' | RingSize
  readonly weights: readonly number[]
  readonly policies: readonly HashPolicy[]
  readonly request: (key: string, i: number) => Sent
  /** Whether all requests may reach one instance. */
  readonly isConstant?: boolean
}

function policy(source: HashPolicy['source'], name = '', fields: Partial<HashPolicy> = {}): HashPolicy {
  return { source, name, terminal: false, newCookie: undefined, ...fields }
}

const byHeader = [policy('header', 'x-user')]
const withHeader = (key: string): Sent => ({ headers: { 'X-User': key } })

const cases: Case[] = [
  { name: 'a ring of the default size', table: {}, weights: EQUAL, policies: byHeader, request: withHeader },
  { name: 'a small ring', table: { least: 7 }, weights: EQUAL, policies: byHeader, request: withHeader },
  {
    name: 'a ring that is bounded to fewer entries than instances',
    table: { least: 2, greatest: 3 },
    weights: EQUAL,
    policies: byHeader,
    request: withHeader,
    isConstant: true,
  },
  {
    name: 'a ring with weights',
    table: {},
    weights: UNEQUAL,
    policies: byHeader,
    request: withHeader,
  },
  {
    name: 'a bounded ring with weights',
    table: { least: 10, greatest: 40 },
    weights: [1, 2, 3, 4, 5],
    policies: byHeader,
    request: withHeader,
  },
  { name: 'maglev', table: 'maglev', weights: EQUAL, policies: byHeader, request: withHeader },
  {
    name: 'maglev with weights',
    table: 'maglev',
    weights: UNEQUAL,
    policies: byHeader,
    request: withHeader,
  },
  {
    name: 'a header with several lines, in any order',
    table: {},
    weights: EQUAL,
    policies: byHeader,
    request: (key, i) => ({
      headers: {
        'x-user': [
          [key, 'second'],
          ['second', key],
          ['third', key, 'second'],
        ][i % 3]!,
      },
    }),
  },
  {
    name: 'a header whose lines Envoy joins',
    table: {},
    weights: EQUAL,
    policies: [policy('header', 'user-agent')],
    request: (key, i) => ({ headers: { 'user-agent': i % 2 === 0 ? [key, 'a'] : ['a', key] } }),
  },
  {
    name: 'a header with other characters than those of ASCII, and with spaces around it',
    table: {},
    weights: EQUAL,
    policies: byHeader,
    request: (key) => ({ headers: { 'x-user': `  größe ${key}\t` } }),
  },
  {
    name: 'a cookie among others',
    table: {},
    weights: EQUAL,
    policies: [policy('cookie', 'user')],
    request: (key, i) => ({
      headers: {
        cookie: [
          `user=${key}`,
          `a=b; user="${key}"`,
          `auser=1;  user=${key}=; user=2`,
          `user= ${key} ;user=`,
        ][i % 4]!,
      },
    }),
  },
  {
    name: 'a query parameter in its encoded form',
    table: 'maglev',
    weights: EQUAL,
    policies: [policy('query_parameter', 'user')],
    request: (key, i) => ({
      path: [`/?user=${key}&user=2`, `/a?b&user=${key}%20%2f=?`, `/?User=1&user=+${key}&`][i % 3]!,
    }),
  },
  {
    name: 'a query parameter without a value',
    table: {},
    weights: EQUAL,
    policies: [policy('query_parameter', 'user')],
    request: (_key, i) => ({ path: i % 2 === 0 ? '/?user' : '/?user=' }),
    isConstant: true,
  },
  {
    name: 'the source address',
    table: {},
    weights: EQUAL,
    policies: [policy('source_ip')],
    request: () => ({}),
    isConstant: true,
  },
  {
    name: 'the source address of a forwarded request',
    table: {},
    weights: EQUAL,
    policies: [policy('source_ip')],
    request: (key, i) => ({
      headers: {
        'x-forwarded-for': [
          `10.0.0.${i}`,
          [key, `10.1.1.1 , 10.0.1.${i}`],
          `2001:0DB8:0::${i}`,
          `::FFFF:10.0.0.${i}`,
          ['10.0.0.1', key],
          `10.0.0.${i},`,
        ][i % 6]!,
      },
    }),
  },
  {
    name: 'two policies, of which either may apply',
    table: {},
    weights: EQUAL,
    policies: [policy('header', 'x-user'), policy('query_parameter', 'user')],
    request: (key, i) => ({
      ...(i % 3 === 0 ? {} : { headers: { 'x-user': key } }),
      ...(i % 3 === 1 ? {} : { path: `/?user=${i}` }),
    }),
  },
  {
    name: 'equal policies',
    table: {},
    weights: EQUAL,
    policies: [...byHeader, ...byHeader, ...byHeader],
    request: withHeader,
  },
  {
    name: 'a terminal policy that applies',
    table: 'maglev',
    weights: EQUAL,
    policies: [policy('header', 'x-user', { terminal: true }), policy('query_parameter', 'user')],
    request: (key, i) => ({ headers: { 'x-user': key }, path: `/?user=${i}` }),
  },
  {
    name: 'a terminal policy that does not apply, after one that does',
    table: {},
    weights: EQUAL,
    policies: [
      policy('header', 'x-user'),
      policy('cookie', 'user', { terminal: true }),
      policy('query_parameter', 'user'),
    ],
    request: (key, i) => ({ headers: { 'x-user': key }, path: `/?user=${i}` }),
  },
]

describe('Our hash policies and those of Envoy', { skip }, () => {
  it('choose the same instances', async (t) => {
    const instances = await startInstances(t)
    const listeners = await freePorts(cases.length)
    await startStaticEnvoy(t, {
      static_resources: {
        listeners: cases.map(({ policies }, i) => listener(listeners[i]!, `cluster-${i}`, policies)),
        clusters: cases.map(({ table, weights }, i) => cluster(`cluster-${i}`, table, weights, instances)),
      },
    })
    const agent = new Agent({ keepAlive: true })
    t.after(() => {
      agent.destroy()
    })
    for (const [index, { name, table, weights, policies, request, isConstant }] of cases.entries()) {
      await t.test(`by ${name}`, async () => {
        const entries = instances.map((port, i) => ({
          key: `127.0.0.1:${port}`,
          weight: weights[i]!,
          value: port,
        }))
        const own = tableOf(table, entries)
        const expected: (number | undefined)[] = []
        const found: number[] = []
        for (let i = 0; i < KEY_COUNT; i += 1) {
          const sent = request(`key-${i}`, i)
          found.push(Number(await readAll(await send(listeners[index]!, agent, sent))))
          const { hash } = requestHash(policies, hashedRequest(sent), randomBytes)
          expected.push(own.find(hash!, () => true))
        }
        assert.deepEqual(found, expected)
        assert.ok(isConstant === true || new Set(found).size > 1)
      })
    }
  })

  it('agree on the new cookie of a request without one', async (t) => {
    const instances = await startInstances(t)
    const newCookie = { path: '/app', ttlMs: 90_500 }
    const policies = [policy('cookie', 'user', { newCookie })]
    const [port = 0] = await freePorts(1)
    await startStaticEnvoy(t, {
      static_resources: {
        listeners: [listener(port, 'cluster', policies)],
        clusters: [cluster('cluster', {}, EQUAL, instances)],
      },
    })
    const own = ringHash(instances.map((value) => ({ key: `127.0.0.1:${value}`, weight: 1, value })))
    for (let i = 0; i < 20; i += 1) {
      // Envoy derives the value from the ports of the connection.
      const response = await send(port, new Agent(), {})
      const [line = ''] = response.headers['set-cookie'] ?? []
      const value = /^user="([0-9a-f]{16})"; Max-Age=90; Path=\/app; HttpOnly$/.exec(line)?.[1]
      assert.ok(value !== undefined, line)
      const result = requestHash(policies, hashedRequest({}), () => Buffer.from(value, 'hex'))
      assert.deepEqual(result.newCookies, [{ name: 'user', value, ...newCookie }])
      assert.equal(
        own.find(result.hash!, () => true),
        Number(await readAll(response)),
      )
    }
  })
})

/** Starts an instance for each weight. @returns their ports in the order of their keys, as `ringHash` counts them */
async function startInstances(t: TestContext): Promise<number[]> {
  const ports = await Promise.all(EQUAL.map(() => startInstance(t)))
  return ports.map(String).sort().map(Number)
}

/** Starts a server that answers with its port. */
async function startInstance(t: TestContext): Promise<number> {
  const server = createServer((_request, response) => {
    response.end(String(port))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return port
}

async function send(
  port: number,
  agent: Agent,
  { headers = {}, path = '/' }: Sent,
): Promise<IncomingMessage> {
  const request = get({ host: '127.0.0.1', port, path, agent, headers })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return response
}

function hashedRequest({ headers = {}, path = '/' }: Sent): Parameters<typeof requestHash>[1] {
  const lines = new Map(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), [value].flat()]))
  return { path, lines: (name) => lines.get(name) ?? [] }
}

function tableOf(table: Case['table'], entries: HashEntry<number>[]): HashTable<number> {
  return table === 'maglev' ? maglev(entries) : ringHash(entries, table)
}

/** A listener whose only route has the hash policies, in the fields that Consul sets. */
function listener(port: number, clusterName: string, policies: readonly HashPolicy[]): object {
  const type = 'type.googleapis.com/envoy.extensions.filters'
  const route = {
    match: { prefix: '/' },
    route: { cluster: clusterName, hash_policy: policies.map(envoyPolicy) },
  }
  const router = { name: 'router', typed_config: { '@type': `${type}.http.router.v3.Router` } }
  const manager = {
    '@type': `${type}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: clusterName,
    route_config: { virtual_hosts: [{ name: 'all', domains: ['*'], routes: [route] }] },
    http_filters: [router],
  }
  return {
    name: clusterName,
    address: { socket_address: { address: '127.0.0.1', port_value: port } },
    filter_chains: [{ filters: [{ name: 'http', typed_config: manager }] }],
  }
}

function envoyPolicy({ source, name, terminal, newCookie }: HashPolicy): object {
  const cookie = newCookie && { path: newCookie.path, ttl: `${newCookie.ttlMs / 1_000}s` }
  switch (source) {
    case 'header':
      return { header: { header_name: name }, terminal }
    case 'cookie':
      return { cookie: { name, ...cookie }, terminal }
    case 'query_parameter':
      return { query_parameter: { name }, terminal }
    case 'source_ip':
      return { connection_properties: { source_ip: true }, terminal }
  }
}

/** A cluster with the endpoints in the order of the ports. */
function cluster(
  name: string,
  table: Case['table'],
  weights: readonly number[],
  instances: readonly number[],
): object {
  const endpoints = instances.map((port, i) => ({
    endpoint: { address: { socket_address: { address: '127.0.0.1', port_value: port } } },
    load_balancing_weight: weights[i],
  }))
  const policy =
    table === 'maglev'
      ? { lb_policy: 'MAGLEV' }
      : {
          lb_policy: 'RING_HASH',
          ring_hash_lb_config: { minimum_ring_size: table.least, maximum_ring_size: table.greatest },
        }
  return {
    name,
    type: 'STATIC',
    ...policy,
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: endpoints }] },
  }
}
