import { randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import type { JsonObject } from '../http/http.js'

export type IntentionAction = 'allow' | 'deny'

/** Allows or denies HTTP requests. The fields have the names of Consul. */
export interface IntentionPermission extends JsonObject {
  readonly Action: IntentionAction
  /** The conditions, such as `{ PathPrefix: '/admin', Methods: ['GET'] }`. */
  readonly HTTP: JsonObject
}

/**
 * Allows or denies what the source sends to the destination; `*` stands for all names. The fields have the names of
 * Consul.
 */
export interface IntentionRule {
  readonly SourceName: string
  readonly DestinationName: string
  /** Empty if permissions decide. */
  readonly Action: IntentionAction | ''
  readonly Permissions?: IntentionPermission[]
  readonly Description: string
  readonly Meta: Record<string, string>
}

/** An intention as the endpoints show it. */
export interface Intention extends IntentionRule, JsonObject {
  readonly ID: string
  readonly Precedence: number
  readonly CreatedAt: string
  readonly CreateIndex: number
}

export type IntentionEnds = Omit<IntentionRule, 'Action' | 'Description' | 'Meta'>

/** Returns Consul's precedence, from 9 for an exact source and destination to 5. The destination counts first. */
export function precedence({ SourceName, DestinationName }: IntentionEnds): number {
  return 9 - (DestinationName === '*' ? 3 : 0) - (SourceName === '*' ? 1 : 0)
}

/** The intentions of the agent. */
export class Intentions {
  readonly #changes: Changes
  readonly #byId = new Map<string, Intention>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  get index(): number {
    return this.#changes.modified('intentions')
  }

  /** Returns all intentions in order of evaluation. */
  list(): Intention[] {
    return [...this.#byId.values()].sort(compare)
  }

  get(id: string): Intention | undefined {
    return this.#byId.get(id)
  }

  /** Returns the intention with exactly this source and destination. */
  exact(ends: IntentionEnds): Intention | undefined {
    return this.list().find((intention) => endsText(intention) === endsText(ends))
  }

  /** Returns the intentions for a destination, in order of evaluation. */
  match(destination: string): Intention[] {
    return this.list().filter(({ DestinationName }) => covers(DestinationName, destination))
  }

  /** Returns the intention that decides about a connection; undefined if the default policy decides. */
  deciding(source: string, destination: string): Intention | undefined {
    return this.match(destination).find(({ SourceName }) => covers(SourceName, source))
  }

  /** Creates an intention, or replaces the intention with this ID. */
  put(rule: IntentionRule, id: string = randomUUID()): Intention {
    const now = new Date().toISOString()
    const index = this.#changes.touch('intentions')
    const { CreatedAt = now, CreateIndex = index } = this.#byId.get(id) ?? {}
    const intention: Intention = {
      ...rule,
      SourceNS: 'default',
      DestinationNS: 'default',
      ID: id,
      SourceType: 'consul',
      DefaultAddr: '',
      DefaultPort: 0,
      Precedence: precedence(rule),
      CreatedAt,
      UpdatedAt: now,
      CreateIndex,
      ModifyIndex: index,
    }
    this.#byId.set(id, intention)
    return intention
  }

  delete(id: string): void {
    this.#byId.delete(id)
    this.#changes.touch('intentions')
  }
}

/** Describes an intention like the messages of Consul. */
export function describeIntention(intention: Intention): string {
  const { Action, ID, Precedence } = intention
  return `${Action.toUpperCase()} ${endsText(intention)} (ID: ${ID}, Precedence: ${Precedence})`
}

function endsText({ SourceName, DestinationName }: IntentionEnds): string {
  return `default/${SourceName} => default/${DestinationName}`
}

function covers(end: string, service: string): boolean {
  return end === service || end === '*'
}

/** Compares in order of evaluation: higher precedence first, then by names. */
function compare(a: Intention, b: Intention): number {
  return b.Precedence - a.Precedence || (endsText(a) < endsText(b) ? -1 : 1)
}
