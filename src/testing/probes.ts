import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import type { CheckDefinition, CheckResult, CheckStatus, HttpProbe } from './checks.js'

/** Looks once. Whatever goes wrong is a result, a target that is none included. */
export async function probe(
  { kind, target, request }: CheckDefinition,
  signal: AbortSignal,
): Promise<CheckResult> {
  try {
    return await (kind === 'tcp' ? probeTcp(target, signal) : probeHttp(target, request, signal))
  } catch (error) {
    return { status: 'critical', output: error instanceof Error ? error.message : String(error) }
  }
}

function probeTcp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const colon = target.lastIndexOf(':')
  const host = target.slice(0, colon).replace(/^\[|\]$/g, '')
  const port = Number(target.slice(colon + 1))
  return new Promise((resolve) => {
    const settle = (status: CheckStatus, output: string): void => {
      socket.destroy()
      resolve({ status, output })
    }
    const socket = connect({ host, port, signal })
    socket.once('connect', () => {
      settle('passing', `TCP connect ${target}: Success`)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const reason = error.code === 'ECONNREFUSED' ? 'connect: connection refused' : error.message
      settle('critical', `dial tcp ${target}: ${reason}`)
    })
  })
}

function probeHttp(target: string, how: HttpProbe, signal: AbortSignal): Promise<CheckResult> {
  const method = how.method || 'GET'
  const options = { method, headers: how.headers, signal, agent: false }
  return new Promise((resolve) => {
    const request = target.startsWith('https:')
      ? httpsRequest(target, { ...options, rejectUnauthorized: !how.tlsSkipVerify })
      : httpRequest(target, options)
    request.once('response', (response) => {
      const code = response.statusCode ?? 0
      const output = `HTTP ${method} ${target}: ${code} ${response.statusMessage ?? ''} Output: `
      const status = code >= 200 && code < 300 ? 'passing' : code === 429 ? 'warning' : 'critical'
      response.destroy()
      resolve({ status, output })
    })
    request.once('error', (error) => {
      resolve({ status: 'critical', output: `Get ${JSON.stringify(target)}: ${error.message}` })
    })
    request.end(how.body)
  })
}
