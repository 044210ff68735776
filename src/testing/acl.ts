import { createHash, randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { HttpError } from './http.js'
import type { JsonObject } from './json.js'

export type DefaultPolicy = 'allow' | 'deny'
export type Access = 'read' | 'write'

const anonymousId = '00000000-0000-0000-0000-000000000002'

/** What a token may do. The service `*` stands for all services. */
export interface TokenRules {
  services?: Record<string, Access | 'deny'>
  /** By destination service. Read follows from read on the service, unless something is said here. */
  intentions?: Record<string, Access | 'deny'>
  /** By the prepared query's name. */
  queries?: Record<string, Access>
  /** See the node and its own checks. @default false */
  nodes?: boolean
  /** Everything, tokens included. @default false */
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

function grants(rule: Access | 'deny', access: Access): boolean {
  return rule === 'write' || rule === access
}

/** The decisions of one token; each `require` throws Consul's own 403. */
class Permissions {
  readonly #rules: TokenRules
  readonly #default: DefaultPolicy

  constructor(rules: TokenRules, fallback: DefaultPolicy) {
    this.#rules = rules
    this.#default = fallback
  }

  service(name: string, access: Access): boolean {
    if (this.#rules.management) return true
    const rule = lookup(this.#rules.services, name)
    return rule === undefined ? this.#default === 'allow' : grants(rule, access)
  }

  intention(name: string, access: Access): boolean {
    if (this.#rules.management) return true
    const rule = lookup(this.#rules.intentions, name)
    if (rule !== undefined) return grants(rule, access)
    // A rule for a service lets its intentions be read, and no more.
    const ofService = lookup(this.#rules.services, name)
    if (ofService === undefined) return this.#default === 'allow'
    return ofService !== 'deny' && access === 'read'
  }

  query(name: string, access: Access): boolean {
    if (this.#rules.management) return true
    const rule = lookup(this.#rules.queries, name)
    return rule === undefined ? this.#default === 'allow' : rule === 'write' || access === 'read'
  }

  get nodes(): boolean {
    return this.#rules.nodes === true || this.other
  }

  /** Keys, the agent and the operator have no rules of their own here: the default policy decides. */
  get other(): boolean {
    return this.#rules.management === true || this.#default === 'allow'
  }

  get management(): boolean {
    return this.#rules.management === true
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

  requireManagement(): void {
    if (!this.management) throw denied()
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
    if (options.enabled) {
      this.create({ accessorId: anonymousId, secretId: 'anonymous', description: 'Anonymous Token' })
      this.create({
        secretId: options.managementToken,
        description: 'Master Token',
        rules: { management: true },
      })
    }
  }

  /** Consul refuses a token it does not know, and takes none for the anonymous one. */
  permissions(secretId: string | undefined): Permissions {
    if (!this.enabled) return new Permissions({ management: true }, 'allow')
    return new Permissions(this.token(secretId ?? 'anonymous').rules, this.#default)
  }

  token(secretId: string | undefined): Token {
    const token = secretId === undefined ? undefined : this.#tokens.get(secretId)
    if (!token) throw denied('ACL not found')
    return token
  }

  tokens(): Token[] {
    return [...this.#tokens.values()]
  }

  create(token: Partial<Token>): Token {
    const created: Token = {
      accessorId: token.accessorId ?? randomUUID(),
      secretId: token.secretId ?? randomUUID(),
      description: token.description ?? '',
      rules: token.rules ?? {},
      serviceIdentities: token.serviceIdentities ?? [],
      local: token.local ?? false,
      createdAt: new Date().toISOString(),
      index: this.#changes.touch('acl'),
    }
    this.#tokens.set(created.secretId, created)
    return created
  }

  delete(accessorId: string): void {
    for (const token of this.#tokens.values()) {
      if (token.accessorId === accessorId) this.#tokens.delete(token.secretId)
    }
    this.#changes.touch('acl')
  }
}

/** A service identity may write its service and its sidecar, and read everything that discovery needs. */
export function identityRules(serviceNames: readonly string[]): TokenRules {
  const services: Record<string, Access> = serviceNames.length > 0 ? { '*': 'read' } : {}
  for (const name of serviceNames) {
    services[name] = 'write'
    services[`${name}-sidecar-proxy`] = 'write'
  }
  return { services, nodes: serviceNames.length > 0 }
}

export function tokenJson(token: Token, withSecret = true): JsonObject {
  const identities = token.serviceIdentities.map((name) => ({ ServiceName: name }))
  const policies = [{ ID: '00000000-0000-0000-0000-000000000001', Name: 'global-management' }]
  return {
    AccessorID: token.accessorId,
    SecretID: withSecret ? token.secretId : undefined,
    Description: token.description,
    Policies: token.rules.management ? policies : undefined,
    ServiceIdentities: identities.length > 0 ? identities : undefined,
    Local: token.local,
    CreateTime: token.createdAt,
    Hash: createHash('sha256')
      .update(JSON.stringify([token.description, token.rules]))
      .digest('base64'),
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
