// Runs the demo's programs as child processes, and exchanges messages with them.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Service } from 'consul-connect'

/** A message from a program to the demo. */
export type Message =
  | { readonly event: 'ready'; readonly spiffeId: string; readonly port: number; readonly id: string }
  | { readonly event: 'answer'; readonly answer: string; readonly spiffeId: string }
  | { readonly event: 'denied'; readonly service: string; readonly reason: string }
  | { readonly event: 'revoked'; readonly service: string; readonly reason: string; readonly ageMs: number }
  | { readonly event: 'held' }
  | { readonly event: 'cut' }
  | { readonly event: 'refused'; readonly code: string; readonly message: string }
  | { readonly event: 'rotated'; readonly serial: string }
  | { readonly event: 'called'; readonly calls: number }

type MessageOf<E extends Message['event']> = Extract<Message, { event: E }>

/** Timeout of `waitFor()`. An agent may take 30 s to renew a certificate after a rotation. */
const WAIT_MS = 60_000

/** Time for a program to leave the mesh after a failure of the demo, before it is killed. */
const LEAVE_MS = 5_000

/**
 * The demo process, as seen by a program. If the demo disconnects, for example after SIGKILL, the program closes its service
 * and exits. Dispose this object to let the program exit normally.
 */
export class Demo implements Disposable {
  readonly #onDisconnect: () => void

  constructor(service: Service) {
    this.#onDisconnect = () => {
      void service.close({ drainTimeoutMs: 0 }).finally(() => process.exit(1))
    }
    process.once('disconnect', this.#onDisconnect)
  }

  send(message: Message): void {
    if (process.connected) process.send?.(message)
  }

  /** Resolves when the demo sends this command. */
  command(command: string): Promise<void> {
    return new Promise((resolve) => {
      process.on('message', function onMessage(message) {
        if (message !== command) return
        process.off('message', onMessage)
        resolve()
      })
    })
  }

  [Symbol.dispose](): void {
    process.off('disconnect', this.#onDisconnect)
  }
}

/** A program of the demo, running in a child process. */
export class Program {
  readonly name: string
  readonly #child: ChildProcess
  readonly #exit: Promise<number | null>
  readonly #messages: Message[] = []

  /** @param name - file name of the program, without `.ts` */
  constructor(name: string, env: Record<string, string>) {
    this.name = name
    this.#child = fork(fileURLToPath(new URL(`${name}.ts`, import.meta.url)), {
      env: { ...process.env, ...env },
    })
    this.#exit = once(this.#child, 'exit').then(([code]) => code as number | null)
    this.#child.on('message', (message) => this.#messages.push(message as Message))
  }

  command(command: string): void {
    this.#child.send(command)
  }

  /**
   * Returns the first message of an event that passes the test. Includes messages that were received before the call.
   * @throws Error after 60 s, or if the program exits
   */
  async waitFor<E extends Message['event']>(
    event: E,
    test: (message: MessageOf<E>) => boolean = () => true,
  ): Promise<MessageOf<E>> {
    const find = (): MessageOf<E> | undefined =>
      this.#messages.find(
        (message): message is MessageOf<E> => message.event === event && test(message as MessageOf<E>),
      )
    const received = find()
    if (received !== undefined) return received
    const timeout = once(AbortSignal.timeout(WAIT_MS), 'abort').then(() => {
      throw new Error(`${this.name}: no event "${event}" within ${WAIT_MS / 1000} s`)
    })
    const exited = this.#exit.then((code) => {
      throw new Error(`${this.name}: exited with code ${String(code)} before the event "${event}"`)
    })
    for (;;) {
      await Promise.race([once(this.#child, 'message'), exited, timeout])
      const found = find()
      if (found !== undefined) return found
    }
  }

  /** Returns the number of messages received for an event. */
  count(event: Message['event']): number {
    return this.#messages.filter((message) => message.event === event).length
  }

  /**
   * Waits until the program exits.
   * @throws Error if the exit code is not 0
   */
  async exited(): Promise<void> {
    const code = await this.#exit
    if (code !== 0) throw new Error(`${this.name}: exited with code ${String(code)}`)
  }

  /** Stops the program if it is running: by a command, so that it can leave the mesh, and after 5 s by SIGTERM. */
  async stop(): Promise<void> {
    if (this.#child.connected) this.command('stop')
    const timer = setTimeout(() => this.#child.kill(), LEAVE_MS)
    await this.#exit
    clearTimeout(timer)
  }
}
