// How to run each recipe in examples/, and what it must print.
import type { TestContext } from 'node:test'
import { startPostgres } from '../consul/postgres.js'
import { startRedis } from '../consul/redis.js'

export interface Recipe {
  /** Scripts of the package that keep running. They print `ready on port`. */
  readonly servers?: readonly string[]
  /** Programs that must be installed. */
  readonly needs?: readonly string[]
  /** Starts a program behind a sidecar, and returns its port. */
  readonly behindSidecar?: (t: TestContext) => Promise<number>
  /** Scripts that end, with the lines that each must print. */
  readonly clients: Readonly<Record<string, readonly string[]>>
  readonly source: string
  readonly destination: string
  /** What a client must print when it is denied. */
  readonly denial: RegExp
}

const REJECTED = /ERR_CONNECT_REJECTED/
const WEB_TO_API = { source: 'web', destination: 'api', denial: REJECTED }
const FRAMEWORK: Recipe = {
  servers: ['server'],
  clients: { client: ['/ 200 hello web', '/admin 403 forbidden'] },
  ...WEB_TO_API,
}

export const recipes: Readonly<Record<string, Recipe>> = {
  'http-server': {
    servers: ['server'],
    clients: { client: ['/ 200 hello web', '/admin 403 forbidden for web'] },
    ...WEB_TO_API,
  },
  fetch: {
    servers: ['server'],
    clients: {
      client: [
        "fetch 200 { caller: 'shop', requests: 1 }",
        "undici 200 { caller: 'shop', requests: 3 }",
        'outside the mesh: host "example.com" is not in the domain consul',
      ],
    },
    source: 'shop',
    destination: 'billing',
    denial: REJECTED,
  },
  express: FRAMEWORK,
  fastify: FRAMEWORK,
  hono: FRAMEWORK,
  websocket: {
    servers: ['server'],
    clients: { client: ['web said hello', 'web said goodbye'] },
    source: 'web',
    destination: 'chat',
    denial: REJECTED,
  },
  grpc: {
    servers: ['server'],
    clients: { client: ['hello to you, web', 'one', 'two', 'three'] },
    source: 'web',
    destination: 'greeter',
    denial: /the connection was closed before its first byte/,
  },
  opentelemetry: {
    servers: ['server'],
    clients: {
      client: [
        '200 hello web',
        'span "dial api" in "ask api"',
        'connect.dial.duration {"service":"web","upstream":"api","outcome":"ok"}',
        'connect.rotations {"service":"web","what":"leaf"}',
        'connect.agent.request.duration {"method":"GET","outcome":"200"}',
      ],
    },
    ...WEB_TO_API,
  },
  prometheus: {
    servers: ['server'],
    clients: {
      client: [
        '200 hello web',
        'connect_dial_seconds_count{service="web",upstream="api",outcome="ok"} 1',
        'connect_rotations_total{service="web",what="leaf"} 1',
        'connect_agent_stale_seconds{service="web"} 0',
        'connect_certificate_expires_timestamp_seconds{service="web"} 1',
      ],
    },
    ...WEB_TO_API,
  },
  postgres: {
    needs: ['initdb', 'postgres'],
    behindSidecar: startPostgres,
    clients: { pg: ['pg: 42'], postgres: ['postgres.js: 42'] },
    source: 'web',
    destination: 'postgres',
    denial: REJECTED,
  },
  redis: {
    needs: ['redis-server'],
    behindSidecar: startRedis,
    clients: { ioredis: ['ioredis: hello'], 'node-redis': ['node-redis: hello'] },
    source: 'web',
    destination: 'redis',
    denial: /the connection was closed before its first byte/,
  },
}
