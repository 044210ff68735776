// Reads a mesh connection by lines or as a whole. The connection can still be written to afterwards.
import { text } from 'node:stream/consumers'
import type { MeshSocket } from 'consul-connect'

/** Limits the memory that a peer can use. */
const MAX_LINE_LENGTH = 64 * 1024

export async function* readLines(socket: MeshSocket): AsyncGenerator<string> {
  let text = ''
  for await (const chunk of socket.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    text += chunk as string
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    if (text.length > MAX_LINE_LENGTH)
      throw new Error(`line too long; expected at most ${MAX_LINE_LENGTH} characters`)
    yield* lines
  }
}

export function readText(socket: MeshSocket): Promise<string> {
  return text(socket.iterator({ destroyOnReturn: false }) as AsyncIterableIterator<Buffer>)
}
