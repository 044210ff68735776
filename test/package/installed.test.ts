import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { type Installation, install } from './installation.js'
import { MISSING_VERSIONS, NODE_VERSIONS } from './node-versions.js'
import { COMMONJS, ESM, TYPESCRIPT, TYPESCRIPT_COMMONJS } from './programs.js'
import { waitBound } from '../fixtures/bounds.js'

const TSC = resolve('node_modules/typescript/bin/tsc')
/** What Node.js says of `require` of a module, in the versions in which that is new. */
const REQUIRE_WARNING = [
  /^\(node:\d+\) ExperimentalWarning: CommonJS module .* is loading ES Module /,
  /^Support for loading ES Module in require\(\) is an experimental feature/,
  /^\(Use `node --trace-warnings \.\.\.` to show where the warning was created\)$/,
]

interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

describe('the package, installed from its tarball', () => {
  let installation: Installation
  before(() => {
    installation = install()
  })
  after(() => {
    installation.remove()
  })

  /** Runs a program to its end, without the environment of whoever runs the tests. */
  function run(binary: string, ...args: readonly string[]): Ended {
    const { status, stdout, stderr, error } = spawnSync(binary, args, {
      cwd: installation.folder,
      env: { PATH: process.env['PATH'] },
      encoding: 'utf8',
      timeout: waitBound(60_000),
    })
    if (error !== undefined) throw new Error(`${args.join(' ')}: ${stdout}${stderr}`, { cause: error })
    return { status, stdout, stderr }
  }

  function write(name: string, text: string): string {
    writeFileSync(join(installation.folder, name), text)
    return name
  }

  function compile(file: string, compilerOptions: object): void {
    const project = write(
      `tsconfig.${file}.json`,
      JSON.stringify({
        // Declarations are checked too: those of the package, and those that it refers to.
        compilerOptions: {
          ...compilerOptions,
          strict: true,
          noEmit: true,
          skipLibCheck: false,
          types: ['node'],
        },
        files: [file],
      }),
    )
    const { status, stdout } = run(process.execPath, TSC, '--project', project)
    assert.equal(stdout, '')
    assert.equal(status, 0)
  }

  it('comes with these packages and no other', () => {
    assert.deepEqual(installation.packages, [
      '@leichtgewicht/ip-codec',
      'consul-connect',
      'debug',
      'dns-packet',
      'eventemitter3',
      'ms',
      'node-forge',
      'undici',
    ])
  })

  it('compiles as Node.js resolves modules, without the library of a browser', () => {
    compile(write('nodenext.ts', TYPESCRIPT), { module: 'nodenext', target: 'es2022', lib: ['es2022'] })
  })

  it('compiles as a bundler resolves modules, beside the library of a browser', () => {
    const file = write('bundler.ts', TYPESCRIPT)
    compile(file, { module: 'esnext', moduleResolution: 'bundler', target: 'es2022' })
  })

  it('compiles in a CommonJS program', () => {
    compile(write('commonjs.cts', TYPESCRIPT_COMMONJS), { module: 'nodenext', target: 'es2022' })
  })

  it('is tried on every version of Node.js that is required', () => {
    assert.deepEqual(
      MISSING_VERSIONS,
      [],
      'REQUIRE_NODE_VERSIONS lists versions that are neither this one nor in NODE_BINARIES',
    )
  })

  for (const { binary, version } of NODE_VERSIONS) {
    describe(`on Node.js ${version}`, () => {
      it('is imported, makes a mesh, and leaves nothing open', () => {
        assert.deepEqual(run(binary, write('mesh.mjs', ESM)), {
          status: 0,
          stdout: '200 hello web\nclosed\n',
          stderr: '',
        })
      })

      it('is required by CommonJS, makes a mesh, and leaves nothing open', () => {
        const { stderr, ...ended } = run(binary, write('mesh.cjs', COMMONJS))
        assert.deepEqual(ended, { status: 0, stdout: '200 hello web\nclosed\none copy\n' })
        const others = stderr.split('\n').filter((line) => !REQUIRE_WARNING.some((known) => known.test(line)))
        assert.deepEqual(others, [''])
      })

      it('keeps to itself what it does not export', () => {
        const program = write('inside.mjs', "await import('consul-connect/dist/service.js')")
        const { status, stderr } = run(binary, program)
        assert.equal(status, 1)
        assert.match(stderr, /ERR_PACKAGE_PATH_NOT_EXPORTED/)
      })
    })
  }
})
