// Runs the sidecar as a separate process, as a user does: `connect-proxy -flags`.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, type ServerOpts, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { TestContext } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { type TestMesh, WAIT_MS, startMesh } from '../fixtures/mesh.js'

const folder = join(import.meta.dirname, '..', '..', 'examples', 'proxy')
const bin = join(folder, 'bin.js')

/** A line of the JSON log. */
export interface Line {
  readonly level: number
  readonly msg: string
  readonly [field: string]: unknown
}

export interface ProxyOptions {
  /** Environment variables besides PATH. */
  readonly env?: Readonly<Record<string, string>>
  /** Log messages to wait for. @default one for each listener, upstream, and registration in the flags */
  readonly ready?: readonly string[]
}

export class RunningProxy {
  readonly #child: ChildProcess
  readonly #waiting = new Set<() => void>()
  /** Every logged line. */
  readonly lines: Line[] = []
  /** Output that is not JSON. */
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

  /**
   * Waits for a line of the log.
   * @param wanted - a part of the message, or a predicate
   * @param from - the number of lines to skip; earlier lines count by default
   */
  async logged(wanted: string | ((line: Line) => boolean), from = 0): Promise<Line> {
    const accept = typeof wanted === 'string' ? ({ msg }: Line): boolean => msg.includes(wanted) : wanted
    const deadline = AbortSignal.timeout(WAIT_MS)
    for (;;) {
      const found = this.lines.slice(from).find(accept)
      if (found !== undefined) return found
      if (this.hasEnded || deadline.aborted) {
        throw new Error(
          `not logged: ${String(wanted)}\n${this.text}${JSON.stringify(this.lines, undefined, 1)}`,
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

  /** Waits until the process ends, and returns its exit code or the signal that ended it. */
  async ended(): Promise<number | NodeJS.Signals | null> {
    try {
      if (!this.hasEnded) await once(this.#child, 'exit', { signal: AbortSignal.timeout(WAIT_MS) })
    } catch (cause) {
      const logged = JSON.stringify(this.lines.slice(-20), undefined, 1)
      throw new Error(`the process did not end within ${WAIT_MS} ms; last lines: ${logged}`, { cause })
    }
    return this.#child.exitCode ?? this.#child.signalCode
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | NodeJS.Signals | null> {
    this.signal(signal)
    return this.ended()
  }

  /** Requests a path of the admin address. */
  async admin(path: string): Promise<{ readonly status: number; readonly text: string }> {
    const { address } = (await this.logged('admin address is open')) as { address?: string } & Line
    const response = await fetch(`http://${address}${path}`)
    return { status: response.status, text: await response.text() }
  }

  /** The sum of a metric over all samples with these labels. */
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

/** Starts the proxy with exactly these flags, and does not wait. */
export function spawnProxy(
  t: TestContext,
  flags: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningProxy {
  if (!existsSync(join(folder, 'dist', 'main.js'))) throw new Error('the proxy is not built: npm run build')
  const { PATH = '' } = process.env
  // Without CONSUL_HTTP_ADDR and the like of the developer.
  const child = spawn(process.execPath, [bin, ...flags], {
    env: { PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const proxy = new RunningProxy(child)
  t.after(() => proxy.stop('SIGKILL'))
  return proxy
}

/** Starts the proxy with a debug log and an admin address, and waits until it is ready. Ends it with the test. */
export async function startProxy(
  t: TestContext,
  agent: string,
  flags: readonly string[],
  { env = {}, ready }: ProxyOptions = {},
): Promise<RunningProxy> {
  const adminPort = String(await freePort())
  const common = ['-http-addr', agent, '-log-json', '-log-level', 'debug', '-admin-addr', adminPort]
  const proxy = spawnProxy(t, [...common, ...flags], env)
  const expected = ready ?? [
    ...flags.filter((flag) => flag === '-listen').map(() => 'public listener is open'),
    ...flags.filter((flag) => flag === '-upstream').map(() => 'upstream is open'),
    ...flags.filter((flag) => flag === '-register').map(() => 'registered'),
  ]
  for (const message of new Set(expected)) {
    const count = expected.filter((other) => other === message).length
    await proxy.logged(() => proxy.lines.filter(({ msg }) => msg === message).length >= count)
  }
  return proxy
}

/** Creates a directory, and removes it at the end of the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-proxy-'))
  t.after(() => {
    rmSync(folder, { recursive: true })
  })
  return folder
}

/** Writes settings to a file, and returns its path. */
export function configFile(t: TestContext, settings: object): string {
  const path = join(temporaryFolder(t), 'proxy.json')
  writeFileSync(path, JSON.stringify(settings))
  return path
}

/** Starts a TCP server without TLS on loopback, until the end of the test. */
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

/** Connects to a local port without TLS, as an application behind a sidecar does. */
export function localConnect(t: TestContext, port: number): Socket {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  // At the end of a test, services are destroyed first, which resets this connection.
  socket.on('error', () => undefined)
  t.after(() => socket.destroy())
  return socket
}

/** Returns the next chunk from a socket. Rejects when the connection ends first. */
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

/** Sends a text over a connection to an echo server, and checks the answer. */
export async function expectEcho(socket: Socket, text = 'hello'): Promise<void> {
  socket.write(text)
  assert.equal(await nextData(socket), text)
}

/** Opens a connection to an echo server that works. */
export async function connectEcho(t: TestContext, port: number): Promise<Socket> {
  const socket = localConnect(t, port)
  await expectEcho(socket)
  return socket
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

/** Starts a proxy of the service `api` in front of an application, and a proxy of `web` with an upstream to `api`. */
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

/** Starts a mesh, an echo server, and a pair of proxies that leads to the echo server. */
export async function startEchoPair(
  t: TestContext,
  flags: { inbound?: readonly string[]; outbound?: readonly string[] } = {},
): Promise<Pair & TestMesh & { readonly application: Awaited<ReturnType<typeof startApplication>> }> {
  const mesh = await startMesh(t)
  const application = await startApplication(t, echo)
  return { ...mesh, application, ...(await startPair(t, mesh.agent.address, application.port, flags)) }
}
