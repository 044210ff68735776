import { createHash, randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import type { JsonObject } from './json.js'

export type IntentionAction = 'allow' | 'deny'

/** A rule that allows or denies connections from the source to the destination; `*` stands for all names. */
export interface IntentionRule {
  sourceNs: string
  sourceName: string
  destinationNs: string
  destinationName: string
  action: IntentionAction
  description: string
  meta: Record<string, string>
}

export interface Intention extends IntentionRule {
  id: string
  precedence: number
  createdAt: string
  updatedAt: string
  createIndex: number
  modifyIndex: number
}

/** A service in its namespace. */
export interface ServiceName {
  namespace: string
  name: string
}

/** Consul's precedence: from 9, if source and destination are exact, to 1. The destination counts before the source. */
export function precedence(
  rule: Pick<IntentionRule, 'sourceNs' | 'sourceName' | 'destinationNs' | 'destinationName'>,
): number {
  const best = [3, 6, 9][exactParts(rule.destinationNs, rule.destinationName)] ?? 3
  return best - (2 - exactParts(rule.sourceNs, rule.sourceName))
}

/** Compares in order of evaluation: higher precedence first, then by the four names. */
export function compareIntentions(a: Intention, b: Intention): number {
  if (a.precedence !== b.precedence) return b.precedence - a.precedence
  return sortKey(a) < sortKey(b) ? -1 : 1
}

/** Returns the intentions whose source or destination covers a service, in order of evaluation. */
export function matchIntentions(
  intentions: readonly Intention[],
  by: 'source' | 'destination',
  service: ServiceName,
): Intention[] {
  return intentions
    .filter((intention) =>
      by === 'source'
        ? covers(intention.sourceNs, intention.sourceName, service)
        : covers(intention.destinationNs, intention.destinationName, service),
    )
    .sort(compareIntentions)
}

/** Returns the intention that decides about a connection; undefined if the default policy decides. */
export function decidingIntention(
  intentions: readonly Intention[],
  source: ServiceName,
  destination: ServiceName,
): Intention | undefined {
  return matchIntentions(intentions, 'destination', destination).find((intention) =>
    covers(intention.sourceNs, intention.sourceName, source),
  )
}

export class Intentions {
  readonly #changes: Changes
  readonly #byId = new Map<string, Intention>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  list(): Intention[] {
    return [...this.#byId.values()].sort(compareIntentions)
  }

  get(id: string): Intention | undefined {
    return this.#byId.get(id)
  }

  /** Returns the intention with exactly this source and destination. */
  exact(source: ServiceName, destination: ServiceName): Intention | undefined {
    return [...this.#byId.values()].find(
      (intention) =>
        intention.sourceNs === source.namespace &&
        intention.sourceName === source.name &&
        intention.destinationNs === destination.namespace &&
        intention.destinationName === destination.name,
    )
  }

  put(rule: IntentionRule, id: string = randomUUID()): Intention {
    const now = new Date().toISOString()
    const index = this.#changes.touch('intentions')
    const old = this.#byId.get(id)
    const intention: Intention = {
      ...rule,
      id,
      precedence: precedence(rule),
      createdAt: old?.createdAt ?? now,
      updatedAt: now,
      createIndex: old?.createIndex ?? index,
      modifyIndex: index,
    }
    this.#byId.set(id, intention)
    return intention
  }

  delete(id: string): void {
    this.#byId.delete(id)
    this.#changes.touch('intentions')
  }
}

/** Describes an intention as Consul's messages do. */
export function describeIntention(intention: Intention): string {
  const { sourceNs, sourceName, destinationNs, destinationName } = intention
  const ends = `${sourceNs}/${sourceName} => ${destinationNs}/${destinationName}`
  return `${intention.action.toUpperCase()} ${ends} (ID: ${intention.id}, Precedence: ${intention.precedence})`
}

export function intentionJson(intention: Intention): JsonObject {
  const { id, precedence: rank, createdAt, updatedAt, createIndex, modifyIndex, ...rule } = intention
  return {
    ID: id,
    Description: rule.description,
    SourceNS: rule.sourceNs,
    SourceName: rule.sourceName,
    DestinationNS: rule.destinationNs,
    DestinationName: rule.destinationName,
    SourceType: 'consul',
    Action: rule.action,
    DefaultAddr: '',
    DefaultPort: 0,
    Meta: rule.meta,
    Precedence: rank,
    CreatedAt: createdAt,
    UpdatedAt: updatedAt,
    Hash: createHash('sha256').update(JSON.stringify(rule)).digest('base64'),
    CreateIndex: createIndex,
    ModifyIndex: modifyIndex,
  }
}

function exactParts(namespace: string, name: string): number {
  if (namespace === '*') return 0
  return name === '*' ? 1 : 2
}

function covers(namespace: string, name: string, service: ServiceName): boolean {
  return (namespace === '*' || namespace === service.namespace) && (name === '*' || name === service.name)
}

function sortKey(rule: IntentionRule): string {
  return [rule.sourceNs, rule.sourceName, rule.destinationNs, rule.destinationName].join('\0')
}
