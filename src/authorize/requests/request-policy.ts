import { DEFAULT_NORMALIZATION, type RequestNormalization } from '../../agent/endpoints/mesh-entry.js'
import type { RequestHead } from '../../matching/request-matcher.js'
import type { Decision } from '../decision.js'
import type { PermissionRules, Verdict } from './permission-rules.js'

/** The decision about an HTTP request. */
export interface RequestDecision extends Required<Decision> {
  /** The intention whose permissions decided, such as `default/web => default/api`; undefined for another basis. */
  readonly intention: string | undefined
  /** The number of the permission that decided, from 1; undefined if none is for the request. */
  readonly permission: number | undefined
}

/** Decides the requests of one source. */
export interface RequestPolicy {
  /** How requests are made comparable first. */
  readonly normalization: RequestNormalization
  /** @param request - with a normalized path */
  decide(request: RequestHead): RequestDecision
}

export interface PermissionPolicyOptions {
  /** The intention that has the permissions. */
  readonly intention: string
  readonly rules: PermissionRules
  /** Whether the default policy of the mesh allows what no permission is for. */
  readonly defaultAllows: boolean
  readonly normalization: RequestNormalization
}

/** Decides by the permissions of an intention, in a time that depends on their number alone. */
export class PermissionPolicy implements RequestPolicy {
  readonly normalization: RequestNormalization
  readonly #options: PermissionPolicyOptions
  readonly #decisions = new Map<Verdict, RequestDecision>()

  constructor(options: PermissionPolicyOptions) {
    this.normalization = options.normalization
    this.#options = options
  }

  decide(request: RequestHead): RequestDecision {
    const verdict = this.#options.rules.decide(request)
    const known = this.#decisions.get(verdict)
    if (known !== undefined) return known
    const decision = this.#decisionFor(verdict)
    this.#decisions.set(verdict, decision)
    return decision
  }

  #decisionFor({ action, permission, problem }: Verdict): RequestDecision {
    const { intention, defaultAllows } = this.#options
    if (action === 'default') {
      const reason = `no permission of intention ${intention} is for the request; the default policy ${defaultAllows ? 'allows' : 'denies'} it`
      return { authorized: defaultAllows, basis: 'default', reason, intention, permission }
    }
    const authorized = action === 'allow'
    const by = `by permission ${permission} of intention ${intention}`
    const reason =
      problem === undefined ? `${authorized ? 'allowed' : 'denied'} ${by}` : `denied ${by}: ${problem}`
    return { authorized, basis: 'permissions', reason, intention, permission }
  }
}

/** Denies all requests, with the reason for which their connection would be denied now. */
export class DenyingPolicy implements RequestPolicy {
  readonly normalization: RequestNormalization = DEFAULT_NORMALIZATION
  readonly #decision: RequestDecision

  constructor({ reason, basis }: Required<Decision>) {
    this.#decision = { authorized: false, reason, basis, intention: undefined, permission: undefined }
  }

  decide(): RequestDecision {
    return this.#decision
  }
}
