import { OptionError } from '../base/errors.js'

/** Where an agent's HTTP API is. */
export interface AgentAddress {
  readonly scheme: 'http' | 'https'
  /** `host:port` as in a URL; `localhost` for a Unix socket. */
  readonly host: string
  /** What goes before every path: empty, or `/prefix` without a slash at its end. */
  readonly prefix: string
  readonly socketPath: string | undefined
}

/** Longer than any URL that a Consul client accepts. */
const MAX_LENGTH = 2_048

const FORMS = 'host, host:port, http(s)://host[:port][/prefix] or unix:///path'

/**
 * Parses an agent address as Consul's own clients take it.
 * @param defaultScheme - for an address without one, and for unix sockets, which may speak TLS too
 * @throws OptionError
 */
export function parseAddress(option: string, text: string, defaultScheme: 'http' | 'https'): AgentAddress {
  if (text.length > MAX_LENGTH) {
    throw new OptionError(option, `${FORMS} of at most ${MAX_LENGTH} characters`, `${text.length}`)
  }
  if (text.startsWith('unix://')) {
    const socketPath = text.slice('unix://'.length)
    if (socketPath === '') throw new OptionError(option, FORMS, 'unix:// without a path')
    return { scheme: defaultScheme, host: 'localhost', prefix: '', socketPath }
  }
  const hasScheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(text)
  const url = parseUrl(option, hasScheme ? text : `${defaultScheme}://${text}`)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new OptionError(option, FORMS, `the scheme ${JSON.stringify(url.protocol)}`)
  }
  if (url.username !== '' || url.password !== '') {
    throw new OptionError(
      option,
      `${FORMS}, with credentials in "auth" or "token"`,
      'an address with credentials in it',
    )
  }
  if (url.search !== '' || url.hash !== '')
    throw new OptionError(option, FORMS, 'an address with a query or a fragment')
  const scheme = url.protocol === 'https:' ? 'https' : 'http'
  // The default is Consul's port, but the scheme's in a full URL, as in Go's client. The URL class drops a port that is
  // the scheme's default, so that the text decides whether there is a port.
  const isNamed = /^(?:[a-z]+:\/\/)?(?:\[[^\]]*\]|[^/:]*):\d/i.test(text)
  const port = url.port || (hasScheme || isNamed ? (scheme === 'https' ? '443' : '80') : '8500')
  return {
    scheme,
    host: `${url.hostname}:${port}`,
    prefix: withoutSlashes(url.pathname),
    socketPath: undefined,
  }
}

/** The path without the slashes at its end. */
function withoutSlashes(path: string): string {
  let end = path.length
  while (path[end - 1] === '/') end -= 1
  return path.slice(0, end)
}

function parseUrl(option: string, text: string): URL {
  try {
    return new URL(text)
  } catch {
    // The text may hold a password, and the cause quotes the text.
    throw new OptionError(option, FORMS, 'something that is not an address')
  }
}

/** The address as text, for logs and errors. */
export function formatAddress(address: AgentAddress): string {
  if (address.socketPath !== undefined) return `unix://${address.socketPath}`
  return `${address.scheme}://${address.host}${address.prefix}`
}
