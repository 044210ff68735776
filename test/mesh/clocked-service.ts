import type { TestContext } from 'node:test'
import type { ServiceOptions } from '../../src/index.js'
import { Service } from '../../src/service/service.js'
import { FakeClock } from '../fixtures/fake-clock.js'

export interface ClockedService {
  readonly service: Service
  /** The clock of the certificates, the timers, and the ejections of the service. */
  readonly clock: FakeClock
}

/** Creates a service whose clock the test advances. The service is closed at the end of the test. */
export function clockedService(
  t: TestContext,
  name: string,
  options: ServiceOptions,
  random: () => number = Math.random,
): ClockedService {
  const clock = new FakeClock(Date.now())
  const service = new Service(name, options, { clock, random })
  // Without a listener, warnings would be printed as process warnings.
  service.on('warning', () => undefined)
  t.after(async () => {
    service.destroy()
    await service.close()
  })
  return { service, clock }
}
