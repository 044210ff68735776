// One instance of `api` in a separate process. Dials `db` for each request, and closes on SIGTERM.
// Usage: `rolling-program.ts <agent address>`.
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import * as connect from '../../src/index.js'
import { offerServer } from '../mesh/offer-server.js'

const WORK_MS = 20

const [address = ''] = process.argv.slice(2)
const api = connect.service('api', { agent: { address, env: {} } })
const server = createServer((_request, response) => {
  void (async () => {
    await sleep(WORK_MS)
    response.end(`${process.pid} ${await text(await api.dial('db'))}`)
  })()
})
await offerServer(api, server)
connect.closeOnSignals(api)
process.send?.('ready')
// The channel to the parent must not keep the process alive.
process.disconnect()
