import { createHash, randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { HttpError } from './http.js'
import type { JsonObject } from './json.js'

export type DefaultPolicy = 'allow' | 'deny'
export type Access = 'read' | 'write'

const ANONYMOUS_ID = '00000000-0000-0000-0000-000000000002'

/** Permissions of a token. The service `*` stands for all services. */
export interface TokenRules {
  services?: Record<string, Access | 'deny'>
  /** By destination service. Without a rule, `read` or `write` on the service grants `read` here. */
  intentions?: Record<string, Access | 'deny'>
  /** By the name of the prepared query. */
  queries?: Record<string, Access>
  /** Read the node and its own checks. @default false */
  nodes?: boolean
  /** Grants everything, tokens included. @default false */
  management?: boolean
}

export interface Token {
  accessorId: string
  secretId: string
  description: string
  rules: TokenRules
  serviceIdentities: string[]
  local: boolean
  createdAt: string
  index: number
}

/** The permissions of one token. Each `require` method throws Consul's error 403. */
class Permissions {
  readonly #rules: TokenRules
  readonly #isAllowedByDefault: boolean

  constructor(rules: TokenRules, fallback: DefaultPolicy) {
    this.#rules = rules
    this.#isAllowedByDefault = fallback === 'allow'
  }

  get management(): boolean {
    return this.#rules.management === true
  }

  get nodes(): boolean {
    return this.#rules.nodes === true || this.other
  }

  /** Keys, the agent, and the operator have no rules here: the default policy decides. */
  get other(): boolean {
    return this.management || this.#isAllowedByDefault
  }

  service(name: string, access: Access): boolean {
    return this.management || this.#grants(lookup(this.#rules.services, name), access)
  }

  intention(name: string, access: Access): boolean {
    if (this.management) return true
    const rule = lookup(this.#rules.intentions, name)
    const ofService = lookup(this.#rules.services, name)
    if (rule !== undefined || ofService === undefined) return this.#grants(rule, access)
    return ofService !== 'deny' && access === 'read'
  }

  query(name: string, access: Access): boolean {
    return this.management || this.#grants(lookup(this.#rules.queries, name), access)
  }

  requireService(name: string, access: Access, message?: string): void {
    if (!this.service(name, access))
      throw denied(message ?? `Permission denied: Missing service:${access} on ${name}`)
  }

  requireIntention(name: string, access: Access): void {
    if (!this.intention(name, access)) throw denied()
  }

  requireOther(message?: string): void {
    if (!this.other) throw denied(message)
  }

  #grants(rule: Access | 'deny' | undefined, access: Access): boolean {
    return rule === undefined ? this.#isAllowedByDefault : rule === 'write' || rule === access
  }
}

export class Acl {
  readonly enabled: boolean
  readonly #default: DefaultPolicy
  readonly #changes: Changes
  readonly #tokens = new Map<string, Token>()

  constructor(
    changes: Changes,
    options: { enabled: boolean; defaultPolicy: DefaultPolicy; managementToken: string },
  ) {
    this.#changes = changes
    this.enabled = options.enabled
    this.#default = options.defaultPolicy
    if (!options.enabled) return
    this.create({ accessorId: ANONYMOUS_ID, secretId: 'anonymous', description: 'Anonymous Token' })
    const management = { secretId: options.managementToken, rules: { management: true } }
    this.create({ ...management, description: 'Master Token' })
  }

  /** @throws HttpError for an unknown token; a request without a token has the anonymous one */
  permissions(secretId = 'anonymous'): Permissions {
    if (!this.enabled) return new Permissions({ management: true }, 'allow')
    const token = this.#tokens.get(secretId)
    if (!token) throw denied('ACL not found')
    return new Permissions(token.rules, this.#default)
  }

  tokens(): Token[] {
    return [...this.#tokens.values()]
  }

  create(token: Partial<Token>): Token {
    const created: Token = {
      accessorId: randomUUID(),
      secretId: randomUUID(),
      description: '',
      rules: {},
      serviceIdentities: [],
      local: false,
      createdAt: new Date().toISOString(),
      index: this.#changes.touch('acl'),
      ...token,
    }
    this.#tokens.set(created.secretId, created)
    return created
  }

  delete(accessorId: string): void {
    for (const token of this.tokens())
      if (token.accessorId === accessorId) this.#tokens.delete(token.secretId)
    this.#changes.touch('acl')
  }
}

/** The rules of service identities: write to the service and its sidecar, and read what discovery needs. */
export function identityRules(serviceNames: readonly string[]): TokenRules {
  const hasAny = serviceNames.length > 0
  const own = serviceNames.flatMap((name) => [name, `${name}-sidecar-proxy`])
  const writable = Object.fromEntries(own.map((name): [string, Access] => [name, 'write']))
  return { services: { ...(hasAny && { '*': 'read' }), ...writable }, nodes: hasAny }
}

export function tokenJson(token: Token, withSecret = true): JsonObject {
  const identities = token.serviceIdentities.map((name) => ({ ServiceName: name }))
  const policies = [{ ID: '00000000-0000-0000-0000-000000000001', Name: 'global-management' }]
  const hashed = JSON.stringify([token.description, token.rules])
  return {
    AccessorID: token.accessorId,
    SecretID: withSecret ? token.secretId : undefined,
    Description: token.description,
    Policies: token.rules.management ? policies : undefined,
    ServiceIdentities: identities.length > 0 ? identities : undefined,
    Local: token.local,
    CreateTime: token.createdAt,
    Hash: createHash('sha256').update(hashed).digest('base64'),
    CreateIndex: token.index,
    ModifyIndex: token.index,
  }
}

function lookup<T>(rules: Record<string, T> | undefined, name: string): T | undefined {
  return rules?.[name] ?? rules?.['*']
}

function denied(message = 'Permission denied'): HttpError {
  return new HttpError(403, message)
}
