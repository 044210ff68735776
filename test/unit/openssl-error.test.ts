import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { withShortMessage } from '../../src/sockets/openssl-error.js'

describe('withShortMessage', () => {
  for (const [message, expected] of [
    [
      '40C7E5F8967F0000:error:0A0000C7:SSL routines:tls_process_client_certificate:peer did not return a certificate:../deps/openssl/statem_srvr.c:3519:\n',
      'SSL routines: peer did not return a certificate',
    ],
    [
      'write EPROTO 40C7E5F8967F0000:error:0A000458:SSL routines:ssl3_read_bytes:tlsv1 unrecognized name:../rec.c:1586:SSL alert number 112\n',
      'write EPROTO SSL routines: tlsv1 unrecognized name',
    ],
    ['read ECONNRESET', 'read ECONNRESET'],
    [`${'A'.repeat(5_000)}:error`, 'A'.repeat(1_024)],
  ] as const) {
    it(`shortens ${JSON.stringify(message.slice(0, 40))} to ${JSON.stringify(expected.slice(0, 40))}`, () => {
      assert.equal(withShortMessage(new Error(message)).message, expected)
    })
  }
})
