import { randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { HttpError, type JsonObject } from '../http/http.js'
import type { DefaultPolicy } from '../options.js'

/** `write` includes `read`. */
export type Access = 'read' | 'write'

const ANONYMOUS_SECRET = 'anonymous'

/** The permissions of a token. Where no rule applies, the default policy of the ACLs decides. */
export interface TokenRules {
  /** By the name of the service; `*` stands for all services. */
  services?: Record<string, Access | 'deny'>
  /** By the name of the destination; `*` stands for all. Without a rule, a rule on the service grants `read` here. */
  intentions?: Record<string, Access | 'deny'>
  /** By the name of the prepared query; `*` stands for all queries. */
  queries?: Record<string, Access>
  /** Grants reading the node and its checks. @default false */
  nodes?: boolean
  /** Grants everything, including the management of tokens. @default false */
  management?: boolean
}

export interface Token {
  readonly AccessorID: string
  readonly SecretID: string
  readonly Description: string
  readonly Local: boolean
  /** Names of services. */
  readonly identities: readonly string[]
  readonly rules: TokenRules
  readonly CreateTime: string
}

/** The permissions of one request. */
export class Permissions {
  readonly #rules: TokenRules
  readonly #isAllowedByDefault: boolean

  constructor(rules: TokenRules, defaultPolicy: DefaultPolicy) {
    this.#rules = rules
    this.#isAllowedByDefault = defaultPolicy === 'allow'
  }

  get management(): boolean {
    return this.#rules.management === true
  }

  get nodes(): boolean {
    return this.#rules.nodes === true || this.other
  }

  /** Whether the token may use keys, the agent, and the operator API, for which there are no rules. */
  get other(): boolean {
    return this.management || this.#isAllowedByDefault
  }

  service(name: string, access: Access): boolean {
    return this.#allows(lookup(this.#rules.services, name), access)
  }

  intention(name: string, access: Access): boolean {
    const rule = lookup(this.#rules.intentions, name)
    const serviceRule = lookup(this.#rules.services, name)
    const implied = serviceRule && (serviceRule === 'deny' ? 'deny' : 'read')
    return this.#allows(rule ?? implied, access)
  }

  query(name: string, access: Access): boolean {
    return this.#allows(lookup(this.#rules.queries, name), access)
  }

  #allows(rule: Access | 'deny' | undefined, access: Access): boolean {
    if (this.management) return true
    return rule === undefined ? this.#isAllowedByDefault : rule === 'write' || rule === access
  }
}

/** The tokens of the agent. */
export class Acl {
  readonly enabled: boolean
  readonly #defaultPolicy: DefaultPolicy
  readonly #changes: Changes
  readonly #bySecret = new Map<string, Token>()

  constructor(
    changes: Changes,
    options: { enabled: boolean; defaultPolicy: DefaultPolicy; managementToken: string },
  ) {
    this.#changes = changes
    this.enabled = options.enabled
    this.#defaultPolicy = options.defaultPolicy
    if (!options.enabled) return
    this.create({ SecretID: ANONYMOUS_SECRET, Description: 'Anonymous Token' })
    const { managementToken: SecretID } = options
    this.create({ SecretID, Description: 'Master Token', rules: { management: true } })
  }

  /**
   * Returns the permissions of a request. A request without a token uses the anonymous token.
   * @throws HttpError if the token is unknown
   */
  permissions(secret: string = ANONYMOUS_SECRET): Permissions {
    if (!this.enabled) return new Permissions({ management: true }, 'allow')
    const token = this.#bySecret.get(secret)
    if (!token) throw new HttpError(403, 'ACL not found')
    return new Permissions(token.rules, this.#defaultPolicy)
  }

  tokens(): Token[] {
    return [...this.#bySecret.values()]
  }

  create(token: Partial<Token>): Token {
    const created: Token = {
      AccessorID: randomUUID(),
      SecretID: randomUUID(),
      Description: '',
      Local: false,
      identities: [],
      rules: {},
      CreateTime: new Date().toISOString(),
      ...token,
    }
    this.#bySecret.set(created.SecretID, created)
    return created
  }

  delete(accessor: string): void {
    const token = this.tokens().find(({ AccessorID }) => AccessorID === accessor)
    if (token) this.#bySecret.delete(token.SecretID)
    // Requests with the token that wait in a blocking query are denied.
    this.#changes.touch('acl')
  }
}

/** Returns the rules of service identities: write the service and its sidecar, and read what discovery needs. */
export function identityRules(services: readonly string[]): TokenRules {
  if (services.length === 0) return {}
  const writable = services.flatMap((name) => [name, `${name}-sidecar-proxy`])
  const rules = Object.fromEntries(writable.map((name): [string, Access] => [name, 'write']))
  return { services: { '*': 'read', ...rules }, nodes: true }
}

export function tokenJson({ identities, rules, ...token }: Token): JsonObject {
  return {
    ...token,
    Policies: rules.management ? [{ Name: 'global-management' }] : undefined,
    ServiceIdentities: identities.length > 0 ? identities.map((name) => ({ ServiceName: name })) : undefined,
  }
}

function lookup<T>(rules: Record<string, T> | undefined, name: string): T | undefined {
  return rules?.[name] ?? rules?.['*']
}

/** @throws HttpError if the permission is missing */
export function requirePermission(isAllowed: boolean, message = 'Permission denied'): void {
  if (!isAllowed) throw new HttpError(403, message)
}
