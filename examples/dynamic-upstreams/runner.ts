// The job runner. It knows one upstream when it starts, the queue; all others it learns from the jobs.
import { text } from 'node:stream/consumers'
import type { AddressInfo } from 'node:net'
import type { Service, Upstream } from 'consul-connect'
import { type Job, type Result, parseJob } from './jobs.js'
import { readUpstream } from './kv.js'
import { linesOf } from './lines.js'

/** Works until the queue ends the connection. Jobs run side by side; one that fails says so and hurts no other. */
export async function runJobs(runner: Service, agent: string): Promise<void> {
  const queue = await runner.dial('queue', { allowHalfOpen: true })
  const running: Promise<void>[] = []
  for await (const line of linesOf(queue)) {
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
  const { id, by, payload } = job
  try {
    const upstream = await learn(agent, job)
    const answer =
      by === 'line' ? await askByLine(runner, upstream, payload) : await askByHttp(runner, upstream, payload)
    return { id, answer }
  } catch (error) {
    return { id, error: error instanceof Error ? error.message : String(error) }
  }
}

async function learn(agent: string, { upstream }: Job): Promise<Upstream> {
  return typeof upstream === 'object' && 'kv' in upstream ? readUpstream(agent, upstream.kv) : upstream
}

/** Over a connection of the mesh. It is let go at the end; what is watched for it ends by itself when unused. */
async function askByLine(runner: Service, upstream: Upstream, payload: string): Promise<string> {
  const socket = await runner.dial(upstream, { allowHalfOpen: true, timeoutMs: 5_000 })
  socket.end(payload)
  return text(socket)
}

/** Through a local port, for clients that take an address and nothing else. The port is there for this job alone. */
async function askByHttp(runner: Service, upstream: Upstream, payload: string): Promise<string> {
  await using door = await runner.forward(upstream, { port: 0, dialTimeoutMs: 5_000 })
  const { port } = door.address() as AddressInfo
  const response = await fetch(`http://127.0.0.1:${port}/${payload}`, {
    headers: { connection: 'close' },
    signal: AbortSignal.timeout(10_000),
  })
  return await response.text()
}
