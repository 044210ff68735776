// PostgreSQL over the mesh by postgres.js: it asks for a socket and waits for it.
import * as connect from 'consul-connect'
import postgres from 'postgres'

await using web = connect.service('web')

// Its types leave out the option that its documentation has.
const options: object = { socket: () => web.dial('postgres') }
const sql = postgres({ user: 'postgres', database: 'postgres', ...options })
try {
  const [row] = await sql<{ answer: number }[]>`select 6 * ${7}::int as answer`
  console.log('postgres.js:', row?.answer)
} finally {
  await sql.end()
}
