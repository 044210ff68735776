import { test } from 'node:test'
import { fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { agentPut, deregister, joiner, until } from './service-mesh.js'
import { SteadyDials, assertNoneFailed, instanceNames, shares } from './steady-dials.js'

const PER_SECOND = 100

test('no dial fails while the instances and the groups of a failover are killed', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const api = await fleet(t, consul, join('api'), 2)
  const spare = await fleet(t, consul, join('spare'), 2)
  await agentPut(consul, '/v1/config', {
    Kind: 'service-resolver',
    Name: 'api',
    Failover: { '*': { Service: 'spare' } },
  })
  const dials = new SteadyDials(t, join('web'), 'api', { perSecond: PER_SECOND })
  const names = (group: typeof api): string => group.map(({ name }) => name).join()
  /** Waits until exactly these instances answer one second of dials. */
  const untilServedBy = async (group: typeof api): Promise<void> => {
    await until(`${names(group)} answer alone`, async () => {
      const before = dials.outcomes.length
      await until('one second of dials', () => dials.outcomes.length > before + PER_SECOND)
      return instanceNames(dials.outcomes.slice(before)).join() === names(group)
    })
  }
  const [first, second] = api as [(typeof api)[0], (typeof api)[0]]
  await untilServedBy(api)

  await first.fail('refuses')
  await untilServedBy([second])
  // All instances still pass their checks.
  await second.fail('closes')
  await untilServedBy(spare)
  for (const each of api) await each.serve()
  await untilServedBy(api)

  for (const each of api) await each.fail('stays silent')
  await until('the spare instances answer', () => {
    const latest = dials.outcomes.slice(-PER_SECOND)
    return instanceNames(latest).join() === names(spare)
  })
  for (const each of api) await deregister(consul, each.name)
  await untilServedBy(spare)

  const outcomes = await dials.stop()
  t.diagnostic(JSON.stringify({ dials: outcomes.length, ...shares(outcomes) }))
  // A kill resets the open connections of the instance; their dials have succeeded.
  assertNoneFailed(outcomes.filter(({ address }) => address === undefined))
})
