import { createRequire } from 'node:module'
import { type ConsulApi, consul } from 'consul-connect'
import { Admin, METRICS_TYPE } from 'consul-connect-proxy/admin'
import { type Log, openLog } from 'consul-connect-proxy/log'
import { type Configuration, readConfiguration } from '../configuration/configuration.js'
import { ConfigurationWatcher } from '../configuration/watcher.js'
import { type FlagValues } from '../flags.js'
import { ControlServer } from '../operator/control.js'
import { Metrics } from '../operator/metrics.js'
import { RegistrationApi } from '../operator/registration-api.js'
import { currentBoot } from '../process/identity.js'
import { type Settings, configurationPaths, readSettings } from '../settings.js'
import { createFolder, stateFolder } from '../state/folder.js'
import { takeLock } from '../state/lock.js'
import { EMPTY_STATE } from '../state/snapshot.js'
import { StateFile } from '../state/store.js'
import { Supervisor, type SupervisorOptions } from '../supervisor.js'

/**
 * Runs the supervisor until SIGTERM or SIGINT. Proxies keep running, and the next supervisor adopts them.
 * @throws Error that the user has to fix
 */
export async function run(flags: FlagValues): Promise<void> {
  currentBoot()
  const paths = configurationPaths(flags)
  const configuration = await readConfiguration(paths)
  const settings = readSettings(flags, configuration, process.env)
  const log = openLog(settings.log)
  warn(log, configuration, settings)
  if (flags.token !== undefined) {
    log.warn('-token: visible in the process list; use -token-file or CONSUL_HTTP_TOKEN')
  }
  const closers: (() => void | Promise<void>)[] = []
  const state = openState(settings, closers)
  const saved = state === undefined ? EMPTY_STATE : await state.file.load()
  const api = consul({ env: settings.environment })
  const { CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, ...withoutToken } = settings.environment
  const anonymous = consul({ env: withoutToken })
  const supervisor = new Supervisor(configuration, saved, {
    api,
    anonymous,
    log,
    state,
    environment: settings.environment,
    directory: settings.dataDir ?? process.cwd(),
    defaultCommand: defaultCommand(settings),
    isRoot: process.getuid?.() === 0,
    logBounds: settings.logBounds,
  })
  if (state !== undefined) {
    const server = new ControlServer(state.folder.controlSocket, {
      status: () => supervisor.status(),
      stop: (id) => supervisor.stop(id),
      start: (id) => supervisor.startProxy(id),
      restart: (id) => supervisor.restartProxy(id),
    })
    await server.open()
    closers.push(() => {
      server.close()
    })
  }
  closers.push(
    await openAdmin(settings, supervisor, log),
    await openApi(settings, supervisor, anonymous, log),
  )
  const reload = createReloader(paths, flags, supervisor, log)
  process.on('SIGHUP', reload)
  if (flags.watch === true) {
    const watcher = new ConfigurationWatcher(paths, reload)
    closers.push(() => {
      watcher.close()
    })
  }
  exitOnSignals(log, {
    close: async () => {
      await supervisor.close(state === undefined)
      for (const close of closers.reverse()) await close()
      await Promise.all([api.close(), anonymous.close()])
    },
    // Without a data directory, no later supervisor could find the proxies.
    killProxies: () => {
      if (state === undefined) supervisor.kill()
    },
  })
  supervisor.start()
  log.info('supervisor started', {
    services: configuration.services.length,
    agent: api.address,
    dataDir: settings.dataDir,
  })
}

function warn(log: Log, { warnings }: Configuration, { dataDir }: Settings): void {
  for (const warning of warnings) log.warn(warning)
  if (dataDir === undefined) log.warn('-dev: proxies stop with the supervisor, and their output is discarded')
}

function openState(
  { dataDir }: Settings,
  closers: (() => void)[],
): { folder: ReturnType<typeof stateFolder>; file: StateFile } | undefined {
  if (dataDir === undefined) return undefined
  const folder = stateFolder(dataDir)
  createFolder(folder)
  closers.push(takeLock(folder.lock))
  return { folder, file: new StateFile(folder.snapshot) }
}

/** Command of the bundled `connect-proxy`, with the supervisor's log settings. */
function defaultCommand({ log }: Settings): SupervisorOptions['defaultCommand'] {
  const bin = createRequire(import.meta.url).resolve('consul-connect-proxy/bin.js')
  const logArgs = ['-log-level', log.level, ...(log.json ? ['-log-json'] : [])]
  return { command: [process.execPath, bin], logArgs }
}

async function openAdmin({ admin }: Settings, supervisor: Supervisor, log: Log): Promise<() => void> {
  if (admin === undefined) return () => undefined
  const metrics = new Metrics(
    () => supervisor.status(),
    () => supervisor.metricsSources(),
  )
  const server = new Admin({
    '/metrics': async () => ({ type: METRICS_TYPE, body: await metrics.text() }),
    '/health': () => ({ body: 'alive\n' }),
    '/ready': () => {
      const { agent, isWorking, passes } = supervisor.status()
      return { status: agent === 'ok' && isWorking && passes > 0 ? 200 : 503, body: { agent, isWorking } }
    },
    '/status': () => ({ body: supervisor.status() }),
  })
  const { address, port } = await server.open(admin).catch((error: unknown) => {
    throw new Error(`admin address: ${(error as Error).message}`, { cause: error })
  })
  log.info('admin address is open', { address: `${address}:${port}` })
  return () => {
    server.close()
  }
}

async function openApi(
  settings: Settings,
  supervisor: Supervisor,
  anonymous: ConsulApi,
  log: Log,
): Promise<() => void> {
  if (settings.api === undefined) return () => undefined
  const server = new RegistrationApi(anonymous, {
    allowsManaged: () => supervisor.configuration.allowManagedApiRegistration,
    read: (request) => supervisor.readRequest(request),
    expectFree: (id) => {
      supervisor.expectFree(id)
    },
    add: (definition, request) => supervisor.addRequest(definition, request),
    remove: (id) => supervisor.removeRequest(id),
    tokenOf: (id) => supervisor.tokenOfRequest(id),
    isManagedProxy: (id) => supervisor.isManagedProxy(id),
    nextRegistration: (id, signal) => supervisor.nextRegistration(id, signal),
  })
  const { address, port } = await server.open(settings.api).catch((error: unknown) => {
    throw new Error(`api address: ${(error as Error).message}`, { cause: error })
  })
  log.info('registration API is open', { address: `${address}:${port}` })
  return () => {
    server.close()
  }
}

/**
 * Returns a function that reloads the configuration. Reloads run one at a time, and an invalid configuration changes
 * nothing.
 */
function createReloader(
  paths: readonly string[],
  flags: FlagValues,
  supervisor: Supervisor,
  log: Log,
): () => void {
  let last = Promise.resolve()
  const reload = async (): Promise<void> => {
    try {
      const configuration = await readConfiguration(paths)
      const settings = readSettings(flags, configuration, process.env)
      warn(log, configuration, settings)
      log.setLevel(settings.log.level)
      supervisor.apply(configuration)
      log.info('configuration applied', { services: configuration.services.length })
    } catch (error) {
      log.error(`configuration rejected, the current one stays in effect: ${(error as Error).message}`)
    }
  }
  return () => {
    last = last.then(reload)
  }
}

function exitOnSignals(
  log: Log,
  { close, killProxies }: { readonly close: () => Promise<void>; readonly killProxies: () => void },
): void {
  let isEnding = false
  const end = (signal: NodeJS.Signals): void => {
    if (isEnding) {
      killProxies()
      process.exit(1)
    }
    isEnding = true
    log.info(`${signal}: shutting down`)
    void close().then(() => {
      process.exit(0)
    })
  }
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
  process.on('uncaughtExceptionMonitor', killProxies)
}
