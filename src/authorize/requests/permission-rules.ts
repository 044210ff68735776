import type { Permission } from '../../agent/endpoints/permissions.js'
import { type RequestHead, type RequestMatcher, compileMatch } from '../../matching/request-matcher.js'

/** What the permissions of an intention say about a request. */
export interface Verdict {
  /** `default`: the default policy of the mesh decides. */
  readonly action: 'allow' | 'deny' | 'default'
  /** The number of the permission that decides, from 1; undefined if none is for the request. */
  readonly permission: number | undefined
  /** Why the permission denies whatever its action is. */
  readonly problem: string | undefined
}

/** Permissions that are compiled to functions. */
export class PermissionRules {
  readonly #rules: readonly Rule[]
  /** What this version does not understand, for a warning. */
  readonly problems: readonly string[]

  private constructor(rules: readonly Rule[]) {
    this.#rules = rules
    this.problems = rules.flatMap(({ verdict }) => verdict.problem ?? [])
  }

  /** Never rejects: a permission that cannot be compiled has a problem. */
  static async compile(permissions: readonly Permission[]): Promise<PermissionRules> {
    return new PermissionRules(await Promise.all(permissions.map(compileRule)))
  }

  /**
   * Decides a request as Consul specifies: by the first permission that is for the request; if none is, the default
   * policy decides. A permission with a problem may be for any request, and denies it.
   */
  decide(request: RequestHead): Verdict {
    for (const { matches, verdict } of this.#rules) if (matches(request)) return verdict
    return NONE
  }
}

interface Rule {
  readonly matches: RequestMatcher
  readonly verdict: Verdict
}

const NONE: Verdict = { action: 'default', permission: undefined, problem: undefined }

async function compileRule({ action, match, problem }: Permission, index: number): Promise<Rule> {
  const permission = index + 1
  const deny = (why: string): Rule => ({
    matches: () => true,
    verdict: { action: 'deny', permission, problem: why },
  })
  if (problem !== undefined) return deny(problem)
  if (action !== 'allow' && action !== 'deny')
    return deny(`the unknown action ${JSON.stringify(action.slice(0, 64))}`)
  let invalid: string | undefined
  const matches = await compileMatch(match, (found) => {
    invalid = found
  })
  return invalid === undefined
    ? { matches, verdict: { action, permission, problem: undefined } }
    : deny(invalid)
}
