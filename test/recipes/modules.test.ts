// Modules of recipes that applications copy, without the programs around them.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { meshPool } from '../../examples/postgres/pool.js'
import { expose, registry } from '../../examples/prometheus/metrics.js'
import { offer, startMesh } from '../fixtures/mesh.js'

describe('prometheus: expose()', () => {
  it('exports the metrics of each service of the process until the service is closed', async (t) => {
    const { join } = await startMesh(t)
    const services = ['web', 'jobs'].map((name) => join(name))
    for (const service of services) expose(service as never)
    await Promise.all(services.map((service) => service.ready()))
    const before = await registry.metrics()
    for (const name of ['web', 'jobs']) {
      assert.match(before, new RegExp(`^connect_inbound_connections\\{service="${name}"\\} 0$`, 'm'))
    }
    await services[1]?.close()
    const after = await registry.metrics()
    assert.match(after, /service="web"/)
    assert.doesNotMatch(after, /service="jobs"/)
  })
})

describe('postgres: meshPool()', () => {
  it('keeps working when an idle connection is revoked', async (t) => {
    const { agent, join } = await startMesh(t)
    const warned = new Promise((resolve) => t.mock.method(console, 'warn', resolve))
    // The answer of PostgreSQL to a startup message: authenticated, and ready for a query.
    await offer(join('postgres'), (socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => socket.write(Buffer.from('520000000800000000' + '5a0000000549', 'hex')))
    })
    const pool = meshPool(join('web') as never, 'postgres', { user: 'postgres' })
    const client = await pool.connect()
    client.release()
    agent.setIntention('web', 'postgres', 'deny')
    assert.match(String(await warned), /^postgres: idle connection closed/)
    await pool.end()
  })
})
