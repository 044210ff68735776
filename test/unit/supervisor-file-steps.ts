import { constants } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import type { FileSteps } from '../../examples/supervisor/src/state/store.js'

/** The steps of a write, as the system does them. */
const SYSTEM_STEPS: FileSteps = {
  open: (path) => open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600),
  write: (file, text) => file.writeFile(text),
  sync: (file) => file.sync(),
  rename,
  syncFolder: async (path) => {
    const folder = await open(path, 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  },
}

export type Step = keyof FileSteps
export const STEP_NAMES: readonly Step[] = ['open', 'write', 'sync', 'rename', 'syncFolder']

type Act<Result> = () => Promise<Result>

/** Does each step through `around`, which is told its name, and may do something else. */
export function wrap(around: <Result>(step: Step, act: Act<Result>) => Promise<Result>): FileSteps {
  return {
    open: (path) => around('open', () => SYSTEM_STEPS.open(path)),
    write: (file, text) => around('write', () => SYSTEM_STEPS.write(file, text)),
    sync: (file) => around('sync', () => SYSTEM_STEPS.sync(file)),
    rename: (from, to) => around('rename', () => SYSTEM_STEPS.rename(from, to)),
    syncFolder: (path) => around('syncFolder', () => SYSTEM_STEPS.syncFolder(path)),
  }
}
