// PostgreSQL over the mesh by pg: its pool opens a stream for each of its connections.
import * as connect from 'consul-connect'
import pg from 'pg'

await using web = connect.service('web')

const pool = new pg.Pool({ user: 'postgres', database: 'postgres', stream: () => web.stream('postgres') })
try {
  const { rows } = await pool.query<{ answer: number }>('select 6 * $1::int as answer', [7])
  console.log('pg:', rows[0]?.answer)
} finally {
  await pool.end()
}
