import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Leaf, Roots, Service } from '../../src/index.js'
import { offer } from '../fixtures/mesh.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { assertExchanges, assertIntact, echo, exchange, plainConnect, plainEcho } from './service-echo.js'
import { ROTATION_MS, ask, instances, joiner, nextEvent, rotateCa, until } from './service-mesh.js'

test('a rotation of the CA', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  await offer(api, (socket) => {
    socket.on('data', (data: Buffer) => socket.write(`${socket.peer.serialNumber} ${data.toString()}`))
  })
  // The mesh includes the built-in proxy, which renews its own certificates.
  const application = await plainEcho(t)
  await proxyInbound(t, consul, 'svc', application.port)
  const gophers = new Set<string>()
  await offer(join('echo'), (socket) => {
    gophers.add(socket.peer.serialNumber)
    echo(socket)
  })
  const gopher = await proxyOutbound(t, consul, 'gopher', 'echo')
  await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)

  await Promise.all([web.ready(), api.ready()])
  const before = { web: leafOf(web), api: leafOf(api), root: rootsOf(web).activeRootId }
  const open = await web.dial('api')
  assert.equal(await ask(open, 'one'), `${before.web.serialNumber} one`)
  const busy = await web.dial('api')

  const stop = new AbortController()
  const serials = { client: new Set<string>(), server: new Set<string>(), proxy: new Set<string>() }
  const loops = [
    repeat(stop.signal, async () => {
      const socket = await web.dial('api')
      const answer = await ask(socket, 'ping')
      assert.match(answer, /^[0-9a-f:]+ ping$/)
      serials.client.add(answer.split(' ')[0]!)
      serials.server.add(socket.peer.serialNumber)
      socket.destroy()
    }),
    repeat(stop.signal, async () => {
      assert.match(await ask(busy, 'still there?'), / still there\?$/)
    }),
    repeat(stop.signal, async () => {
      const socket = await web.dial('svc')
      serials.proxy.add(socket.peer.serialNumber)
      assertIntact(await exchange(socket, 20_000))
    }),
    repeat(stop.signal, () => assertExchanges(() => plainConnect(gopher.port), [20_000])),
  ]
  t.after(async () => {
    stop.abort()
    await Promise.allSettled(loops)
  })

  // A failure of a loop ends the waits below.
  const failed = Promise.all(loops).then(() => assert.fail('the loops ended by themselves'))
  failed.catch(() => undefined)
  const rotated = Promise.all([
    nextEvent(web, 'rotated', undefined, ROTATION_MS),
    nextEvent(api, 'rotated', undefined, ROTATION_MS),
    nextEvent(web, 'roots'),
    nextEvent(api, 'roots'),
  ])
  await rotateCa(consul)
  const [[webLeaf], [apiLeaf], [roots]] = await Promise.race([rotated, failed])

  await t.test('brings both sides a new leaf of a new root, and keeps the old root', () => {
    assertRenewed(before.web, webLeaf)
    assertRenewed(before.api, apiLeaf)
    assert.equal(web.leaf?.serialNumber, webLeaf.serialNumber)
    assert.equal(roots.certificates.length, 2)
    assert.notEqual(roots.activeRootId, before.root)
    assert.deepEqual(rootsOf(web).pems, roots.pems)
    assert.equal(roots.trustDomain, web.trustDomain)
    // The leaf, and the new root with a cross-signature of the old one, for peers without the new root.
    assert.equal(webLeaf.chainPem.match(/BEGIN CERTIFICATE/g)?.length, 2)
  })

  await t.test('applies to new connections', async () => {
    const socket = await web.dial('api')
    assert.equal(socket.peer.serialNumber, apiLeaf.serialNumber)
    assert.equal(await ask(socket, 'new'), `${webLeaf.serialNumber} new`)
    socket.destroy()
  })

  await t.test('keeps open connections', async () => {
    assert.equal(open.peer.serialNumber, before.api.serialNumber)
    assert.equal(await ask(open, 'two'), `${before.web.serialNumber} two`)
  })

  await t.test('brings the built-in proxies new leaves', async () => {
    const both = until(
      'both proxies have new certificates',
      () => serials.proxy.size === 2 && gophers.size === 2,
      ROTATION_MS,
    )
    await Promise.race([both, failed])
  })

  await t.test('fails no connection in the meantime', async () => {
    stop.abort()
    const counts = await Promise.all(loops)
    for (const count of counts) assert.ok(count > 10, `only ${counts.join(', ')} rounds`)
    assert.ok(serials.client.has(before.web.serialNumber) && serials.server.has(before.api.serialNumber))
  })
})

/** Repeats a step until the signal is aborted. Returns the number of repetitions. */
async function repeat(signal: AbortSignal, step: () => Promise<unknown>): Promise<number> {
  for (let count = 0; ; count += 1) {
    if (signal.aborted) return count
    await step()
    await sleep(50, undefined, { signal }).catch(() => undefined)
  }
}

function assertRenewed(before: Leaf, after: Leaf): void {
  assert.notEqual(after.serialNumber, before.serialNumber)
  assert.equal(after.uri, before.uri)
  assert.ok(after.notAfter >= before.notAfter)
}

function leafOf(service: Service): Leaf {
  assert.ok(service.leaf)
  return service.leaf
}

function rootsOf(service: Service): Roots {
  assert.ok(service.roots)
  return service.roots
}
