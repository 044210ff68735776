import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client'
import { type MetricsSource, proxyMetrics } from './proxy-metrics.js'
import { PROXY_STATES, type SupervisorStatus } from './status.js'

/** Prometheus metrics of the supervisor. */
export class Metrics {
  readonly #registry = new Registry()
  readonly #status: () => SupervisorStatus

  readonly #sources: () => readonly MetricsSource[]

  /** @param sources - returns the proxies whose own metrics are included */
  constructor(current: () => SupervisorStatus, sources: () => readonly MetricsSource[]) {
    this.#status = current
    this.#sources = sources
    const registers = [this.#registry]
    collectDefaultMetrics({ register: this.#registry })
    this.#gauge('agent_up', 'Whether the agent answered the last request.', [], (set) => {
      set({}, this.#status().agent === 'ok' ? 1 : 0)
    })
    this.#gauge('services', 'Number of configured services.', [], (set) => {
      set({}, this.#status().services)
    })
    this.#gauge('proxies', 'Number of managed proxies by state.', ['state'], (set) => {
      const { proxies } = this.#status()
      for (const state of PROXY_STATES)
        set({ state }, proxies.filter((proxy) => proxy.state === state).length)
    })
    this.#gauge('proxy_up', 'Whether the process of the proxy is running.', ['proxy'], (set) => {
      for (const { proxy, state } of this.#status().proxies) set({ proxy }, state === 'running' ? 1 : 0)
    })
    this.#gauge(
      'proxy_token_valid',
      'Whether the agent knows the ACL token of the proxy.',
      ['proxy'],
      (set) => {
        for (const { proxy, token } of this.#status().proxies)
          if (token !== 'none') set({ proxy }, token === 'valid' ? 1 : 0)
      },
    )
    this.#gauge('proxy_uptime_seconds', 'Age of the process of the proxy.', ['proxy'], (set) => {
      for (const { proxy, uptimeS } of this.#status().proxies) set({ proxy }, uptimeS ?? 0)
    })
    new Counter({
      name: `${PREFIX}proxy_restarts_total`,
      help: 'Number of restarts of the proxy since the supervisor started.',
      labelNames: ['proxy'],
      registers,
      collect() {
        this.reset()
        for (const { proxy, restarts } of current().proxies) this.inc({ proxy }, restarts)
      },
    })
    new Counter({
      name: `${PREFIX}passes_total`,
      help: 'Number of completed reconciliation passes.',
      registers,
      collect() {
        this.reset()
        this.inc(current().passes)
      },
    })
  }

  /**
   * Returns the supervisor's metrics, and those of its proxies with the label `proxy`, in the Prometheus text format.
   */
  async text(): Promise<string> {
    const [own, ofProxies] = await Promise.all([this.#registry.metrics(), proxyMetrics(this.#sources())])
    return own + ofProxies
  }

  #gauge(
    name: string,
    help: string,
    labelNames: string[],
    collect: (set: (labels: Readonly<Record<string, string>>, value: number) => void) => void,
  ): void {
    new Gauge({
      name: `${PREFIX}${name}`,
      help,
      labelNames,
      registers: [this.#registry],
      collect() {
        this.reset()
        collect((labels, value) => {
          this.set(labels, value)
        })
      },
    })
  }
}

const PREFIX = 'connect_supervisor_'
