// One instance of `api`, as a process: asks `db` for each request, and leaves the mesh on SIGTERM.
// Started by the test as `rolling-program.ts <agent address>`.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import * as connect from '../../src/index.js'

const WORK_MS = 20

const [address = ''] = process.argv.slice(2)
const api = connect.service('api', { agent: { address, env: {} } })
const server = createServer((_request, response) => {
  void (async () => {
    await sleep(WORK_MS)
    response.end(`${process.pid} ${await text(await api.dial('db'))}`)
  })()
})
const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
connect.closeOnSignals(api)
process.send?.('ready')
// The channel to the parent must not keep the process alive.
process.disconnect()
