import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { type ConnectionOptions, connect } from 'node:tls'
import { offeredProtocols } from '../../src/transport/inbound/client-hello.js'
import { plainServer } from '../fixtures/plain-server.js'
import { seeded } from '../fixtures/random.js'

/** The first bytes of a client of Node.js. */
async function helloOf(t: TestContext, options: ConnectionOptions): Promise<Buffer> {
  const client = new AbortController()
  return new Promise((resolve) => {
    void plainServer(t, (socket) => {
      socket.once('data', (bytes) => {
        client.abort()
        resolve(bytes)
      })
    }).then((port) => {
      const socket = connect({ ...options, port, host: '127.0.0.1' }).on('error', () => undefined)
      client.signal.addEventListener('abort', () => socket.destroy())
    })
  })
}

/** The same message in records of a few bytes. */
function inRecords(bytes: Buffer, size: number): Buffer {
  const message = bytes.subarray(5)
  const parts: Buffer[] = []
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size)
    parts.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part)
  }
  return Buffer.concat(parts)
}

describe('the ALPN protocols of a ClientHello', () => {
  for (const names of [[], ['h2'], ['consul-connect-mux/1'], ['h2', 'http/1.1', 'x'.repeat(255)]]) {
    for (const servername of [undefined, `api.default.dc1.internal.${'a'.repeat(36)}.consul`]) {
      it(`are ${names.map((name) => name.slice(0, 20)).join(', ') || 'none'} of a client with ${servername ? 'a' : 'no'} server name`, async (t) => {
        const bytes = await helloOf(t, {
          ...(servername !== undefined && { servername }),
          ...(names.length > 0 && { ALPNProtocols: names }),
        })
        assert.deepEqual(offeredProtocols(bytes), names)
        assert.deepEqual(offeredProtocols(Buffer.concat([bytes, Buffer.from('more')])), names)
        // As many as are read; Node.js 24 sends more than 1,500 bytes.
        assert.deepEqual(offeredProtocols(inRecords(bytes, Math.ceil(bytes.length / 64))), names)
        assert.deepEqual(offeredProtocols(inRecords(bytes, 100)), names)
        assert.deepEqual(offeredProtocols(inRecords(bytes, 1)), [])
        for (let length = 0; length < bytes.length; length += 1)
          assert.equal(offeredProtocols(bytes.subarray(0, length)), undefined)
      })
    }
  }

  it('are none of other bytes', () => {
    const wrong = [
      ...[
        'GET / HTTP/1.1\r\n\r\n',
        '\x00',
        '\x16\x03\x01\x00\x00',
        '\x16\x03\x01\xff\xff',
        '\x15\x03\x01\x00\x02\x02\x28',
      ],
      // Another message, one that is too long, and an empty one.
      ...[
        '\x16\x03\x01\x00\x04\x02\x00\x00\x00',
        '\x16\x03\x01\x00\x04\x01\x01\x00\x00',
        '\x16\x03\x01\x00\x04\x01\x00\x00\x00',
      ],
    ]
    for (const text of wrong)
      assert.deepEqual(offeredProtocols(Buffer.from(text, 'latin1')), [], JSON.stringify(text))
  })

  it('are read without an exception from 20,000 damaged messages', async (t) => {
    const random = seeded(19)
    const original = await helloOf(t, {
      servername: 'api.consul',
      ALPNProtocols: ['consul-connect-mux/1', 'h2'],
    })
    let isRead = 0
    for (let i = 0; i < 20_000; i += 1) {
      const bytes = Buffer.from(original)
      for (let n = 0; n <= random() * 4; n += 1)
        bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256)
      if (offeredProtocols(bytes.subarray(0, Math.floor(random() * 2 * bytes.length)))?.includes('h2'))
        isRead += 1
    }
    // Most changes concern random bytes and keys.
    assert.ok(isRead > 5_000, `${isRead}`)
  })
})
