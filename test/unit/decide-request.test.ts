import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DEFAULT_NORMALIZATION, type RequestNormalization } from '../../src/agent/endpoints/mesh-entry.js'
import { parsePermissions } from '../../src/agent/endpoints/permissions.js'
import { type RequestOutcome, decideRequest } from '../../src/authorize/requests/decide-request.js'
import { PermissionRules } from '../../src/authorize/requests/permission-rules.js'
import type { ReceivedRequest } from '../../src/authorize/requests/received-request.js'
import { PermissionPolicy } from '../../src/authorize/requests/request-policy.js'

const NO_ADMIN = [
  { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
  { Action: 'allow', HTTP: { PathPrefix: '/' } },
]

async function policy(
  permissions: readonly object[],
  normalization: Partial<RequestNormalization> = {},
): Promise<PermissionPolicy> {
  return new PermissionPolicy({
    intention: 'default/web => default/api',
    rules: await PermissionRules.compile(parsePermissions(permissions, 'P')),
    defaultAllows: false,
    normalization: { ...DEFAULT_NORMALIZATION, ...normalization },
  })
}

const GET: ReceivedRequest = {
  ...{ method: 'GET', target: '/', authority: undefined, isHttp2: false },
  rawHeaders: ['Host', 'api'],
}

function summary({ decision, head, status }: RequestOutcome): string {
  return decision.authorized ? `allowed ${head.path}` : String(status)
}

describe('decideRequest', () => {
  const targets: [target: string, expected: string][] = [
    ['/', 'allowed /'],
    ['/x?y=/admin', 'allowed /x?y=/admin'],
    ['/admin', '403'],
    ['/x/../admin', '403'],
    ['/%61dmin/x', '403'],
    ['//admin', 'allowed //admin'],
    ['http://api/admin', '403'],
    ['HTTP://other/x', 'allowed /x'],
    ['https://other', 'allowed /'],
    ['http://api?x', '400'],
    ['http://user@api/x', '400'],
    ['http:///x', '400'],
    ['http:/admin', '400'],
    ['ftp://api/x', '400'],
    ['admin', '400'],
    ['*', '400'],
    ['', '400'],
    ['/x#y', '400'],
    ['/x\0', '400'],
  ]
  for (const [target, expected] of targets) {
    it(`answers ${expected} to the target ${JSON.stringify(target)}`, async () => {
      assert.equal(summary(decideRequest({ ...GET, target }, await policy(NO_ADMIN))), expected)
    })
  }

  it('takes the host from the target', async () => {
    const other = [{ Action: 'allow', HTTP: { Header: [{ Name: 'host', Exact: 'other' }] } }]
    const { decision, head } = decideRequest({ ...GET, target: 'http://other/x' }, await policy(other))
    assert.deepEqual([decision.authorized, head.authority, head.path], [true, 'other', '/x'])
    assert.equal(summary(decideRequest({ ...GET, target: '/x' }, await policy(other))), '403')
  })

  it('takes the host from :authority, which a Host header must not contradict', async () => {
    const api = await policy([{ Action: 'allow', HTTP: { Header: [{ Name: ':authority', Exact: 'api' }] } }])
    const request = { ...GET, authority: 'api', isHttp2: true }
    assert.equal(summary(decideRequest({ ...request, rawHeaders: [] }, api)), 'allowed /')
    assert.equal(summary(decideRequest({ ...request, rawHeaders: ['host', 'api'] }, api)), 'allowed /')
    assert.equal(summary(decideRequest({ ...request, rawHeaders: ['host', 'x'] }, api)), '400')
    assert.equal(summary(decideRequest({ ...request, target: 'http://api/', rawHeaders: [] }, api)), '400')
  })

  it('needs one host', async () => {
    for (const rawHeaders of [[], ['Host', 'api', 'host', 'api'], ['Host', 'api', 'Host', 'x']])
      assert.equal(summary(decideRequest({ ...GET, rawHeaders }, await policy(NO_ADMIN))), '400')
  })

  it('decides CONNECT, which has no path, by the rules on methods and headers', async () => {
    const connect = { ...GET, method: 'CONNECT', target: 'db:5432' }
    assert.equal(summary(decideRequest(connect, await policy(NO_ADMIN))), '403')
    const allowed = [{ Action: 'allow', HTTP: { Methods: ['CONNECT'] } }]
    assert.equal(summary(decideRequest(connect, await policy(allowed))), 'allowed ')
  })

  it('treats underscores and escaped slashes as the mesh says', async () => {
    const rawHeaders = ['Host', 'api', 'x_y', '1']
    const reject = await policy(NO_ADMIN, { underscores: 'reject', escapedSlashes: 'redirect' })
    assert.equal(summary(decideRequest({ ...GET, rawHeaders }, reject)), '400')
    const moved = decideRequest({ ...GET, target: '/a%2fb' }, reject)
    assert.deepEqual([summary(moved), moved.location], ['307', '/a/b'])
  })

  it('says what decided', async () => {
    const reasons: [target: string, reason: RegExp, permission: number | undefined][] = [
      ['/admin', /^denied by permission 1 of intention default\/web => default\/api$/, 1],
      ['/x', /^allowed by permission 2 of intention default\/web => default\/api$/, 2],
      ['*', /^the request has a target that is no path$/, undefined],
    ]
    for (const [target, reason, permission] of reasons) {
      const { decision } = decideRequest({ ...GET, target }, await policy(NO_ADMIN))
      assert.match(decision.reason, reason)
      assert.equal(decision.permission, permission)
    }
    const { decision } = decideRequest(GET, await policy([{ Action: 'allow', HTTP: { PathExact: '/x' } }]))
    assert.equal(decision.basis, 'default')
    assert.match(
      decision.reason,
      /^no permission of intention .* is for the request; the default policy denies it$/,
    )
  })

  it('denies by a permission that it does not understand, unless an earlier one decides', async () => {
    const strange = [
      { Action: 'allow', HTTP: { PathExact: '/x' } },
      { Action: 'deny', HTTP: { PathRegex: '(' } },
      { Action: 'allow', HTTP: { PathPrefix: '/' } },
    ]
    for (const second of [strange[1]!, { Action: 'log', HTTP: { PathExact: '/y' } }, null]) {
      const rules = await policy([strange[0]!, second as object, strange[2]!])
      assert.equal(summary(decideRequest({ ...GET, target: '/x' }, rules)), 'allowed /x')
      const { decision } = decideRequest(GET, rules)
      assert.deepEqual([decision.authorized, decision.permission], [false, 2])
      assert.match(decision.reason, /^denied by permission 2 of intention .*: /)
    }
  })
})
