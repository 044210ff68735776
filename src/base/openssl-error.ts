/** `<thread>:error:<number>:<library>:<function>:<reason>:<file>:<line>:<details>` and a newline. */
const OPENSSL_TEXT = /(?:[0-9A-F]{8,}:)?error:[0-9A-F]{8}:([^:]*):[^:]*:([^:]*):.*/s

/**
 * Shortens the message of an OpenSSL error to its library and reason. The full text contains a thread address and ends
 * with a newline, so that each occurrence would look different in a log.
 */
export function withShortMessage(error: Error): Error {
  error.message = error.message.slice(0, 1_024).replace(OPENSSL_TEXT, '$1: $2').trim()
  return error
}
