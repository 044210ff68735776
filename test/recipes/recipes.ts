// The recipes of examples/, each run as its reader would: a server, a client, the same again when it is denied.
import type { TestContext } from 'node:test'
import { startPostgres } from '../consul/postgres.js'
import { startRedis } from '../consul/redis.js'

export interface Recipe {
  /** Scripts of the package that stay, each until it says `ready`. */
  readonly servers?: readonly string[]
  /** What the machine must have. */
  readonly needs?: readonly string[]
  /** A program behind the sidecar: starts it, and returns its port. */
  readonly behindSidecar?: (t: TestContext) => Promise<number>
  /** Scripts that end, with what each must print. */
  readonly clients: Readonly<Record<string, readonly string[]>>
  readonly source: string
  readonly destination: string
  /** What a client must say that is denied. */
  readonly denial: RegExp
}

const REJECTED = /ERR_CONNECT_REJECTED/
const frameworks = ['/ 200 hello web', '/admin 403 forbidden']

export const recipes: Readonly<Record<string, Recipe>> = {
  'http-server': {
    servers: ['server'],
    clients: { client: ['/ 200 hello web', '/admin 403 forbidden for web'] },
    source: 'web',
    destination: 'api',
    denial: REJECTED,
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
  express: {
    servers: ['server'],
    clients: { client: frameworks },
    source: 'web',
    destination: 'api',
    denial: REJECTED,
  },
  fastify: {
    servers: ['server'],
    clients: { client: frameworks },
    source: 'web',
    destination: 'api',
    denial: REJECTED,
  },
  hono: {
    servers: ['server'],
    clients: { client: frameworks },
    source: 'web',
    destination: 'api',
    denial: REJECTED,
  },
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
    source: 'web',
    destination: 'api',
    denial: REJECTED,
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
    source: 'web',
    destination: 'api',
    denial: REJECTED,
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
