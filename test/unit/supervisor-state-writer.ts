// Saves a state, and is killed while it saves another: `writer PATH STATE STATE STEP MOMENT`, where the moment is before,
// halfway (of a write) or after. With the step `any` it saves both in turn until somebody kills it.
import type { SavedState } from '../../examples/supervisor/src/state/snapshot.js'
import { StateFile } from '../../examples/supervisor/src/state/store.js'
import { wrap } from './supervisor-file-steps.js'

const [path = '', first = '', second = '', at = '', moment = ''] = process.argv.slice(2)
const [one, other] = [first, second].map((text) => JSON.parse(text) as SavedState)
if (one === undefined || other === undefined) throw new Error('expected two states')

function die(): void {
  process.kill(process.pid, 'SIGKILL')
}

const killing = wrap(async (step, act) => {
  if (step !== at) return act()
  if (moment === 'before') die()
  const result = await act()
  if (moment === 'after') die()
  return result
})

await new StateFile(path).save(one)
const file = new StateFile(
  path,
  moment !== 'halfway'
    ? killing
    : {
        ...killing,
        write: async (handle, text) => {
          await handle.write(text.slice(0, text.length / 2))
          die()
        },
      },
)
await file.load()
if (at === 'any') {
  const plain = new StateFile(path)
  process.stdout.write('saving\n')
  for (;;) {
    await plain.save(other)
    await plain.save(one)
  }
}
await file.save(other)
