import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Fields } from '../../src/testing/filter-fields.js'
import { parseFilter } from '../../src/testing/filter.js'

const fields: Fields = {
  Name: 'string',
  Port: 'int',
  Native: 'bool',
  Tags: 'strings',
  Meta: { map: 'string' },
  Weights: { struct: { Passing: 'int' } },
  Addresses: { map: { struct: { Address: 'string', Port: 'int' } } },
  Checks: { list: { Status: 'string', Tags: 'strings' } },
  None: { list: { Status: 'string' } },
}

const item = {
  Name: 'web',
  Port: 80,
  Native: true,
  Tags: ['t', 'u'],
  Meta: { v: '1', 'a.b': 'x' },
  Weights: { Passing: 3 },
  Addresses: { lan: { Address: '10.0.0.1', Port: 0 } },
  Checks: [{ Status: 'passing', Tags: ['t'] }, { Status: 'warning' }],
}

void describe('a filter', () => {
  const table: Record<string, boolean> = {
    'Name == "web"': true,
    'Name == web': true,
    'Name == `web`': true,
    'Name == a.b': false,
    'Name != "web"': false,
    'Name=="web"': true,
    'Name matches "^w.b$"': true,
    'Name matches "(?i)WEB"': true,
    'Name not matches "^w"': false,
    '"e" in Name': true,
    'Name contains "x"': false,
    'Name not contains "x"': true,
    'Port == 80': true,
    'Port == "0x50"': true,
    'Port != -1': true,
    'Native == true': true,
    'Native != T': false,
    'Tags contains t': true,
    'Tags contains T': false,
    '"t" in Tags': true,
    '"t" not in Tags': false,
    'Tags is empty': false,
    'Tags is not empty': true,
    'Meta.v == "1"': true,
    'Meta["a.b"] == "x"': true,
    'Meta[ `a.b` ] == "x"': true,
    'Meta.missing == "1"': false,
    'Meta.missing != "1"': true,
    // As Consul has it: what is missing matches everything.
    'Meta.missing matches "1"': true,
    'Meta.missing not matches "1"': true,
    '"1" in Meta.missing': false,
    '"1" not in Meta.missing': true,
    'v in Meta': true,
    'Meta is empty': false,
    'Weights.Passing == 3': true,
    'Addresses.lan.Address == "10.0.0.1"': true,
    'Addresses.wan.Port == 0': false,
    'wan in Addresses': false,
    'Checks is empty': false,
    'None is empty': true,
    // One of them is enough.
    'Checks.Status == passing': true,
    'Checks.Status != passing': true,
    'not Checks.Status == passing': false,
    'Checks.Tags contains t': true,
    'Checks.Tags is empty': true,
    'None.Status != passing': false,
    'Name == "a" or Name == "web"': true,
    'Name == "web" and Port == 81': false,
    'Name == "a" or Name == "b" and Port == 80': false,
    'Name == "web" or Name == "b" and Port == 81': true,
    '(Name == "web" or Name == "b") and Port == 80': true,
    ' ( Name == "web" ) ': true,
    'not Name == "a"': true,
    'not not Name == "a"': false,
    'not (Name == "web" and Port == 80)': false,
  }
  for (const [expression, expected] of Object.entries(table)) {
    it(`${expression} is ${String(expected)}`, () => {
      assert.equal(parseFilter(expression, fields)(item), expected)
    })
  }

  const mistakes: Record<string, string> = {
    '': '1:1 (0): no match found, expected: a selector or a value',
    Name: '1:5 (4): no match found, expected: an operator',
    'Name ==': '1:8 (7): no match found, expected: a value',
    '== "web"': '1:1 (0): no match found, expected: a selector or a value',
    '(Name == "web"': '1:15 (14): rule "grouping": Unmatched parentheses',
    'Name == "web" Port == 80': '1:15 (14): no match found, expected: "and", "or" or EOF',
    'Name == "web" AND Port == 80': '1:15 (14): no match found, expected: "and", "or" or EOF',
    'Name == "': '1:10 (9): rule "string": Unterminated string literal',
    'Name == "\\q"': '1:9 (8): rule "string": invalid syntax',
    'Name == 8x': '1:10 (9): rule "number": Invalid number literal',
    'Name == (': '1:9 (8): no match found, expected: a value',
    '"web" in "web"': '1:10 (9): rule "match": Invalid selector',
    'Meta[v] == 1': '1:6 (5): rule "index": Invalid index',
    'Meta["v" == 1': '1:10 (9): rule "index": Unclosed index expression',
    'Bogus == 1': 'Selector "Bogus" is not valid',
    'Weights.Bogus.x == 1': 'Selector "Weights.Bogus" is not valid',
    'toString == 1': 'Selector "toString" is not valid',
    'Meta.a.b == 1': 'Selector "Meta.a.b" is not valid',
    'Port == x':
      'Failed to coerce value "x" for selector "Port": strconv.ParseInt: parsing "x": invalid syntax',
    'Native == x':
      'Failed to coerce value "x" for selector "Native": strconv.ParseBool: parsing "x": invalid syntax',
    'Port == 9999999999999999999':
      'Failed to coerce value "9999999999999999999" for selector "Port": strconv.ParseInt: parsing "9999999999999999999": value out of range',
    'Tags == t': 'Invalid match operator "Equal" for selector "Tags"',
    'Tags != t': 'Invalid match operator "Not Equal" for selector "Tags"',
    'Port is empty': 'Invalid match operator "Is Empty" for selector "Port"',
    'Port not contains 8': 'Invalid match operator "Not In" for selector "Port"',
    'Weights matches "x"': 'Invalid match operator "Matches" for selector "Weights"',
    'x in Checks': 'Invalid match operator "In" for selector "Checks"',
    'Name matches "("':
      'Failed to compile regular expression "(": error parsing regexp: missing closing ): `(`',
    'Name matches "[a"':
      'Failed to compile regular expression "[a": error parsing regexp: missing closing ]: `[a`',
    'Name matches "*"':
      'Failed to compile regular expression "*": error parsing regexp: missing argument to repetition operator: `*`',
  }
  for (const [expression, problem] of Object.entries(mistakes)) {
    it(`refuses ${JSON.stringify(expression)}`, () => {
      assert.throws(() => parseFilter(expression, fields), {
        status: 500,
        message: `Failed to create boolean expression evaluator: ${problem}`,
      })
    })
  }
})
