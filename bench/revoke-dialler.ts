// Dials as many services, each with as many connections, and counts those that end: for revoke.bench.ts.
import { once } from 'node:events'
import { service } from '../src/index.js'

const [address = '', port = '', sources = '', each = ''] = process.argv.slice(2)
const closed = { ofDenied: 0, ofOthers: 0 }
const AT_A_TIME = 8

const left = Array.from({ length: Number(sources) }, (_, i) => `source-${i}`)
const dialNext = async (): Promise<void> => {
  for (let name = left.pop(); name !== undefined; name = left.pop()) {
    const own = service(name, { agent: { address, env: {} } })
    const kind = name === 'source-7' ? 'ofDenied' : 'ofOthers'
    for (let i = 0; i < Number(each); i += 1) {
      const socket = await own.dial({ address: `127.0.0.1:${port}`, service: 'api' })
      socket.on('error', () => undefined).once('close', () => (closed[kind] += 1))
      await once(socket, 'data')
    }
  }
}
await Promise.all(Array.from({ length: AT_A_TIME }, dialNext))
process.on('message', () => process.send?.({ what: 'closed', ...closed }))
process.send?.({ what: 'open' })
