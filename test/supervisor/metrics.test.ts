// The metrics of proxies at the admin address of the supervisor.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { addMetrics } from '../../examples/supervisor/src/operator/proxy-metrics.js'
import { freePort } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { IDLE, managed, startHost } from './connect-supervisor.js'

test('exports the certificate expiry of each managed proxy, and keeps the admin address of a definition', async (t) => {
  const [adminPort, ownPort] = [await freePort(), await freePort()]
  const { agent, host } = await startHost(
    t,
    {
      'web.json': managed('web', { config: { admin_addr: `127.0.0.1:${ownPort}` } }),
      'api.json': managed('api'),
      'other.json': managed('other', IDLE),
    },
    { flags: ['-admin-addr', String(adminPort)] },
  )
  await host.start()
  const metrics = async (): Promise<string> => (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()
  for (const proxy of ['web-proxy', 'api-proxy']) {
    const line = new RegExp(
      `^connect_proxy_certificate_expiry_timestamp_seconds{proxy="${proxy}"[^}]*} (\\S+)`,
      'm',
    )
    await until(`${proxy} has a certificate`, async () => {
      const [, expiry] = line.exec(await metrics()) ?? []
      return Number(expiry) > Date.now() / 1_000
    })
  }
  const text = await metrics()
  assert.equal(text.match(/^# TYPE connect_proxy_certificate_expiry_timestamp_seconds /gm)?.length, 1)
  assert.match(text, /^connect_supervisor_proxy_up{proxy="other-proxy"} 1$/m)
  // The TCP check of the agent connects and sends nothing, which must not count as a rejection.
  await until('the checks pass', async () => {
    const checks = (await (await fetch(`${agent.url}/v1/agent/checks`)).json()) as Record<
      string,
      { Status: string }
    >
    return ['web', 'api'].every((name) => checks[`service:${name}-proxy`]?.Status === 'passing')
  })
  assert.deepEqual((await metrics()).match(/^connect_proxy_rejections_total{.*$/gm), null)
  for (const name of ['web', 'api']) assert.doesNotMatch(await host.command('logs', name), /rejected/)
  const own = await fetch(`http://127.0.0.1:${ownPort}/ready`)
  assert.ok([200, 503].includes(own.status))
})

test('merges the metrics of several proxies under one header, with a label for the proxy', () => {
  const families: Parameters<typeof addMetrics>[0] = new Map()
  const text = [
    '# HELP connect_proxy_a Help.',
    '# TYPE connect_proxy_a gauge',
    'connect_proxy_a 1',
    'connect_proxy_a{name="x"} 2',
    '',
    '# HELP process_b Help.',
    '# TYPE process_b gauge',
    'process_b 3',
  ].join('\n')
  addMetrics(families, 'web-proxy', text)
  addMetrics(families, 'a"b\\c', text)
  assert.deepEqual(
    [...families].map(([name, { header, samples }]) => [name, header.length, samples]),
    [
      [
        'connect_proxy_a',
        2,
        [
          'connect_proxy_a{proxy="web-proxy"} 1',
          'connect_proxy_a{proxy="web-proxy",name="x"} 2',
          'connect_proxy_a{proxy="a\\"b\\\\c"} 1',
          'connect_proxy_a{proxy="a\\"b\\\\c",name="x"} 2',
        ],
      ],
    ],
  )
})
