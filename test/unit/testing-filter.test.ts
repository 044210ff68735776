import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseFilter } from '../../src/testing/state/filter.js'

const item = {
  Service: { ID: 'web-1', Port: 80, EnableTagOverride: true, Tags: ['t', 'u'], Meta: { v: '1', 'a.b': 'x' } },
  Node: { Node: 'n1' },
  Checks: [{ Status: 'passing' }, { Status: 'warning' }],
}

void describe('a filter of the embedded agent', () => {
  const table: Record<string, boolean> = {
    'Service.ID == "web-1"': true,
    'Service.ID == `web-1`': true,
    'Service.ID=="web"': false,
    'Service.ID != "web-1"': false,
    'Service.Port == 80': true,
    'Service.Port != 81': true,
    'Service.EnableTagOverride == true': true,
    'Service.Meta.v == 1': true,
    'Service.Meta["a.b"] == "x"': true,
    'Service.Meta.missing == "1"': false,
    'Service.Meta.missing != "1"': true,
    '"t" in Service.Tags': true,
    't in Service.Tags': true,
    'T in Service.Tags': false,
    '"t" not in Service.Tags': false,
    'v in Service.Meta': true,
    '"1" in Service.Meta.missing': false,
    '"1" not in Service.Meta.missing': true,
    'Node.Node == n1': true,
    // One matching element of a list is enough.
    'Checks.Status == passing': true,
    'Checks.Status != passing': true,
    'not Checks.Status == critical': true,
    'Service.Port == 1 or Service.Port == 2 and Service.ID == "web-1"': false,
    'Service.Port == 80 or Service.Port == 2 and Service.ID == x': true,
    '(Service.Port == 80 or Service.Port == 2) and Service.ID == x': false,
    ' ( Service.Port == 80 ) ': true,
    'not not Service.Port == 80': true,
    'not (Service.Port == 80 and Node.Node == n1)': false,
  }
  for (const [expression, expected] of Object.entries(table)) {
    it(`evaluates ${expression} to ${String(expected)}`, () => {
      assert.equal(parseFilter(expression)(item), expected)
    })
  }

  for (const expression of [
    '',
    'Service.Port',
    'Service.Port ==',
    '== "web"',
    '(Service.Port == 80',
    'Service.Port == 80 Service.Port == 80',
    'Service.Port == 80 AND Service.Port == 80',
    'Service.ID == "',
    '"web" in "web"',
    'Service.Meta[v] == 1',
    'Service.Meta["v" == 1',
    'Service.ID matches "web"',
    'Service.Tags is empty',
    'Service.Tags contains t',
  ]) {
    it(`rejects ${JSON.stringify(expression)}`, () => {
      assert.throws(() => parseFilter(expression), {
        status: 500,
        message: /^Failed to create boolean expression evaluator: /,
      })
    })
  }
})
