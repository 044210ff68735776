import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'

interface Manifest {
  readonly scripts: Record<string, string>
}

const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest

describe('the package', () => {
  it('contains the build, the documents, and nothing else', () => {
    const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      encoding: 'utf8',
    })
    const [pack] = JSON.parse(output) as [{ files: { path: string }[] }]
    const paths = pack.files.map(({ path }) => path)
    for (const required of [
      'README.md',
      'LICENSE',
      'CHANGELOG.md',
      'package.json',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/proxy.js',
      'dist/testing/index.js',
    ]) {
      assert.ok(paths.includes(required), `${required} is missing`)
    }
    assert.deepEqual(
      paths.filter(
        (path) =>
          !/^(dist\/.*\.(js|d\.ts)|README\.md|LICENSE|CHANGELOG\.md|SECURITY\.md|package\.json)$/.test(path),
      ),
      [],
    )
  })

  it('has no install scripts', () => {
    assert.deepEqual(
      Object.keys(manifest.scripts).filter((name) => /^(pre|post)?install$/.test(name)),
      [],
    )
  })

  it('has a lock file with a hash of every package and no registry', () => {
    const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as {
      packages: Record<string, { integrity?: string; link?: boolean; resolved?: string }>
    }
    for (const [path, entry] of Object.entries(lock.packages)) {
      if (!path.includes('node_modules/') || entry.link === true) continue
      assert.match(entry.integrity ?? '', /^sha512-/, path)
      assert.equal(entry.resolved, undefined, path)
    }
  })

  const entries: Readonly<Record<string, readonly string[]>> = {
    index: [
      'AbortError',
      'AgentError',
      'ClosedError',
      'ConnectError',
      'ConsulApi',
      'DeniedError',
      'DialError',
      'DnsError',
      'ERROR_CODES',
      'HostError',
      'IdentityError',
      'OptionError',
      'RedirectError',
      'RequestDeniedError',
      'RevokedError',
      'Service',
      'SpiffeId',
      'SpiffeIdError',
      'TimeoutError',
      'VerificationError',
      'allOf',
      'anyOf',
      'authorizeAny',
      'authorizeIntentions',
      'authorizeOneOf',
      'authorizeService',
      'authorizeTrustDomain',
      'closeOnSignals',
      'consul',
      'peer',
      'requestDecision',
      'service',
    ],
    proxy: [
      'MUX_META',
      'PROXY_CONFIG_KEYS',
      'ProxyConfigSource',
      'dialLocal',
      'parseProxyConfig',
      'proxyConfig',
      'pump',
      'relayAgent',
    ],
    'testing/index': ['TestAgent', 'TestCa', 'extension'],
  }
  for (const [entry, names] of Object.entries(entries)) {
    it(`exports exactly these names from ${entry}`, async () => {
      const url = new URL(`../../dist/${entry}.js`, import.meta.url).href
      assert.deepEqual(Object.keys((await import(url)) as object).sort(), names)
    })
  }
})
