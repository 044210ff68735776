// What is said over a connection: line by line, or as a whole. Reading to the end leaves the other direction open.
import { text } from 'node:stream/consumers'
import type { MeshSocket } from 'consul-connect'

/** A queue that sends a line longer than this is not ours. */
const LONGEST = 64 * 1024

export async function* linesOf(socket: MeshSocket): AsyncGenerator<string> {
  let text = ''
  for await (const chunk of socket.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    text += chunk as string
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    if (text.length > LONGEST) throw new Error(`a line of more than ${LONGEST} characters`)
    yield* lines
  }
}

export function wholeOf(socket: MeshSocket): Promise<string> {
  return text(socket.iterator({ destroyOnReturn: false }) as AsyncIterableIterator<Buffer>)
}
