// Saves a state, and kills itself while it saves another: `writer PATH STATE STATE STEP MOMENT`. The moment is `before`,
// `halfway` (of a write), or `after` the step. With the step `any`, it saves both states in turn until it is killed.
import type { SavedState } from '../../examples/supervisor/src/state/snapshot.js'
import { StateFile } from '../../examples/supervisor/src/state/store.js'
import { wrap } from './supervisor-file-steps.js'

const [path = '', first = '', second = '', deadlyStep = '', moment = ''] = process.argv.slice(2)
const [oldState, newState] = [first, second].map((text) => JSON.parse(text) as SavedState)
if (oldState === undefined || newState === undefined) throw new Error('expected two states')

function die(): void {
  process.kill(process.pid, 'SIGKILL')
}

const killing = wrap(async (step, run) => {
  if (step !== deadlyStep) return run()
  if (moment === 'before') die()
  const result = await run()
  if (moment === 'after') die()
  return result
})

await new StateFile(path).save(oldState)
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
if (deadlyStep === 'any') {
  const plain = new StateFile(path)
  process.stdout.write('saving\n')
  for (;;) {
    await plain.save(newState)
    await plain.save(oldState)
  }
}
await file.save(newState)
