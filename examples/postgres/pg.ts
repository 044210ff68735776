// PostgreSQL over the mesh with pg, whose pool opens a stream for each connection.
import * as connect from 'consul-connect'
import { meshPool } from './pool.js'

await using web = connect.service('web')

const pool = meshPool(web, 'postgres', { user: 'postgres', database: 'postgres' })
try {
  const { rows } = await pool.query<{ answer: number }>('select 6 * $1::int as answer', [7])
  console.log('pg:', rows[0]?.answer)
} finally {
  await pool.end()
}
