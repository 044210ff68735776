// Client libraries with the adapter for their way to accept a connection.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { Agent } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import axios from 'axios'
import got from 'got'
import { Kafka, logLevel } from 'kafkajs'
import mysql from 'mysql2'
import { type WebSocket as ServedSocket, WebSocket, WebSocketServer } from 'ws'
import { type Service, peer } from '../../src/index.js'
import { dialLocal, pump } from '../../src/proxy.js'
import { codeOf } from '../fixtures/http-ways.js'
import { offer, rejection, startMesh, until } from '../fixtures/mesh.js'
import { offerServer } from './offer-server.js'

interface Answer {
  readonly data: unknown
  readonly caller: unknown
}

interface Pair {
  readonly web: Service
  readonly api: Service
  readonly deny: () => void
}

async function startPair(t: TestContext): Promise<Pair> {
  const { agent, join } = await startMesh(t)
  const deny = (): void => {
    agent.setIntention('web', 'api', 'deny')
  }
  return { web: join('web'), api: join('api'), deny }
}

/** Clients that accept an agent for each scheme. Each returns the answer to a POST with its caller. */
const clients: Readonly<Record<string, (agent: Agent) => (url: string, json: object) => Promise<Answer>>> = {
  axios: (agent) => {
    const client = axios.create({ httpAgent: agent, httpsAgent: agent, proxy: false })
    return async (url, json) => {
      const { data, headers } = await client.post<unknown>(url, json)
      return { data, caller: headers['x-caller'] }
    }
  },
  got: (agent) => {
    const client = got.extend({ agent: { http: agent, https: agent } })
    return async (url, json) => {
      const { body, headers } = await client.post<unknown>(url, { json, responseType: 'json' })
      return { data: body, caller: headers['x-caller'] }
    }
  },
}

for (const [name, clientOf] of Object.entries(clients)) {
  describe(name, () => {
    it('accepts the agent for both schemes', async (t) => {
      const { web, api, deny } = await startPair(t)
      const server = createServer((request, response) => {
        request.pipe(response.setHeader('x-caller', peer(request.socket)?.service ?? ''))
      })
      const listener = await offerServer(api, server)
      const post = clientOf(web.httpAgent())
      for (const scheme of ['http', 'https']) {
        const answer = await post(`${scheme}://api.service.consul/`, { scheme })
        assert.deepEqual(answer, { data: { scheme }, caller: 'web' })
      }
      assert.equal(codeOf(await rejection(post('http://example.com/', {}))), 'ERR_CONNECT_HOST')
      await listener.close()
      deny()
      await offerServer(api, createServer(), { id: 'api-2' })
      await until('web is denied', async () => {
        const error = await rejection(post('http://api.service.consul/', {}))
        return codeOf(error) === 'ERR_CONNECT_REJECTED'
      })
    })
  })
}

describe('ws', () => {
  it('accepts the agent, and its connections end when an intention denies them', async (t) => {
    const { web, api, deny } = await startPair(t)
    const server = createServer()
    new WebSocketServer({ server }).on('connection', (socket: ServedSocket, request) => {
      socket.on('error', () => undefined)
      socket.on('message', (data: Buffer) => {
        socket.send(`${peer(request.socket)?.service ?? ''}: ${data.toString()}`)
      })
    })
    await offerServer(api, server)
    const socket = new WebSocket('wss://api.service.consul/', { agent: web.httpAgent() })
    await once(socket, 'open')
    socket.send('hello')
    assert.equal(String((await once(socket, 'message'))[0]), 'web: hello')
    const closed = once(socket, 'close')
    socket.on('error', () => undefined)
    deny()
    await closed
  })
})

describe('mysql2', () => {
  it('accepts a stream', async (t) => {
    const { web, api } = await startPair(t)
    // The types of mysql2 lack createServer.
    const server = (mysql.createServer as unknown as () => MysqlServer)()
    server.on('connection', (connection) => {
      connection.serverHandshake({
        protocolVersion: 10,
        serverVersion: 'test',
        connectionId: 1,
        statusFlags: 2,
        characterSet: 8,
        capabilityFlags: 0xffffff ^ 0x800,
        authCallback: (_who: unknown, done: (error: null) => void) => {
          done(null)
          // Packet numbers restart with every command, which the server of mysql2 leaves to its user.
          connection.sequenceId = 0
        },
      })
      connection.on('error', () => undefined)
      connection.on('query', () => {
        connection.writeTextResult([{ answer: '42' }], [column('answer')])
      })
    })
    server.listen(0, '127.0.0.1')
    const tcp = server._server
    await once(tcp, 'listening')
    t.after(() => tcp.close())
    const { port } = tcp.address() as AddressInfo
    await offer(api, async (socket) => {
      await pump(socket, await dialLocal({ host: '127.0.0.1', port })).catch(() => undefined)
    })
    const connection = mysql.createConnection({ user: 'x', stream: () => web.stream('api') })
    const rows = await new Promise((resolve, reject) => {
      connection.query('select 42 as answer', (error, result) => {
        if (error === null) resolve(result)
        else reject(error)
      })
    })
    assert.deepEqual(
      (rows as { answer: string }[]).map(({ answer }) => answer),
      ['42'],
    )
    connection.destroy()
    const failed = mysql.createConnection({ user: 'x', stream: () => web.stream('missing') })
    const [error] = (await once(failed, 'error')) as [Error]
    assert.equal(codeOf(error), 'ERR_CONNECT_NO_INSTANCES')
  })
})

interface MysqlServer {
  readonly _server: Server
  on(event: 'connection', listener: (connection: ServedConnection) => void): void
  listen(port: number, host: string): void
}

interface ServedConnection {
  on(event: 'error' | 'query', listener: () => void): void
  sequenceId: number
  serverHandshake(handshake: object): void
  writeTextResult(rows: object[], columns: object[]): void
}

function column(name: string): object {
  return {
    catalog: 'def',
    schema: '',
    table: '',
    orgTable: '',
    name,
    orgName: name,
    characterSet: 33,
    columnLength: 384,
    columnType: 253,
    flags: 0,
    decimals: 0,
  }
}

describe('kafkajs', () => {
  it('accepts a stream and sends its first request over it', async (t) => {
    const { web, api } = await startPair(t)
    let request: Buffer | undefined
    await offer(api, (socket) => {
      socket.once('data', (data: Buffer) => {
        request = data
        socket.destroy()
      })
    })
    const kafka = new Kafka({
      clientId: 'the-client',
      brokers: ['kafka:9092'],
      logLevel: logLevel.NOTHING,
      retry: { retries: 0 },
      socketFactory: ({ onConnect }) => web.stream('api').connect(onConnect) as never,
    })
    const admin = kafka.admin()
    await rejection(admin.connect())
    // Every Kafka connection starts with ApiVersions (key 18) and the client id.
    assert.ok(request !== undefined)
    assert.equal(request.readInt32BE(0), request.length - 4)
    assert.equal(request.readInt16BE(4), 18)
    assert.ok(request.includes('the-client'))
    await admin.disconnect()
  })
})
