// Demonstrates a service mesh in one minute: identity, authorization, CA rotation, and revocation. Uses an embedded agent, or
// the development agent at CONSUL_HTTP_ADDR.
import { setTimeout as sleep } from 'node:timers/promises'
import { TestAgent } from 'consul-connect/testing'
import { Consul } from './consul.js'
import { Program } from './programs.js'

/**
 * Time to wait for new certificates after a rotation. An agent takes up to 30 s. An agent on which the services ran before
 * may renew certificates only shortly before they expire (seen with Consul 1.8.7).
 */
const RENEWAL_MS = 45_000

const programs: Program[] = []
let consul: Consul | undefined
let embedded: TestAgent | undefined

function start(name: string, address: string): Program {
  const program = new Program(name, { CONSUL_HTTP_ADDR: address })
  programs.push(program)
  return program
}

async function runDemo(): Promise<void> {
  const configuredAddress = process.env['CONSUL_HTTP_ADDR'] ?? ''
  if (configuredAddress === '') {
    embedded = await TestAgent.start()
    console.log(`Started an embedded Consul agent at ${embedded.address}. It has created a CA for the mesh.`)
  } else console.log(`Using the Consul agent at ${configuredAddress}.`)
  const address = embedded?.address ?? configuredAddress
  const agent = new Consul(address, process.env['CONSUL_HTTP_TOKEN'])
  if (embedded === undefined && !(await agent.isDevAgent()) && process.env['DEMO_ANY_AGENT'] !== '1') {
    throw new Error(
      'the agent was not started with -dev, and this demo rotates the CA; set DEMO_ANY_AGENT=1 to run it anyway',
    )
  }
  consul = agent
  await consul.claimService('api')
  await consul.setIntention('*', 'api', 'deny')
  await consul.setIntention('web', 'api', 'allow')
  console.log('Its intentions allow web to call api, and deny all other services.\n')

  const api = start('api', address)
  const { spiffeId, port, id } = await api.waitFor('ready')
  console.log(`api joins the mesh in its own process. The agent issued a certificate with the identity`)
  console.log(`  ${spiffeId}`)
  console.log(`api listens on port ${port}. There is no sidecar.\n`)

  const web = start('web', address)
  const { answer } = await web.waitFor('answer')
  console.log(
    'web joins in another process, and dials api by name. Both verify the identity of the other. api answers:',
  )
  console.log(`  "${answer}"\n`)

  const intruder = start('intruder', address)
  const [refused, denied] = await Promise.all([intruder.waitFor('refused'), api.waitFor('denied')])
  await intruder.exited()
  console.log(
    `intruder joins too. Its certificate is valid, but no intention allows it to call api. api logs`,
  )
  console.log(`  "${denied.service} is denied: ${denied.reason}"`)
  console.log(`and intruder gets ${refused.code}. The handler of api was not called.\n`)

  web.command('stream')
  await web.waitFor('called', ({ calls }) => calls >= 50)
  const before = { api: api.count('rotated'), web: web.count('rotated'), calls: web.count('called') }
  console.log('web now calls api continuously, and the CA gets a new key …')
  await consul.rotateCa()
  const renewed = async (program: Program, count: number): Promise<void> => {
    let seen = 0
    await program.waitFor('rotated', () => (seen += 1) > count)
  }
  const bothRenewed = Promise.all([renewed(api, before.api), renewed(web, before.web)]).then(() => true)
  // Ignore an error after the timeout of the race below.
  bothRenewed.catch(() => undefined)
  const areRenewed = await Promise.race([bothRenewed, sleep(RENEWAL_MS, false, { ref: false })])
  const during = web.count('called')
  await web.waitFor('called', ({ calls }) => calls >= during + 50)
  const calls = `${web.count('called')} calls succeeded`
  console.log(
    areRenewed
      ? `api and web have new certificates from the new root. ${calls}`
      : `The agent has not renewed the certificates of api and web yet; the old root is still trusted. ${calls}`,
  )
  console.log('before, during, and after the rotation, and none failed.\n')

  web.command('hold')
  await web.waitFor('held')
  console.log('web now keeps one connection open, and the intention changes: web may not call api.')
  await consul.changeLastIntention('web', 'api', 'deny')
  const changedAt = performance.now()
  const [revoked] = await Promise.all([api.waitFor('revoked'), web.waitFor('cut')])
  console.log(`${Math.ceil(performance.now() - changedAt)} ms later the connection is closed. api logs`)
  console.log(`  "${revoked.service} is no longer allowed: ${revoked.reason}"\n`)

  web.command('stop')
  await web.exited()
  api.command('stop')
  await api.exited()
  if (await consul.isRegistered(id)) throw new Error('api is still registered')
  await consul.deleteIntentions()
  console.log('web and api leave the mesh. Neither is registered any more, and the intentions are deleted.')
}

try {
  await runDemo()
} catch (error) {
  process.exitCode = 1
  console.error(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`)
} finally {
  await Promise.all(programs.map((program) => program.stop()))
  await consul?.deleteIntentions().catch((error: unknown) => {
    process.exitCode = 1
    console.error(`Intentions of the demo could not be deleted: ${String(error)}`)
  })
  await embedded?.close()
}
