import { Socket } from 'node:net'
import type { ServerResponse } from 'node:http'
import type { FaultAnswer } from './faults.js'
import type { Answer } from './http.js'
import type { Json } from './json.js'

interface SendOptions {
  /** Indent JSON, as `?pretty` asks. */
  pretty: boolean
  fault: FaultAnswer | undefined
  /** Sent with every answer. */
  headers: Record<string, string>
}

/** Writes an answer, spoiled by the fault if there is one. */
export function send(
  response: ServerResponse,
  answer: Answer,
  { pretty, fault, headers: common }: SendOptions,
): void {
  if (response.destroyed) return
  const bytes = Buffer.from(encode(answer, pretty, fault))
  response.statusCode = fault?.status ?? answer.status
  if (answer.json !== undefined) response.setHeader('Content-Type', 'application/json')
  for (const [name, value] of Object.entries({ ...common, ...answer.headers }))
    response.setHeader(name, value)
  for (const [name, value] of Object.entries(fault?.headers ?? {})) {
    if (value === '') response.removeHeader(name)
    else response.setHeader(name, value)
  }
  if (fault?.contentType !== undefined) response.setHeader('Content-Type', fault.contentType)
  response.setHeader('Content-Length', bytes.length)
  if (fault?.truncate) {
    response.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => {
      response.destroy()
    })
  } else {
    response.end(bytes)
  }
}

/** Ends the connection with a TCP reset. */
export function cut(response: ServerResponse): void {
  const socket = response.socket
  // A TLS socket has no reset of its own: a plain destroy must do.
  if (socket instanceof Socket && !('encrypted' in socket)) socket.resetAndDestroy()
  else response.destroy()
}

function encode(answer: Answer, pretty: boolean, fault: FaultAnswer | undefined): Buffer | string {
  if (answer.json === undefined) return answer.body ?? ''
  const json: Json = fault?.transform ? fault.transform(structuredClone(answer.json)) : answer.json
  return pretty ? `${JSON.stringify(json, null, 4)}\n` : JSON.stringify(json)
}
