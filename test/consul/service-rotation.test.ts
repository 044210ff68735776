import assert from 'node:assert/strict'
import type { Duplex } from 'node:stream'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Leaf, Roots, Service } from '../../src/index.js'
import { offer } from '../fixtures/mesh.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { echo, exchange, plainConnect, plainEcho } from './service-echo.js'
import { ROTATION_MS, ask, instances, joiner, nextEvent, rotateCa, until } from './service-mesh.js'

test('a rotation of the CA fails no connection', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  await offer(api, (socket) => {
    socket.on('data', (said: Buffer) => socket.write(`${socket.peer.serialNumber} ${said.toString()}`))
  })
  // A mesh of both kinds: the built-in proxy keeps its certificates by itself.
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
  const seen = { caller: new Set<string>(), called: new Set<string>(), proxy: new Set<string>() }
  const loops = [
    again(stop.signal, async () => {
      const socket = await web.dial('api')
      const answer = await ask(socket, 'ping')
      assert.match(answer, /^[0-9a-f:]+ ping$/)
      seen.caller.add(answer.split(' ')[0]!)
      seen.called.add(socket.peer.serialNumber)
      socket.destroy()
    }),
    again(stop.signal, async () => {
      assert.match(await ask(busy, 'still there?'), / still there\?$/)
    }),
    again(stop.signal, async () => {
      const socket = await web.dial('svc')
      seen.proxy.add(socket.peer.serialNumber)
      await assertWhole(socket)
    }),
    again(stop.signal, async () => assertWhole(await plainConnect(gopher.port))),
  ]
  t.after(async () => {
    stop.abort()
    await Promise.allSettled(loops)
  })

  // What any loop fails with ends the waiting too.
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

  await t.test('and brings both sides a new certificate under a new root, the old one still known', () => {
    assertRenewed(before.web, webLeaf)
    assertRenewed(before.api, apiLeaf)
    assert.equal(web.leaf?.serialNumber, webLeaf.serialNumber)
    assert.equal(roots.certificates.length, 2)
    assert.notEqual(roots.activeRootId, before.root)
    assert.deepEqual(rootsOf(web).pems, roots.pems)
    assert.equal(roots.trustDomain, web.trustDomain)
    // The leaf, and the new root as the old one has signed it, for peers that know only the old one.
    assert.equal(webLeaf.chainPem.match(/BEGIN CERTIFICATE/g)?.length, 2)
  })

  await t.test('new connections are of the new certificates', async () => {
    const socket = await web.dial('api')
    assert.equal(socket.peer.serialNumber, apiLeaf.serialNumber)
    assert.equal(await ask(socket, 'new'), `${webLeaf.serialNumber} new`)
    socket.destroy()
  })

  await t.test('open ones live on as what they were', async () => {
    assert.equal(open.peer.serialNumber, before.api.serialNumber)
    assert.equal(await ask(open, 'two'), `${before.web.serialNumber} two`)
  })

  await t.test('the built-in proxies come to theirs in their own time', async () => {
    const both = until(
      'both proxies have new certificates',
      () => seen.proxy.size === 2 && gophers.size === 2,
      ROTATION_MS,
    )
    await Promise.race([both, failed])
  })

  await t.test('and none of those that were made meanwhile has failed', async () => {
    stop.abort()
    const counts = await Promise.all(loops)
    for (const count of counts) assert.ok(count > 10, `only ${counts.join(', ')} rounds`)
    assert.ok(seen.caller.has(before.web.serialNumber) && seen.called.has(before.api.serialNumber))
  })
})

/** Runs the step until told to stop, and returns how often. */
async function again(signal: AbortSignal, step: () => Promise<unknown>): Promise<number> {
  for (let count = 0; ; count += 1) {
    if (signal.aborted) return count
    await step()
    await sleep(50, undefined, { signal }).catch(() => undefined)
  }
}

async function assertWhole(socket: Duplex): Promise<void> {
  const { sent, told, received } = await exchange(socket, 20_000)
  assert.deepEqual([told, received], [sent, sent])
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
