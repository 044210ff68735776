import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseFilter } from '../../src/testing/filter.js'

const item = { Name: 'web', Port: 80, Meta: { v: '1', 'a.b': 'x' }, Native: true, Tags: ['t'] }

void describe('a filter', () => {
  const table: Record<string, boolean> = {
    'Name == "web"': true,
    'Name == web': true,
    'Name == `web`': true,
    'Name != "web"': false,
    'Port == 80': true,
    'Native == true': true,
    'Meta.v == "1"': true,
    'Meta["a.b"] == "x"': true,
    'Meta.missing == "1"': false,
    'Meta.missing != "1"': true,
    'Name == "a" or Name == "web"': true,
    'Name == "web" and Port == 81': false,
    'Name == "a" or Name == "b" and Port == 80': false,
    '(Name == "web" or Name == "b") and Port == 80': true,
    'not Name == "a"': true,
    'NOT (Name == "web" AND Port == 80)': false,
  }
  for (const [expression, expected] of Object.entries(table)) {
    it(`${expression} is ${String(expected)}`, () => {
      assert.equal(parseFilter(expression)(item), expected)
    })
  }

  for (const expression of [
    '',
    'Name',
    'Name ==',
    '== "web"',
    '(Name == "web"',
    'Name == "web" Port == 80',
    'Tags contains "t"',
    'Name == "',
    '"web" in Tags',
    'Name == (',
  ]) {
    it(`does not take ${JSON.stringify(expression)}`, () => {
      assert.throws(() => parseFilter(expression), { status: 400 })
    })
  }

  it('says which selector is none', () => {
    assert.throws(() => parseFilter('Bogus == 1')(item), { message: /Selector "Bogus" is not valid/ })
  })
})
