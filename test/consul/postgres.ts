// A real PostgreSQL on loopback with a temporary data directory, which ends with the test.
import { execFile, spawn } from 'node:child_process'
import { chown, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { freePort } from '../fixtures/free-ports.js'
import { findProgram } from '../fixtures/programs.js'
import { stopChild } from './child-process.js'

const run = promisify(execFile)
/** PostgreSQL does not run as root. This is the ID of the unprivileged user of Debian. */
const UNPRIVILEGED = 65_534
const asUnprivileged = process.getuid?.() === 0 ? { uid: UNPRIVILEGED, gid: UNPRIVILEGED } : {}

/** Starts a server without passwords; returns its port. */
export async function startPostgres(t: TestContext): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'consul-connect-postgres-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  if (asUnprivileged.uid !== undefined) await chown(folder, UNPRIVILEGED, UNPRIVILEGED)
  const options = { cwd: folder, ...asUnprivileged }
  const init = ['-D', 'data', '-A', 'trust', '-U', 'postgres', '--no-sync', '--no-locale', '-E', 'UTF8']
  await run(program('initdb'), init, options)
  const port = await freePort()
  const settings = [
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    'fsync=off',
    'shared_buffers=16MB',
  ]
  const args = ['-D', 'data', '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])]
  const server = spawn(program('postgres'), args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] })
  // SIGQUIT: immediate shutdown.
  t.after(() => stopChild(server, 'SIGQUIT'))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    server.stderr.on('data', (chunk: Buffer) => {
      output += chunk.toString()
      if (output.includes('ready to accept connections')) resolve()
    })
    server.once('exit', () => {
      reject(new Error(`PostgreSQL ended at once:\n${output}`))
    })
    server.once('error', reject)
  })
  return port
}

/** Runs statements in one session. Returns the unaligned output of `psql`. */
export async function psql(port: number, ...statements: string[]): Promise<string> {
  const connection = ['-h', '127.0.0.1', '-p', String(port), '-U', 'postgres', '-d', 'postgres']
  const plain = ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1']
  const commands = statements.flatMap((statement) => ['-c', statement])
  const options = { env: { ...process.env, PGCONNECT_TIMEOUT: '10' }, maxBuffer: 1 << 26 }
  const { stdout } = await run('psql', [...connection, ...plain, ...commands], options)
  return stdout
}

function program(name: string): string {
  const found = findProgram(name)
  if (found === undefined) throw new Error(`there is no ${name}: install PostgreSQL`)
  return found
}
