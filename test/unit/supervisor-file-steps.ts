import { type FileSteps, STEPS } from '../../examples/supervisor/src/state/store.js'

export type Step = keyof FileSteps
export const STEP_NAMES: readonly Step[] = ['open', 'write', 'sync', 'rename', 'syncFolder']

type Act<Result> = () => Promise<Result>

/** Does each step through `around`, which is told its name, and may do something else. */
export function wrap(around: <Result>(step: Step, act: Act<Result>) => Promise<Result>): FileSteps {
  return {
    open: (path) => around('open', () => STEPS.open(path)),
    write: (file, text) => around('write', () => STEPS.write(file, text)),
    sync: (file) => around('sync', () => STEPS.sync(file)),
    rename: (from, to) => around('rename', () => STEPS.rename(from, to)),
    syncFolder: (path) => around('syncFolder', () => STEPS.syncFolder(path)),
  }
}
