// How the programs of the demo talk with the one that tells the story.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Service } from 'consul-connect'

export type Message =
  | { readonly event: 'ready'; readonly who: string; readonly port: number; readonly id: string }
  | { readonly event: 'answer'; readonly answer: string; readonly who: string }
  | { readonly event: 'denied'; readonly who: string; readonly reason: string }
  | { readonly event: 'revoked'; readonly who: string; readonly reason: string; readonly ageMs: number }
  | { readonly event: 'held' }
  | { readonly event: 'cut' }
  | { readonly event: 'refused'; readonly code: string; readonly message: string }
  | { readonly event: 'rotated'; readonly serial: string }
  | { readonly event: 'called'; readonly calls: number }

type MessageOf<E extends Message['event']> = Extract<Message, { event: E }>

/** How long the story waits for any of its turns. An agent may take 30 s to renew a leaf after a rotation. */
const PATIENCE_MS = 60_000

/** How long a program may take to leave the mesh when the story ends badly. */
const LEAVE_MS = 5_000

/**
 * The narrator, as its programs see it. A program whose narrator is gone, as after a SIGKILL, leaves the mesh and exits.
 * Dispose it to let the program exit by itself.
 */
export class Narrator implements Disposable {
  readonly #leave: () => void

  constructor(service: Service) {
    this.#leave = () => {
      void service.close({ drainTimeoutMs: 0 }).finally(() => process.exit(1))
    }
    process.once('disconnect', this.#leave)
  }

  tell(message: Message): void {
    if (process.connected) process.send?.(message)
  }

  /** Resolves when the narrator sends the word. */
  command(word: string): Promise<void> {
    return new Promise((resolve) => {
      process.on('message', function listen(said) {
        if (said !== word) return
        process.off('message', listen)
        resolve()
      })
    })
  }

  [Symbol.dispose](): void {
    process.off('disconnect', this.#leave)
  }
}

/** A program of the demo, in a process of its own. */
export class Program {
  readonly name: string
  readonly #child: ChildProcess
  readonly #exit: Promise<number | null>
  readonly #seen: Message[] = []

  constructor(name: string, env: Record<string, string>) {
    this.name = name
    this.#child = fork(fileURLToPath(new URL(`${name}.ts`, import.meta.url)), {
      env: { ...process.env, ...env },
    })
    this.#exit = once(this.#child, 'exit').then(([code]) => code as number | null)
    this.#child.on('message', (message) => this.#seen.push(message as Message))
  }

  command(word: string): void {
    this.#child.send(word)
  }

  /** The first message of that kind that passes the test, whether it has come already or not. */
  async heard<E extends Message['event']>(
    event: E,
    test: (message: MessageOf<E>) => boolean = () => true,
  ): Promise<MessageOf<E>> {
    const find = (): MessageOf<E> | undefined =>
      this.#seen.find(
        (message): message is MessageOf<E> => message.event === event && test(message as MessageOf<E>),
      )
    const already = find()
    if (already !== undefined) return already
    const patience = AbortSignal.timeout(PATIENCE_MS)
    const late = once(patience, 'abort').then(() => {
      throw new Error(`${this.name} did not come to "${event}" within ${PATIENCE_MS / 1000} s`)
    })
    const gone = this.#exit.then((code) => {
      throw new Error(`${this.name} ended with exit code ${String(code)} before "${event}"`)
    })
    for (;;) {
      await Promise.race([once(this.#child, 'message'), gone, late])
      const found = find()
      if (found !== undefined) return found
    }
  }

  /** How many messages of that kind have come. */
  count(event: Message['event']): number {
    return this.#seen.filter((message) => message.event === event).length
  }

  /** Waits until the program has ended by itself; anything but success is an error. */
  async ended(): Promise<void> {
    const code = await this.#exit
    if (code !== 0) throw new Error(`${this.name} ended with exit code ${String(code)}`)
  }

  /** Ends the program if it is still there: by asking, so that it can leave the mesh, and then by force. */
  async end(): Promise<void> {
    if (this.#child.connected) this.command('stop')
    const impatience = setTimeout(() => this.#child.kill(), LEAVE_MS)
    await this.#exit
    clearTimeout(impatience)
  }
}
