import { type FileHandle, open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { UsageError } from 'consul-connect-proxy/command-line'
import { STREAMS, logPath } from '../process/logs.js'
import { fileName, stateFolder } from '../state/folder.js'

const POLL_MS = 250
/** How much of the existing log to print. */
const LAST_BYTES = 64 * 1024

/**
 * Prints the log of a proxy: its standard output to stdout, its standard error to stderr.
 * @throws Error
 */
export async function logs(
  dataDir: string,
  ids: readonly string[],
  { follow, signal }: { readonly follow: boolean; readonly signal: AbortSignal },
): Promise<void> {
  const [id, ...others] = ids
  if (id === undefined || others.length > 0) throw new UsageError('logs: expected the id of one proxy')
  const folder = stateFolder(dataDir).logs
  const names = [fileName(id), fileName(`${id}-proxy`)]
  const tails = await Promise.all(
    STREAMS.map(async (stream) => {
      for (const name of names) {
        const tail = await openTail(logPath(folder, name, stream), process[stream])
        if (tail !== undefined) return tail
      }
      return undefined
    }),
  )
  const found = tails.filter((tail) => tail !== undefined)
  if (found.length === 0) throw new Error(`no logs found for ${JSON.stringify(id)} in ${folder}`)
  try {
    do {
      for (const tail of found) await copy(tail)
    } while (follow && (await sleep(POLL_MS, true, { signal }).catch(() => false)))
  } finally {
    for (const { file } of found) await file.close()
  }
}

interface Tail {
  readonly file: FileHandle
  readonly output: NodeJS.WritableStream
  position: number
}

async function openTail(path: string, output: NodeJS.WritableStream): Promise<Tail | undefined> {
  let file: FileHandle
  try {
    file = await open(path)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new Error(`${path} cannot be read (${code ?? 'unknown error'})`, { cause })
  }
  const { size } = await file.stat()
  return { file, output, position: Math.max(0, size - LAST_BYTES) }
}

async function copy(tail: Tail): Promise<void> {
  const { size } = await tail.file.stat()
  // The log was rotated and starts again at its beginning.
  if (size < tail.position) tail.position = 0
  const buffer = Buffer.alloc(Math.min(LAST_BYTES, size - tail.position))
  while (tail.position < size && buffer.length > 0) {
    const { bytesRead } = await tail.file.read(buffer, 0, buffer.length, tail.position)
    if (bytesRead === 0) return
    tail.position += bytesRead
    tail.output.write(Buffer.from(buffer.subarray(0, bytesRead)))
  }
}
