// Every block of code in the README and the guides is run: commands in one session, fragments as one program.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { parse as parseYaml } from 'yaml'
import * as library from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { skip } from '../consul/real-agent.js'
import { freePorts } from '../fixtures/free-ports.js'
import { unlessThere } from '../fixtures/programs.js'
import { examples, examplesProgram } from './examples.js'
import { type Block, blocksOf, expectations, programOf } from './markdown.js'
import { Shell } from './shell.js'
import { waitBound } from '../fixtures/bounds.js'

const root = join(import.meta.dirname, '..', '..')
const guides = readdirSync(join(root, 'guides')).filter((name) => name.endsWith('.md'))
const documents = ['README.md', ...guides.map((name) => join('guides', name))]
const tsx = import.meta.resolve('tsx')
const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')

/** Made by functions that have one. */
const WITHOUT_EXAMPLE = ['Service', 'AgentApi', 'SpiffeId', 'ProxyConfigSource']

/** What is done with a block of each language; anything else is a mistake. */
const LANGUAGES = ['ts', 'js', 'sh', 'text', 'json', 'hcl', 'yaml', 'ini', 'setup']

for (const document of documents) {
  const blocks = blocksOf(readFileSync(join(root, document), 'utf8'))
  const needsConsul = blocks.some(({ language, text }) => language === 'sh' && /^consul /m.test(text))
  describe(document, () => {
    it('has nothing in it that is not run or checked', () => {
      for (const { language, line, text } of blocks) {
        assert.ok(LANGUAGES.includes(language), `line ${line}: ${language}`)
        if (language === 'json') JSON.parse(text)
        if (language === 'yaml') for (const part of text.split(/^---$/m)) assert.ok(parseYaml(part) !== null)
      }
    })

    const program = programOf(blocks)
    if (program !== undefined) {
      it('its fragments do what they say', async (t) => {
        const folder = scratch(t, blocks)
        const name = `${basename(document, '.md').toLowerCase()}.ts`
        writeFileSync(join(folder, name), program)
        const agent = await TestAgent.start({ dns: {} })
        t.after(() => agent.close())
        const output = await runProgram(folder, name, agent)
        for (const expected of printedBy(blocks, 'ts')) assert.match(output, expected)
      })
    }

    // What the README says first is what CI does: the demo and the tests themselves.
    if (document !== 'README.md' && blocks.some(({ language }) => language === 'sh')) {
      it(
        'its commands do what they say',
        { skip: (needsConsul && skip) || unlessThere('bash', 'curl'), timeout: waitBound(120_000) },
        async (t) => {
          const folder = scratch(t, blocks)
          const [http = 0, dns = 0, server = 0, lan = 0, grpc = 0] = await freePorts(5)
          const shell = new Shell(
            t,
            folder,
            { PATH: `${join(process.execPath, '..')}:${process.env['PATH'] ?? ''}`, HOME: folder },
            prelude({ http, dns, server, lan, grpc }),
          )
          for (const [i, { language, text }] of blocks.entries()) {
            if (language !== 'sh') continue
            const next = blocks[i + 1]
            await shell.run(text, next?.language === 'text' ? expectations(next.text) : [])
          }
        },
      )
    }
  })
}

describe('the fragments, and the examples in the reference', () => {
  it('compile as strictly as the library', (t) => {
    const folder = scratch(t, [])
    for (const document of documents) {
      const blocks = blocksOf(readFileSync(join(root, document), 'utf8'))
      const program = programOf(blocks)
      if (program !== undefined) writeFileSync(join(folder, `${basename(document, '.md')}.ts`), program)
    }
    writeFileSync(join(folder, 'examples.ts'), examplesProgram())
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
        include: ['*.ts'],
      }),
    )
    const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' })
    assert.equal(status, 0, stdout)
  })

  it('run, each example of the reference by itself', async (t) => {
    const folder = scratch(t, [])
    writeFileSync(join(folder, 'examples.ts'), examplesProgram())
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    const output = await runProgram(folder, 'examples.ts', agent)
    for (const { name } of examples)
      assert.ok(output.includes(`done: ${name}\n`), `${name} was not run:\n${output}`)
  })

  it('are there for every function and class of the library, and every method of a service', () => {
    const functions = Object.entries(library).filter(
      ([name, value]) =>
        typeof value === 'function' && !/Error$/.test(name) && !WITHOUT_EXAMPLE.includes(name),
    )
    const methods = Object.getOwnPropertyNames(library.Service.prototype).filter(
      (name) => !['constructor', 'leaf', 'roots', 'trustDomain', 'destroy'].includes(name),
    )
    assert.deepEqual(
      [...functions.map(([name]) => name), ...methods].filter(
        (name) => !examples.some((each) => each.name === name),
      ),
      [],
    )
  })
})

describe('guides/operations.md', () => {
  const text = readFileSync(join(root, 'guides', 'operations.md'), 'utf8')
  const events = /interface ServiceEvents \{([^]*?)\n\}/.exec(
    readFileSync(join(root, 'src', 'events.ts'), 'utf8'),
  )
  const channels = readFileSync(join(root, 'src', 'channels.ts'), 'utf8')
  const metrics = (file: string): string[] =>
    [
      ...readFileSync(join(root, file), 'utf8').matchAll(/(?:name: `\$\{PREFIX\}|#gauge\(\s*')([a-z_]+)/g),
    ].map(([, name]) => name ?? '')
  for (const [what, names] of [
    ['error code', Object.keys(library.ERROR_CODES)],
    ['event', [...(events?.[1] ?? '').matchAll(/^ {2}(\w+): \[/gm)].map(([, name]) => name ?? '')],
    ['channel', [...channels.matchAll(/^ {2}'([^']+)':/gm)].map(([, name]) => name ?? '')],
    ['metric of the sidecar', metrics('examples/proxy/src/metrics.ts')],
    ['metric of the supervisor', metrics('examples/supervisor/src/operator/metrics.ts')],
  ] as const) {
    it(`has every ${what}`, () => {
      assert.ok(names.length >= 6, `only ${names.join(', ')}`)
      assert.deepEqual(
        names.filter((name) => !text.includes(`\`${name}\``)),
        [],
      )
    })
  }
})

/** Runs a program to its end, which must be a good one; returns what it has printed. */
async function runProgram(folder: string, name: string, agent: TestAgent): Promise<string> {
  const env = { PATH: process.env['PATH'], HOME: folder, CONSUL_HTTP_ADDR: agent.address }
  const child = spawn(process.execPath, ['--import', tsx, name], {
    cwd: folder,
    env,
    timeout: waitBound(60_000),
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
  }
  const [code] = (await once(child, 'close')) as [number | null]
  assert.equal(code, 0, output)
  return output
}

/** What the text blocks that follow those of a language say is printed. */
function printedBy(blocks: readonly Block[], language: string): RegExp[] {
  return blocks.flatMap(({ language: own, text }, i) =>
    own === 'text' && blocks[i - 1]?.language === language ? expectations(text) : [],
  )
}

/** A folder with the files of a document, in which the package is installed. */
function scratch(t: TestContext, blocks: readonly Block[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-guide-'))
  t.after(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  for (const name of ['examples', 'dist']) symlinkSync(join(root, name), join(folder, name))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module", "private": true }')
  for (const { file, text } of blocks) if (file !== undefined) writeFileSync(join(folder, file), `${text}\n`)
  return folder
}

/**
 * What differs from a reader's machine: the package is installed already, from this checkout; and the development agent
 * has ports of its own, which every command finds by the environment.
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
