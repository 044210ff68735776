import { OptionError } from '../base/errors.js'

/** The address of the HTTP API of an agent. */
export interface AgentAddress {
  readonly scheme: 'http' | 'https'
  /** `host:port` as in a URL; `localhost` for a Unix socket. */
  readonly host: string
  /** The prefix of every path: empty, or `/prefix` without a trailing slash. */
  readonly prefix: string
  readonly socketPath: string | undefined
}

/** Longer than any URL that a Consul client accepts. */
const MAX_LENGTH = 2_048

const FORMS = 'host, host:port, http(s)://host[:port][/prefix] or unix:///path'

/**
 * Parses the address of an agent in the forms that Consul's clients accept.
 * @param defaultScheme - the scheme of an address without one, and of Unix sockets
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
  // As in Consul's Go client, the default is port 8500, and the port of the scheme in a full URL. The URL class drops a
  // port that is the default of the scheme, so the text is searched for a port.
  const hasPort = /^(?:[a-z]+:\/\/)?(?:\[[^\]]*\]|[^/:]*):\d/i.test(text)
  const port = url.port || (hasScheme || hasPort ? (scheme === 'https' ? '443' : '80') : '8500')
  return {
    scheme,
    host: `${url.hostname}:${port}`,
    prefix: withoutTrailingSlashes(url.pathname),
    socketPath: undefined,
  }
}

/** Removes trailing slashes. */
function withoutTrailingSlashes(path: string): string {
  let end = path.length
  while (path[end - 1] === '/') end -= 1
  return path.slice(0, end)
}

function parseUrl(option: string, text: string): URL {
  try {
    return new URL(text)
  } catch {
    // Without a cause: it quotes the text, which may contain a password.
    throw new OptionError(option, FORMS, 'an invalid address')
  }
}

/** Formats an address for logs and errors. */
export function formatAddress(address: AgentAddress): string {
  if (address.socketPath !== undefined) return `unix://${address.socketPath}`
  return `${address.scheme}://${address.host}${address.prefix}`
}
