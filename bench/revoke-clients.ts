// Opens connections as several services, and counts those that close. Used by revoke.bench.ts.
// Arguments: the address of the agent, the port, the number of services, and the number of connections of each.
import { once } from 'node:events'
import { service } from '../src/index.js'

const [address = '', port = '', sources = '', each = ''] = process.argv.slice(2)
const closed = { denied: 0, others: 0 }
const AT_A_TIME = 8

const names = Array.from({ length: Number(sources) }, (_, i) => `source-${i}`)
const dialNext = async (): Promise<void> => {
  for (let name = names.pop(); name !== undefined; name = names.pop()) {
    const source = service(name, { agent: { address, env: {} } })
    const kind = name === 'source-7' ? 'denied' : 'others'
    for (let i = 0; i < Number(each); i += 1) {
      const socket = await source.dial({ address: `127.0.0.1:${port}`, service: 'api' })
      socket.on('error', () => undefined).once('close', () => (closed[kind] += 1))
      await once(socket, 'data')
    }
  }
}
await Promise.all(Array.from({ length: AT_A_TIME }, dialNext))
process.on('message', () => process.send?.({ type: 'closed', ...closed }))
process.send?.({ type: 'open' })
