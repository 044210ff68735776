import { randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { HttpError } from './http.js'
import { validateQuery, type PreparedQuery } from './query.js'
import { renderTemplate } from './query-template.js'

export interface StoredQuery {
  query: PreparedQuery
  createIndex: number
  modifyIndex: number
}

const uuid = /^[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}$/i

export class PreparedQueries {
  readonly #changes: Changes
  readonly #byId = new Map<string, StoredQuery>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  get index(): number {
    return this.#changes.modified('queries')
  }

  /** By ID. */
  list(): StoredQuery[] {
    return [...this.#byId.values()].sort((a, b) => (a.query.id < b.query.id ? -1 : 1))
  }

  get(id: string): StoredQuery | undefined {
    if (id.length !== randomUUID().length)
      throw new HttpError(500, 'failed prepared query lookup: index error: UUID must be 36 characters')
    return this.#byId.get(id.toLowerCase())
  }

  /** Returns the ID. */
  create(query: PreparedQuery): string {
    if (query.id !== '') throw new HttpError(500, 'ID must be empty when creating a new prepared query')
    validateQuery(query)
    return this.#put({ ...query, id: randomUUID() })
  }

  update(id: string, query: PreparedQuery): void {
    this.require(id)
    validateQuery(query)
    this.#put({ ...query, id })
  }

  delete(id: string): void {
    this.require(id)
    this.#byId.delete(id.toLowerCase())
    this.#changes.touch('queries')
  }

  /** The query of that ID, to change it. */
  require(id: string): StoredQuery {
    try {
      const stored = this.get(id)
      if (stored) return stored
    } catch (error) {
      throw error instanceof HttpError
        ? new HttpError(error.status, `Prepared Query lookup failed: ${error.message}`)
        : error
    }
    throw new HttpError(500, `Cannot modify non-existent prepared query: '${id}'`)
  }

  /** The query of that ID or name; of a template, what it becomes for the name. */
  resolve(idOrName: string): StoredQuery | undefined {
    const found = uuid.test(idOrName) ? this.#byId.get(idOrName.toLowerCase()) : undefined
    if (found?.query.template.type) {
      throw new HttpError(500, 'prepared query templates can only be resolved up by name, not by ID')
    }
    if (found) return found
    const stored = this.#named(idOrName) ?? this.#longestTemplate(idOrName)
    if (!stored?.query.template.type) return stored
    return { ...stored, query: renderTemplate(stored.query, idOrName) }
  }

  #named(name: string): StoredQuery | undefined {
    const lower = name.toLowerCase()
    return this.list().find(({ query }) => query.name !== '' && query.name.toLowerCase() === lower)
  }

  #longestTemplate(name: string): StoredQuery | undefined {
    const lower = name.toLowerCase()
    return this.list()
      .filter(({ query }) => query.template.type !== '' && lower.startsWith(query.name.toLowerCase()))
      .sort((a, b) => b.query.name.length - a.query.name.length)[0]
  }

  #put(query: PreparedQuery): string {
    const id = query.id.toLowerCase()
    const isOther = (stored: StoredQuery | undefined): boolean =>
      stored !== undefined && stored.query.id.toLowerCase() !== id
    if (query.name !== '') {
      if (isOther(this.#named(query.name)))
        throw new HttpError(500, `name '${query.name}' aliases an existing query name`)
    } else if (query.template.type !== '') {
      const others = this.list().filter(({ query }) => query.name === '' && query.template.type !== '')
      if (others.some(isOther)) {
        throw new HttpError(500, 'a query template with an empty name already exists')
      }
    }
    if (uuid.test(query.name) && this.#byId.has(query.name.toLowerCase()))
      throw new HttpError(500, `name '${query.name}' aliases an existing query ID`)
    if (query.session !== '') throw new HttpError(500, `invalid session ${JSON.stringify(query.session)}`)
    if (query.template.type !== '') renderTemplate(query, query.name)
    const old = this.#byId.get(id)
    const index = this.#changes.touch('queries')
    this.#byId.set(id, { query, createIndex: old?.createIndex ?? index, modifyIndex: index })
    return query.id
  }
}
