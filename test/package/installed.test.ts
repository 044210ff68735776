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
/** Warnings of Node.js versions in which `require` of an ES module is new. */
const REQUIRE_WARNINGS = [
  /^\(node:\d+\) ExperimentalWarning: CommonJS module .* is loading ES Module /,
  /^Support for loading ES Module in require\(\) is an experimental feature/,
  /^\(Use `node --trace-warnings \.\.\.` to show where the warning was created\)$/,
]

interface Result {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

describe('the installed package', () => {
  let installation: Installation
  before(() => {
    installation = install()
  })
  after(() => {
    installation.remove()
  })

  /** Runs a program to its end, with PATH as the only environment variable. */
  function run(binary: string, ...args: readonly string[]): Result {
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
        // `skipLibCheck: false`: also check the declarations of the package and of its dependencies.
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

  it('brings exactly these packages', () => {
    assert.deepEqual(installation.packages, [
      '@leichtgewicht/ip-codec',
      'consul-connect',
      'debug',
      'dns-packet',
      'eventemitter3',
      'ms',
      'node-forge',
      're2js',
      'undici',
    ])
  })

  it('compiles with the module resolution of Node.js, without the DOM library', () => {
    compile(write('nodenext.ts', TYPESCRIPT), { module: 'nodenext', target: 'es2022', lib: ['es2022'] })
  })

  it('compiles with the module resolution of a bundler, beside the DOM library', () => {
    const file = write('bundler.ts', TYPESCRIPT)
    compile(file, { module: 'esnext', moduleResolution: 'bundler', target: 'es2022' })
  })

  it('compiles in a CommonJS program', () => {
    compile(write('commonjs.cts', TYPESCRIPT_COMMONJS), { module: 'nodenext', target: 'es2022' })
  })

  it('is tested on every version in REQUIRE_NODE_VERSIONS', () => {
    assert.deepEqual(MISSING_VERSIONS, [], 'versions that are neither this one nor in NODE_BINARIES')
  })

  for (const { binary, version } of NODE_VERSIONS) {
    describe(`on Node.js ${version}`, () => {
      it('works when it is imported, and leaves nothing open', () => {
        assert.deepEqual(run(binary, write('mesh.mjs', ESM)), {
          status: 0,
          stdout: '200 hello web\nclosed\n',
          stderr: '',
        })
      })

      it('works when it is required by CommonJS, and leaves nothing open', () => {
        const { stderr, ...result } = run(binary, write('mesh.cjs', COMMONJS))
        assert.deepEqual(result, { status: 0, stdout: '200 hello web\nclosed\none copy\n' })
        const unexpected = stderr
          .split('\n')
          .filter((line) => !REQUIRE_WARNINGS.some((warning) => warning.test(line)))
        assert.deepEqual(unexpected, [''])
      })

      it('does not export internal modules', () => {
        const program = write('inside.mjs', "await import('consul-connect/dist/service.js')")
        const { status, stderr } = run(binary, program)
        assert.equal(status, 1)
        assert.match(stderr, /ERR_PACKAGE_PATH_NOT_EXPORTED/)
      })
    })
  }
})
