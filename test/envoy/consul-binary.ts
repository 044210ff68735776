// Selects the Consul of test/peers for this process, since Envoy needs 1.14 or later. A test file imports this module
// first: test/consul/real-agent.ts reads the variable when it is loaded.
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'

const binary = resolve('test/peers/bin/consul')
if (process.env['CONSUL_BIN'] === undefined && existsSync(binary)) process.env['CONSUL_BIN'] = binary
