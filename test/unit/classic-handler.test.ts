import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { describe, it } from 'node:test'
import type { Dispatcher } from 'undici'
import { classicHandler, toUndici } from '../../src/http/routes/classic-handler.js'

type Call = [name: string, ...args: unknown[]]

function raw(...lines: string[]): Buffer[] {
  return lines.map((line) => Buffer.from(line, 'latin1'))
}

/** A handler in the newer form that records its calls, and its classic form. */
function start(overrides: Dispatcher.DispatchHandler = {}) {
  const calls: Call[] = []
  const controllers = new Set<Dispatcher.DispatchController>()
  const record =
    (name: string) =>
    (controller: Dispatcher.DispatchController, ...args: unknown[]): void => {
      controllers.add(controller)
      calls.push([name, ...args])
    }
  const modern: Dispatcher.DispatchHandler = {
    onRequestStart: record('start'),
    onRequestUpgrade: record('upgrade'),
    onResponseStart: record('head'),
    onResponseData: record('data'),
    onResponseEnd: record('end'),
    onResponseError: record('error'),
    ...overrides,
  }
  const aborts: unknown[] = []
  const classic = classicHandler(modern)
  return {
    classic,
    calls,
    controllers,
    aborts,
    connect: (): Dispatcher.DispatchController => {
      classic.onConnect((reason) => aborts.push(reason), { history: [] })
      return [...controllers][0]!
    },
  }
}

describe('classicHandler', () => {
  it('returns a handler in the classic form as it is', () => {
    const handler = { onConnect: () => undefined, onError: () => undefined }
    assert.equal(classicHandler(handler), handler)
    assert.equal(toUndici(classicHandler(handler)), handler)
  })

  it('passes a response to a newer handler, with one controller', () => {
    const { classic, calls, controllers, connect } = start()
    const controller = connect()
    const headers = raw('Set-Cookie', 'a', 'X-A', 'b', 'set-cookie', 'c')
    assert.equal(
      classic.onHeaders(200, headers, () => undefined, 'Fine'),
      true,
    )
    assert.equal(controller.rawHeaders, headers)
    assert.equal(classic.onData(Buffer.from('x')), true)
    const trailers = raw('X-T', 'd')
    classic.onComplete(trailers)
    assert.equal(controller.rawTrailers, trailers)
    assert.deepEqual(calls, [
      ['start', { history: [] }],
      ['head', 200, { 'set-cookie': ['a', 'c'], 'x-a': 'b' }, 'Fine'],
      ['data', Buffer.from('x')],
      ['end', { 'x-t': 'd' }],
    ])
    assert.equal(controllers.size, 1)
  })

  it('passes a response without trailers', () => {
    const { classic, calls, connect } = start()
    connect()
    classic.onComplete(null)
    classic.onComplete([])
    assert.deepEqual(calls.slice(1), [
      ['end', {}],
      ['end', {}],
    ])
  })

  it('passes each head of a response, that of 103 Early Hints too', () => {
    const { classic, calls, connect } = start()
    const controller = connect()
    classic.onHeaders(103, raw('link', '</a>'), () => undefined, 'Early Hints')
    classic.onHeaders(204, raw('x-a', 'b'), () => undefined, 'No Content')
    assert.deepEqual(calls.map(([name, status]) => [name, status]).slice(1), [
      ['head', 103],
      ['head', 204],
    ])
    assert.deepEqual(controller.rawHeaders, raw('x-a', 'b'))
  })

  it('passes an error, before the connection and after it', () => {
    const { classic, calls, connect } = start()
    const error = new Error('no')
    classic.onError(error)
    connect()
    classic.onError(error)
    assert.deepEqual(calls, [
      ['error', error],
      ['start', { history: [] }],
      ['error', error],
    ])
  })

  it('passes an upgrade', () => {
    const { classic, calls, connect } = start()
    const controller = connect()
    const socket = new PassThrough()
    const headers = raw('Upgrade', 'echo')
    classic.onUpgrade?.(101, headers, socket)
    assert.equal(controller.rawHeaders, headers)
    assert.deepEqual(calls.slice(1), [['upgrade', 101, { upgrade: 'echo' }, socket]])
    socket.destroy()
  })

  it('pauses and resumes the response by the controller', () => {
    const { classic, connect } = start()
    const controller = connect()
    let resumed = 0
    const resume = (): void => {
      resumed += 1
    }
    controller.pause()
    assert.equal(controller.paused, true)
    assert.equal(classic.onHeaders(200, [], resume, ''), false)
    assert.equal(classic.onData(Buffer.from('x')), false)
    controller.resume()
    assert.deepEqual([controller.paused, resumed], [false, 1])
    // Nothing is paused.
    controller.resume()
    assert.equal(resumed, 1)
    assert.equal(classic.onData(Buffer.from('x')), true)
    controller.pause()
    assert.equal(classic.onData(Buffer.from('x')), false)
    controller.resume()
    assert.equal(resumed, 2)
  })

  it('pauses by a call during the response', () => {
    const { classic, connect } = start({
      onResponseData: (controller) => {
        controller.pause()
      },
    })
    connect()
    assert.equal(
      classic.onHeaders(200, [], () => undefined, ''),
      true,
    )
    assert.equal(classic.onData(Buffer.from('x')), false)
  })

  it('aborts the request once, with the reason', () => {
    const { aborts, connect } = start()
    const controller = connect()
    assert.deepEqual([controller.aborted, controller.reason], [false, null])
    const reason = new Error('enough')
    controller.abort(reason)
    controller.abort(new Error('again'))
    assert.deepEqual([controller.aborted, controller.reason, aborts], [true, reason, [reason]])
  })

  it('aborts with an error although the reason is none', () => {
    const { aborts, connect } = start()
    connect().abort('enough' as unknown as Error)
    assert.ok(aborts[0] instanceof Error)
  })

  it('accepts a newer handler with few functions', () => {
    const classic = classicHandler({ onRequestStart: () => undefined })
    classic.onConnect(() => undefined)
    assert.equal(
      classic.onHeaders(200, [], () => undefined, ''),
      true,
    )
    assert.equal(classic.onData(Buffer.from('x')), true)
    classic.onComplete(null)
    classic.onUpgrade?.(101, [], new PassThrough())
  })
})
