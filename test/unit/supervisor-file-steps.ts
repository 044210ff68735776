import { type FileSteps, STEPS } from '../../examples/supervisor/src/state/store.js'

export type Step = keyof FileSteps
export const STEP_NAMES: readonly Step[] = ['open', 'write', 'sync', 'rename', 'syncFolder']

type Run<Result> = () => Promise<Result>

/** Passes each step with its name to `around`, which may run it, fail, or do something else. */
export function wrap(around: <Result>(step: Step, run: Run<Result>) => Promise<Result>): FileSteps {
  return {
    open: (path) => around('open', () => STEPS.open(path)),
    write: (file, text) => around('write', () => STEPS.write(file, text)),
    sync: (file) => around('sync', () => STEPS.sync(file)),
    rename: (from, to) => around('rename', () => STEPS.rename(from, to)),
    syncFolder: (path) => around('syncFolder', () => STEPS.syncFolder(path)),
  }
}
