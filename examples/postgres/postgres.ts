// PostgreSQL over the mesh with postgres.js, whose `socket` option returns a promise of a connection.
import * as connect from 'consul-connect'
import postgres from 'postgres'

await using web = connect.service('web')

// The `socket` option is documented but missing in the types of postgres.js.
const options: object = { socket: () => web.dial('postgres') }
const sql = postgres({ user: 'postgres', database: 'postgres', ...options })
try {
  const [row] = await sql<{ answer: number }[]>`select 6 * ${7}::int as answer`
  console.log('postgres.js:', row?.answer)
} finally {
  await sql.end()
}
