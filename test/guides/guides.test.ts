// Runs every code block in the README and the guides: commands in one session, fragments as one program, and files as
// separate programs.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { parse as parseYaml } from 'yaml'
import * as library from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { skip } from '../consul/real-agent.js'
import { waitBound } from '../fixtures/bounds.js'
import { freePort, freePorts } from '../fixtures/free-ports.js'
import { NodeProgram } from '../fixtures/node-program.js'
import { unlessThere } from '../fixtures/programs.js'
import { examples, examplesProgram } from './examples.js'
import { type Block, blocksOf, expectations, fragmentsOf, joined } from './markdown.js'
import { Shell } from './shell.js'

const root = join(import.meta.dirname, '..', '..')
const guides = readdirSync(join(root, 'guides')).filter((name) => name.endsWith('.md'))
const documents = ['README.md', ...guides.map((name) => join('guides', name))]
const tsx = import.meta.resolve('tsx')
const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')

/** Classes that are created by functions with an example. */
const WITHOUT_EXAMPLE = ['Service', 'ConsulApi', 'SpiffeId', 'ProxyConfigSource']

/** Languages that the tests run or check. */
const LANGUAGES = ['ts', 'js', 'sh', 'text', 'json', 'hcl', 'yaml', 'ini']

for (const document of documents) {
  const blocks = blocksOf(readFileSync(join(root, document), 'utf8'))
  const needsConsul = blocks.some(({ language, text }) => language === 'sh' && /^consul /m.test(text))
  describe(document, () => {
    it('contains only code that is run or checked', () => {
      for (const { language, line, text } of blocks) {
        assert.ok(LANGUAGES.includes(language), `line ${line}: ${language}`)
        if (language === 'json') JSON.parse(text)
        if (language === 'yaml') for (const part of text.split(/^---$/m)) assert.ok(parseYaml(part) !== null)
      }
    })

    const fragments = fragmentsOf(blocks)
    if (fragments.length > 0) {
      it('has fragments that print the documented output', async (t) => {
        const folder = scratch(t, blocks)
        const name = `${basename(document, '.md').toLowerCase()}.mts`
        writeFileSync(join(folder, name), joined(fragments))
        const agent = await TestAgent.start({ dns: {} })
        t.after(() => agent.close())
        const program = runProgram(t, folder, name, agent)
        assert.equal(await program.ended(), 0, program.output)
        for (const expected of printedBy(blocks, fragments)) assert.match(program.output, expected)
      })
    }

    const programs = blocks.filter(({ language, file }) => language === 'ts' && file !== undefined)
    if (programs.length > 0) {
      it('has programs that print the documented output when they run together', async (t) => {
        const folder = scratch(t, blocks)
        const agent = await TestAgent.start()
        t.after(() => agent.close())
        const running: NodeProgram[] = []
        for (const block of programs) {
          const program = runProgram(t, folder, block.file ?? '', agent, { PORT: String(await freePort()) })
          running.push(program)
          const next = blocks[blocks.indexOf(block) + 1]
          assert.equal(next?.language, 'text', `line ${block.line}: the output of ${block.file} is missing`)
          for (const line of expectations(next.text)) await program.prints(line)
        }
        for (const program of running) await program.stop()
        const services = await fetch(`http://${agent.address}/v1/agent/services`)
        assert.deepEqual(await services.json(), {}, 'a program did not deregister')
      })
    }

    // The commands of the README are the demo and the tests, which CI runs.
    if (document !== 'README.md' && blocks.some(({ language }) => language === 'sh')) {
      const skipCommands = (needsConsul && skip) || unlessThere('bash', 'curl', 'openssl')
      // Every block has its own bound, so that a slow machine has time for any number of blocks.
      it('has commands that print the documented output', { skip: skipCommands }, async (t) => {
        const folder = scratch(t, blocks)
        const [http = 0, dns = 0, server = 0, lan = 0, grpc = 0] = await freePorts(5)
        const env = { PATH: `${join(process.execPath, '..')}:${process.env['PATH'] ?? ''}`, HOME: folder }
        const shell = new Shell(t, folder, env, prelude({ http, dns, server, lan, grpc }))
        for (const [i, { language, text }] of blocks.entries()) {
          if (language !== 'sh') continue
          const next = blocks[i + 1]
          await shell.run(text, next?.language === 'text' ? expectations(next.text) : [])
        }
      })
    }
  })
}

describe('the fragments and the examples in doc comments', () => {
  it('compile with the options of the library', (t) => {
    const folder = scratch(t, [])
    for (const document of documents) {
      const blocks = blocksOf(readFileSync(join(root, document), 'utf8'))
      const name = basename(document, '.md')
      for (const { language, file, text, line } of blocks)
        if (language === 'ts' && file !== undefined) writeFileSync(join(folder, `${name}-${line}.mts`), text)
      // Each fragment must compile with those before it alone, since readers paste them in order.
      for (const [i, { line }] of fragmentsOf(blocks).entries())
        writeFileSync(join(folder, `${name}-${line}.mts`), joined(fragmentsOf(blocks).slice(0, i + 1)))
    }
    writeFileSync(join(folder, 'examples.mts'), examplesProgram())
    writeFileSync(
      join(folder, 'tsconfig.json'),
      JSON.stringify({
        extends: join(root, 'tsconfig.json'),
        compilerOptions: {
          rootDir: '.',
          noEmit: true,
          declaration: false,
          isolatedDeclarations: false,
          skipLibCheck: true,
          noUnusedLocals: false,
        },
        include: ['*.mts'],
      }),
    )
    const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' })
    assert.equal(status, 0, stdout)
  })

  it('run without errors', async (t) => {
    const folder = scratch(t, [])
    writeFileSync(join(folder, 'examples.mts'), examplesProgram())
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    const program = runProgram(t, folder, 'examples.mts', agent)
    assert.equal(await program.ended(), 0, program.output)
    for (const { name } of examples)
      assert.ok(program.output.includes(`done: ${name}\n`), `${name} was not run:\n${program.output}`)
  })

  it('exist for every function and class of the library, and every method of a service', () => {
    const functions = Object.entries(library).filter(
      ([name, value]) =>
        typeof value === 'function' && !/Error$/.test(name) && !WITHOUT_EXAMPLE.includes(name),
    )
    const methods = Object.getOwnPropertyNames(library.Service.prototype).filter(
      (name) => !['constructor', 'leaf', 'roots', 'trustDomain', 'destroy'].includes(name),
    )
    assert.deepEqual(
      [...functions.map(([name]) => name), ...methods].filter(
        (name) => !examples.some((example) => example.name === name),
      ),
      [],
    )
  })
})

/** Runs a TypeScript file with the address of an agent. */
function runProgram(
  t: TestContext,
  cwd: string,
  name: string,
  agent: TestAgent,
  env: NodeJS.ProcessEnv = {},
): NodeProgram {
  return new NodeProgram(t, ['--import', tsx, name], {
    cwd,
    env: { HOME: cwd, CONSUL_HTTP_ADDR: agent.address, ...env },
    timeoutMs: waitBound(60_000),
  })
}

/** The documented output of fragments: the text blocks that follow them. */
function printedBy(blocks: readonly Block[], fragments: readonly Block[]): RegExp[] {
  return fragments.flatMap((fragment) => {
    const next = blocks[blocks.indexOf(fragment) + 1]
    return next?.language === 'text' ? expectations(next.text) : []
  })
}

/** Creates a directory with the files of a document, in which the package is installed. */
function scratch(t: TestContext, blocks: readonly Block[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-guide-'))
  t.after(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  for (const name of ['examples', 'dist']) symlinkSync(join(root, name), join(folder, name))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  writeFileSync(join(folder, 'package.json'), '{ "private": true }')
  for (const { file, text } of blocks) if (file !== undefined) writeFileSync(join(folder, file), `${text}\n`)
  return folder
}

/**
 * Commands that replace `npm` and `consul` for a session: the package is already installed, from this checkout, and the
 * development agent has its own ports, which every command finds in the environment.
 */
function prelude(ports: Record<'http' | 'dns' | 'server' | 'lan' | 'grpc', number>): string {
  return `
exec 2>&1
export CONSUL_HTTP_ADDR=127.0.0.1:${ports.http}
npm() {
  case "$*" in
    "init -y" | "install consul-connect" | ci | "run build" | "ci && npm run build") ;;
    *) command npm "$@" ;;
  esac
}
consul() {
  if [ "$*" = "agent -dev" ]; then
    command consul agent -dev -http-port ${ports.http} -dns-port ${ports.dns} -server-port ${ports.server} \\
      -serf-lan-port ${ports.lan} -serf-wan-port -1 -grpc-port ${ports.grpc} >/dev/null
  else command consul "$@"; fi
}
export -f npm consul
`
}
