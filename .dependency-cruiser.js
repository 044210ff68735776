/**
 * The layers of the library, from the lowest to the highest. A file imports from its own folder and from lower layers only;
 * folders of one layer do not import each other.
 */
const LAYERS = [
  ['base'],
  ['agent', 'sockets'],
  ['identity', 'matching'],
  ['authorize', 'resolve'],
  ['transport'],
  ['adapters', 'proxy'],
  ['http'],
  ['service'],
]

/** Packages that only one folder may use, so that another one can replace them. */
const PACKAGES = {
  debug: 'src/base/log.ts',
  'dns-packet': 'src/(agent/dns/|testing/dns\\.ts)',
  'node-forge': 'src/(identity|testing)/',
  re2js: 'src/matching/',
  undici: 'src/(agent|http|service)/',
}

const layerRules = LAYERS.flatMap((folders, level) =>
  folders.map((folder) => ({
    name: `layer-${folder}`,
    comment: `${folder} imports from lower layers only: ${LAYERS.slice(0, level).flat().join(', ') || 'none'}`,
    severity: 'error',
    from: { path: `^src/${folder}/` },
    to: { path: '^src/', pathNot: `^src/(${[...LAYERS.slice(0, level).flat(), folder].join('|')})/` },
  })),
)

const packageRules = Object.entries(PACKAGES).map(([name, path]) => ({
  name: `package-${name}`,
  severity: 'error',
  from: { path: '^src/', pathNot: `^${path}` },
  to: { path: `node_modules/${name}/` },
}))

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...layerRules,
    ...packageRules,
    { name: 'circle', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'testing-is-apart',
      comment: 'src/testing stands beside the library: it uses its tools, and nothing of the library uses it',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/testing/' },
      to: { path: '^src/testing/' },
    },
    {
      name: 'testing-uses-tools-only',
      severity: 'error',
      from: { path: '^src/testing/' },
      to: { path: '^src/', pathNot: '^src/(testing|base|identity)/' },
    },
    {
      name: 'examples-use-the-public-surface',
      comment: 'examples import the library by its name',
      severity: 'error',
      from: { path: '^examples/' },
      to: { path: '^(src|test)/' },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '/dist/' },
  },
}
