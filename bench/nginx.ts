import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { startProgram } from './process.js'

/** Starts nginx with one worker that answers every request with a few bytes. */
export async function startNginx(scope: TestContext, port: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'consul-connect-bench-'))
  scope.after(() => rm(folder, { recursive: true }))
  const config = join(folder, 'nginx.conf')
  await writeFile(
    config,
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000000;
  server { listen 127.0.0.1:${port}; location / { return 200 "hello\\n"; } } }
`,
  )
  await startProgram(scope, ['nginx', '-c', config, '-p', folder], {})
}
