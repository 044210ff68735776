// A pg pool with connections through the mesh.
import type { Service } from 'consul-connect'
import pg from 'pg'

export function meshPool(service: Service, upstream: string, options: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({ ...options, stream: () => service.stream(upstream) })
  // The pool emits `error` when an idle connection closes, because the database restarts or an intention changes to deny.
  // Without a listener, this ends the process. The pool replaces the connection for the next query.
  pool.on('error', (error) => {
    console.warn(`${upstream}: idle connection closed: ${error.message}`)
  })
  return pool
}
