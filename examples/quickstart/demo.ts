// The story of a mesh in one minute. It runs on an agent inside this process, or on the development agent that
// CONSUL_HTTP_ADDR names.
import { setTimeout as sleep } from 'node:timers/promises'
import { TestAgent } from 'consul-connect/testing'
import { Consul } from './consul.js'
import { Program } from './story.js'

/**
 * How long to wait for new certificates after a rotation. An agent takes up to 30 s. One on which the services ran before
 * may not renew at all until the certificates near their end (seen with Consul 1.8.7).
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

async function story(): Promise<void> {
  const named = process.env['CONSUL_HTTP_ADDR'] ?? ''
  if (named === '') {
    embedded = await TestAgent.start()
    console.log(
      `There is a Consul agent in this process, at ${embedded.address}. It has made a CA for the mesh.`,
    )
  } else console.log(`There is a Consul agent at ${named}.`)
  const address = embedded?.address ?? named
  const agent = new Consul(address, process.env['CONSUL_HTTP_TOKEN'])
  if (embedded === undefined && !(await agent.isForDevelopment()) && process.env['DEMO_ANY_AGENT'] !== '1') {
    throw new Error(
      'it was not started with -dev, and this demo rotates the CA: set DEMO_ANY_AGENT=1 if you mean it',
    )
  }
  consul = agent
  await consul.claimService('api')
  await consul.setIntention('*', 'api', 'deny')
  await consul.setIntention('web', 'api', 'allow')
  console.log('Its intentions say: web may call api, and nobody else may.\n')

  const api = start('api', address)
  const { who, port, id } = await api.heard('ready')
  console.log(
    `api joins the mesh in a process of its own. It asked the agent for a certificate, which names it`,
  )
  console.log(`  ${who}`)
  console.log(`and it listens on port ${port}. There is no sidecar.\n`)

  const web = start('web', address)
  const { answer } = await web.heard('answer')
  console.log(
    'web joins, in another process, and dials api by its name. Both prove who they are. api answers:',
  )
  console.log(`  "${answer}"\n`)

  const intruder = start('intruder', address)
  const [refused, denied] = await Promise.all([intruder.heard('refused'), api.heard('denied')])
  await intruder.ended()
  console.log(
    `intruder joins too. Its certificate is as good as anybody's, but no intention allows it. api says`,
  )
  console.log(`  "${denied.who} is denied: ${denied.reason}"`)
  console.log(`and intruder sees ${refused.code}. api's handler never saw it.\n`)

  web.command('stream')
  await web.heard('called', ({ calls }) => calls >= 50)
  const before = { api: api.count('rotated'), web: web.count('rotated'), calls: web.count('called') }
  console.log('web now calls api again and again, and the CA gets a new key …')
  await consul.rotateCa()
  const renewed = async (program: Program, count: number): Promise<void> => {
    let seen = 0
    await program.heard('rotated', () => (seen += 1) > count)
  }
  const bothRenewed = Promise.all([renewed(api, before.api), renewed(web, before.web)]).then(() => true)
  // An error that comes after the wait is over says nothing that matters any more.
  bothRenewed.catch(() => undefined)
  const areRenewed = await Promise.race([bothRenewed, sleep(RENEWAL_MS, false, { ref: false })])
  const during = web.count('called')
  await web.heard('called', ({ calls }) => calls >= during + 50)
  const calls = `${web.count('called')} calls went through`
  console.log(
    areRenewed
      ? `api and web have new certificates from the new root. ${calls}`
      : `The agent has not renewed the certificates of api and web yet: the old root is still trusted. ${calls}`,
  )
  console.log('before, during and after the change, and not one failed.\n')

  web.command('hold')
  await web.heard('held')
  console.log('web now keeps one connection open, and somebody changes the intention: web may not call api.')
  await consul.turnLastIntention('web', 'api', 'deny')
  const turnedAt = performance.now()
  const [revoked] = await Promise.all([api.heard('revoked'), web.heard('cut')])
  console.log(`${Math.ceil(performance.now() - turnedAt)} ms later the connection is gone. api says`)
  console.log(`  "${revoked.who} is no longer allowed: ${revoked.reason}"\n`)

  web.command('stop')
  await web.ended()
  api.command('stop')
  await api.ended()
  if (await consul.isRegistered(id)) throw new Error('api is still registered')
  await consul.tidyUp()
  console.log('web and api leave. Neither is registered any more, and the intentions are taken back.')
}

try {
  await story()
} catch (error) {
  process.exitCode = 1
  console.error(`\nThe story ended badly: ${error instanceof Error ? error.message : String(error)}`)
} finally {
  await Promise.all(programs.map((program) => program.end()))
  await consul?.tidyUp().catch((error: unknown) => {
    process.exitCode = 1
    console.error(`Intentions are left behind: ${String(error)}`)
  })
  await embedded?.close()
}
