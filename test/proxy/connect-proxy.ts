// The sidecar as a process of its own, started as a user would: `connect-proxy -flags`.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, type ServerOpts, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { TestContext } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { WAIT_MS, until } from '../fixtures/mesh.js'

const folder = join(import.meta.dirname, '..', '..', 'examples', 'proxy')
const bin = join(folder, 'bin.js')

/** One line of its log. */
export interface Line {
  readonly level: number
  readonly msg: string
  readonly [field: string]: unknown
}

export interface ProxyOptions {
  /** Besides those of the agent. */
  readonly env?: Readonly<Record<string, string>>
  /** What is waited for in its log before it counts as started. @default every listener that its flags name */
  readonly ready?: readonly string[]
}

export class RunningProxy {
  readonly #child: ChildProcess
  readonly #waiting = new Set<() => void>()
  /** Everything that it has logged. */
  readonly lines: Line[] = []
  /** What it has written besides. */
  text = ''

  constructor(child: ChildProcess) {
    this.#child = child
    for (const stream of [child.stdout!, child.stderr!]) {
      createInterface(stream).on('line', (text) => {
        const line = parse(text)
        if (line === undefined) this.text += `${text}\n`
        else this.lines.push(line)
        this.#wake()
      })
    }
    child.once('exit', () => {
      this.#wake()
    })
  }

  get pid(): number {
    return this.#child.pid!
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** The first such line, that which was logged already included. */
  async logged(what: string | ((line: Line) => boolean), from = 0): Promise<Line> {
    const accept = typeof what === 'string' ? ({ msg }: Line): boolean => msg.includes(what) : what
    const deadline = AbortSignal.timeout(WAIT_MS)
    for (;;) {
      const found = this.lines.slice(from).find(accept)
      if (found !== undefined) return found
      if (this.hasEnded || deadline.aborted) {
        throw new Error(
          `it has not logged ${String(what)}:\n${this.text}${JSON.stringify(this.lines, undefined, 1)}`,
        )
      }
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve)
        deadline.addEventListener('abort', () => {
          resolve()
        })
      })
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** Waits for its end; returns its exit code, or the signal that ended it. */
  async ended(): Promise<number | NodeJS.Signals | null> {
    try {
      if (!this.hasEnded) await once(this.#child, 'exit', { signal: AbortSignal.timeout(WAIT_MS) })
    } catch (cause) {
      const logged = JSON.stringify(this.lines.slice(-20), undefined, 1)
      throw new Error(`it has not ended in ${WAIT_MS} ms; its last lines: ${logged}`, { cause })
    }
    return this.#child.exitCode ?? this.#child.signalCode
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | NodeJS.Signals | null> {
    this.signal(signal)
    return this.ended()
  }

  /** How many descriptors it has open. */
  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length
  }

  /** The answer of its admin address. */
  async admin(path: string): Promise<{ readonly status: number; readonly text: string }> {
    const { address } = (await this.logged('admin address is open')) as { address?: string } & Line
    const response = await fetch(`http://${address}${path}`)
    return { status: response.status, text: await response.text() }
  }

  /** The sum of a metric over its labels, or over those with these values. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const { text } = await this.admin('/metrics')
    return text
      .split('\n')
      .filter((line) => line.startsWith(`connect_proxy_${name}`) && /[{ ]/.test(line[name.length + 14] ?? ''))
      .filter((line) => Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}

function parse(text: string): Line | undefined {
  try {
    return JSON.parse(text) as Line
  } catch {
    return undefined
  }
}

/** Runs it with nothing but these flags, and without waiting for anything. */
export function spawnProxy(
  t: TestContext,
  flags: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningProxy {
  if (!existsSync(join(folder, 'dist', 'main.js'))) throw new Error('the proxy is not built: npm run build')
  const { PATH = '' } = process.env
  // The variables of whoever runs the tests must not leak in.
  const child = spawn(process.execPath, [bin, ...flags], {
    env: { PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const proxy = new RunningProxy(child)
  t.after(() => proxy.stop('SIGKILL'))
  return proxy
}

/** Runs it until the end of the test. */
export async function startProxy(
  t: TestContext,
  agent: string,
  flags: readonly string[],
  { env = {}, ready }: ProxyOptions = {},
): Promise<RunningProxy> {
  const common = [
    '-http-addr',
    agent,
    '-log-json',
    '-log-level',
    'debug',
    '-admin-addr',
    String(await freePort()),
  ]
  const proxy = spawnProxy(t, [...common, ...flags], env)
  const expected = ready ?? [
    ...flags.filter((flag) => flag === '-listen').map(() => 'public listener is open'),
    ...flags.filter((flag) => flag === '-upstream').map(() => 'upstream is open'),
    ...flags.filter((flag) => flag === '-register').map(() => 'registered'),
  ]
  for (const what of new Set(expected)) {
    const times = expected.filter((one) => one === what).length
    await proxy.logged(() => proxy.lines.filter(({ msg }) => msg === what).length >= times)
  }
  return proxy
}

/** A folder until the end of the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-proxy-'))
  t.after(() => {
    rmSync(folder, { recursive: true })
  })
  return folder
}

/** A file with these settings; returns its path. */
export function configFile(t: TestContext, settings: object): string {
  const path = join(temporaryFolder(t), 'proxy.json')
  writeFileSync(path, JSON.stringify(settings))
  return path
}

/** A plain application on the loopback, until the end of the test. */
export async function startApplication(
  t: TestContext,
  handler: (socket: Socket) => void,
  options: ServerOpts = {},
): Promise<{ readonly port: number; readonly sockets: Set<Socket>; readonly close: () => Promise<void> }> {
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true, ...options }, (socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).once('close', () => sockets.delete(socket))
    handler(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = async (): Promise<void> => {
    if (!server.listening) return
    server.close()
    for (const socket of sockets) socket.destroy()
    await once(server, 'close')
  }
  t.after(close)
  return { port: (server.address() as AddressInfo).port, sockets, close }
}

export function echo(socket: Socket): void {
  socket.pipe(socket)
}

/** A local connection, as a program that knows nothing of the mesh makes it. */
export function localConnect(t: TestContext, port: number): Socket {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  // At the end of a test the services go first, and their end is a reset here.
  socket.on('error', () => undefined)
  t.after(() => socket.destroy())
  return socket
}

/** The next bytes from a socket. */
export async function nextData(socket: Socket): Promise<string> {
  const stop = new AbortController()
  const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(WAIT_MS)])
  const closed = once(socket, 'close', { signal }).then(() => {
    throw new Error(`the connection ended before its next bytes (${socket.errored?.message ?? 'in order'})`)
  })
  closed.catch(() => undefined)
  try {
    const [data] = (await Promise.race([once(socket, 'data', { signal }), closed])) as [Buffer]
    return String(data)
  } finally {
    stop.abort()
  }
}

/** Whether connections to a port are refused. */
export function isRefused(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => {
      socket.destroy()
      resolve(false)
    })
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      resolve(code === 'ECONNREFUSED')
    })
  })
}

export interface Pair {
  readonly inbound: RunningProxy
  readonly outbound: RunningProxy
  /** The local port that leads to the application. */
  readonly port: number
  /** The port of the public listener. */
  readonly publicPort: number
}

/** An application behind a proxy of the service `api`, and a proxy of `web` that leads there. */
export async function startPair(
  t: TestContext,
  agent: string,
  applicationPort: number,
  { inbound = [], outbound = [] }: { inbound?: readonly string[]; outbound?: readonly string[] } = {},
): Promise<Pair> {
  const [publicPort, port] = [await freePort(), await freePort()]
  const service = ['-service', 'api', '-service-addr', `127.0.0.1:${applicationPort}`]
  const listen = ['-listen', `127.0.0.1:${publicPort}`, '-register']
  return {
    inbound: await startProxy(t, agent, [...service, ...listen, ...inbound]),
    outbound: await startProxy(t, agent, [
      '-service',
      'web',
      '-upstream',
      `api:127.0.0.1:${port}`,
      ...outbound,
    ]),
    port,
    publicPort,
  }
}

/** Waits until a proxy has no connection and as many descriptors as at first. */
export async function settled(proxy: RunningProxy, descriptors: number): Promise<void> {
  await until('no connection is open', async () => (await proxy.metric('connections_open')) === 0)
  // The request of the metrics is one more, for as long as it lasts.
  await until('descriptors are back at the start', () => proxy.descriptors() <= descriptors)
}
