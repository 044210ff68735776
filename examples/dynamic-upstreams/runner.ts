// The job runner. It starts with one upstream, the queue; jobs name all others.
import { text } from 'node:stream/consumers'
import type { AddressInfo } from 'node:net'
import type { Service, Upstream } from 'consul-connect'
import { type Job, type Result, parseJob } from './jobs.js'
import { readUpstream } from './kv.js'
import { readLines } from './lines.js'

/**
 * Runs jobs in parallel until the queue ends the connection. A failed job returns its error as its result.
 * @param agent - URL of the agent, for the KV store
 */
export async function runJobs(runner: Service, agent: string): Promise<void> {
  const queue = await runner.dial('queue', { allowHalfOpen: true })
  const running: Promise<void>[] = []
  for await (const line of readLines(queue)) {
    const job = parseJob(line)
    running.push(
      run(runner, agent, job).then((result) => {
        queue.write(`${JSON.stringify(result)}\n`)
      }),
    )
  }
  await Promise.all(running)
  queue.end()
}

async function run(runner: Service, agent: string, job: Job): Promise<Result> {
  const { id, protocol, payload } = job
  try {
    const upstream = await resolveUpstream(agent, job)
    const answer =
      protocol === 'text'
        ? await requestText(runner, upstream, payload)
        : await requestHttp(runner, upstream, payload)
    return { id, answer }
  } catch (error) {
    return { id, error: error instanceof Error ? error.message : String(error) }
  }
}

/** Returns the upstream of a job. Reads it from the KV store if the job names a key. */
async function resolveUpstream(agent: string, { upstream }: Job): Promise<Upstream> {
  return typeof upstream === 'object' && 'kv' in upstream ? readUpstream(agent, upstream.kv) : upstream
}

/** Sends the payload over a mesh connection. The watch of the upstream ends after five minutes without use. */
async function requestText(runner: Service, upstream: Upstream, payload: string): Promise<string> {
  const socket = await runner.dial(upstream, { allowHalfOpen: true, timeoutMs: 5_000 })
  socket.end(payload)
  return text(socket)
}

/** Sends a GET request through a local port, as for a client that accepts only an address. Closes the port afterwards. */
async function requestHttp(runner: Service, upstream: Upstream, payload: string): Promise<string> {
  await using forward = await runner.forward(upstream, { port: 0, dialTimeoutMs: 5_000 })
  const { port } = forward.address() as AddressInfo
  const response = await fetch(`http://127.0.0.1:${port}/${payload}`, {
    headers: { connection: 'close' },
    signal: AbortSignal.timeout(10_000),
  })
  return await response.text()
}
