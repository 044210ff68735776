import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { StatsCollector } from '../../src/service/stats.js'

const target = { service: 'api', subset: 'v2', namespace: undefined, partition: undefined, datacenter: 'dc1' }

describe('StatsCollector', () => {
  it('counts the attempts of dials by upstream and target', () => {
    const stats = new StatsCollector()
    const failed = {
      address: 'a:1',
      target: { ...target, datacenter: 'dc2' },
      error: new Error('x'),
      durationMs: 1,
    }
    stats.dialed({ upstream: 'api', target, attempts: [failed, failed] })
    stats.dialed({ upstream: 'api', target: undefined, attempts: [] })
    assert.deepEqual(stats.counts.attempts, [
      { upstream: 'api', ...target, datacenter: 'dc2', connected: false, count: 2 },
      { upstream: 'api', ...target, connected: true, count: 1 },
    ])
  })

  it('counts together what exceeds the bound of names', () => {
    const stats = new StatsCollector()
    for (let i = 0; i < 3_000; i += 1) stats.dialed({ upstream: `s${i}`, target, attempts: [] })
    stats.dialed({ upstream: 's0', target, attempts: [] })
    const { attempts } = stats.counts
    assert.equal(attempts.length, 2_049)
    assert.equal(attempts[0]?.count, 2)
    assert.deepEqual([attempts.at(-1)?.upstream, attempts.at(-1)?.count], ['other', 952])
  })
})
