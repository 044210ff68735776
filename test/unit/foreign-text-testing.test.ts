// Texts that the embedded agent reads from requests.
import { parseDuration } from '../../src/testing/duration.js'
import { parseExpression } from '../../src/testing/filter-parser.js'
import type { PreparedQuery } from '../../src/testing/query.js'
import { renderTemplate } from '../../src/testing/query-template.js'
import { foreignTextSuite } from '../fixtures/foreign-text.js'

const any = /./

/** Renders a prepared query whose service is this template. */
function render(service: string): unknown {
  const query: PreparedQuery = {
    id: '',
    name: '',
    session: '',
    token: '',
    template: { type: 'name_prefix_match', regexp: '', removeEmptyTags: false },
    service: {
      service,
      failover: { nearestN: 0, datacenters: [] },
      onlyPassing: false,
      ignoreCheckIds: [],
      near: '',
      tags: [],
      nodeMeta: {},
      serviceMeta: {},
      connect: false,
    },
    dnsTtl: '',
  }
  return renderTemplate(query, 'web')
}

foreignTextSuite('embedded agent', [
  { name: 'duration', parse: parseDuration, characters: '.nsumhµ+-', prefixes: ['1', '1.', '1m'] },
  {
    name: 'filter',
    parse: parseExpression,
    characters: '()[]"`=!. ',
    prefixes: ['a == ', 'a[', 'not ', 'a '],
    expected: any,
  },
  {
    name: 'template of a prepared query',
    // The message repeats the template, as Consul's does.
    parse: (text) => {
      try {
        render(text)
      } catch (error) {
        throw new Error((error as Error).message.slice(0, 100))
      }
    },
    characters: '${}() ',
    prefixes: ['${', '${match(', '${match( 1'],
    expected: any,
  },
])
