import assert from 'node:assert/strict'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { ConfigurationWatcher } from '../../examples/supervisor/src/configuration/watcher.js'
import { waitBound } from '../fixtures/bounds.js'

/** Counts the changes that a watcher reports. */
class Changes {
  count = 0
  readonly #resolvers = new Set<() => void>()

  readonly report = (): void => {
    this.count += 1
    for (const resolve of this.#resolvers) resolve()
  }

  async reach(count: number): Promise<void> {
    while (this.count < count) await new Promise<void>((resolve) => this.#resolvers.add(resolve))
  }
}

interface Watched {
  readonly root: string
  readonly folder: string
  readonly changes: Changes
  /** Resolves after the watcher has processed all earlier writes. */
  readonly settled: () => Promise<void>
}

function watched(t: TestContext, pathOf: (root: string) => string = (root) => join(root, 'conf')): Watched {
  const root = mkdtempSync(join(tmpdir(), 'supervisor-watcher-'))
  const folder = join(root, 'conf')
  mkdirSync(folder)
  writeFileSync(join(folder, 'a.json'), '{}')
  const changes = new Changes()
  const watcher = new ConfigurationWatcher([pathOf(root)], changes.report)
  // The marker watcher reports its change after the first watcher has processed all earlier writes.
  const markerFolder = join(root, 'marker')
  mkdirSync(markerFolder)
  const markers = new Changes()
  const markerWatcher = new ConfigurationWatcher([markerFolder], markers.report)
  t.after(() => {
    watcher.close()
    markerWatcher.close()
    rmSync(root, { recursive: true })
  })
  const settled = async (): Promise<void> => {
    writeFileSync(join(markerFolder, 'x.json'), String(markers.count))
    await markers.reach(markers.count + 1)
  }
  return { root, folder, changes, settled }
}

describe('supervisor: the watch of the configuration', { timeout: waitBound(60_000) }, () => {
  it('ignores files that are not part of the configuration', async (t) => {
    const { root, folder, changes, settled } = watched(t)
    for (const path of [root, folder]) {
      writeFileSync(join(path, 'supervisor.log'), 'a line\n')
      writeFileSync(join(path, '.a.json.swp'), '')
    }
    writeFileSync(join(root, 'a.json'), '{}')
    await settled()
    assert.equal(changes.count, 0)
  })

  it('ignores the neighbors of a single file', async (t) => {
    const { folder, changes, settled } = watched(t, (root) => join(root, 'conf', 'a.json'))
    writeFileSync(join(folder, 'b.json'), '{}')
    await settled()
    assert.equal(changes.count, 0)
    writeFileSync(join(folder, 'new'), '{"service":{}}')
    renameSync(join(folder, 'new'), join(folder, 'a.json'))
    await changes.reach(1)
  })

  it('ignores a file that is written again with the same content', async (t) => {
    const { folder, changes, settled } = watched(t)
    const path = join(folder, 'a.json')
    writeFileSync(path, readFileSync(path))
    utimesSync(path, new Date(), new Date())
    writeFileSync(join(folder, 'new'), readFileSync(path))
    renameSync(join(folder, 'new'), path)
    await settled()
    assert.equal(changes.count, 0)
  })

  it('reports files that change, come, and go', async (t) => {
    const { folder, changes } = watched(t)
    writeFileSync(join(folder, 'a.json'), '{"service":{}}')
    await changes.reach(1)
    writeFileSync(join(folder, 'b.hcl'), '')
    await changes.reach(2)
    rmSync(join(folder, 'a.json'))
    await changes.reach(3)
  })

  it('reports the replacement of a directory, and watches the new one', async (t) => {
    const { root, folder, changes } = watched(t)
    mkdirSync(join(root, 'next'))
    writeFileSync(join(root, 'next', 'b.json'), '{}')
    renameSync(folder, join(root, 'before'))
    renameSync(join(root, 'next'), folder)
    await changes.reach(1)
    writeFileSync(join(folder, 'c.json'), '{}')
    await changes.reach(2)
  })

  it('reports a changed link in the path of a file', async (t) => {
    // The layout of a ConfigMap in Kubernetes.
    const { root, changes } = watched(t, (root) => {
      const volume = join(root, 'volume')
      for (const version of ['..1', '..2']) {
        mkdirSync(join(volume, version), { recursive: true })
        writeFileSync(join(volume, version, 'a.json'), JSON.stringify({ version }))
      }
      symlinkSync('..1', join(volume, '..data'))
      symlinkSync('..data/a.json', join(volume, 'a.json'))
      return volume
    })
    symlinkSync('..2', join(root, 'volume', '..new'))
    renameSync(join(root, 'volume', '..new'), join(root, 'volume', '..data'))
    await changes.reach(1)
    writeFileSync(join(root, 'volume', '..2', 'a.json'), '{}')
    await changes.reach(2)
  })
})
