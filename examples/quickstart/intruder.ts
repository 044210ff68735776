// A service that has a valid certificate, but is not allowed to call `api`.
import * as connect from 'consul-connect'
import { Demo } from './programs.js'

await using intruder = connect.service('intruder')
using demo = new Demo(intruder)
try {
  // In TLS 1.3, the dial succeeds before `api` refuses: the error is thrown by the loop.
  const socket = await intruder.dial('api')
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  demo.send({ event: 'answer', answer, spiffeId: socket.peer.spiffeId })
} catch (error) {
  if (!(error instanceof connect.DialError)) throw error
  demo.send({ event: 'refused', code: error.code, message: error.message })
}
