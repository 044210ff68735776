// A pool of pg whose connections are the mesh's.
import type { Service } from 'consul-connect'
import pg from 'pg'

export function meshPool(service: Service, upstream: string, options: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({ ...options, stream: () => service.stream(upstream) })
  // An idle connection that ends, because the database restarts or an intention turns to deny, is an `error` event of the
  // pool. Without a listener it ends the process. The pool has dropped the connection, and opens another when it is asked.
  pool.on('error', (error) => {
    console.warn(`${upstream}: an idle connection ended: ${error.message}`)
  })
  return pool
}
