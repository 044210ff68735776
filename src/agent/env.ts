import { readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { OptionError } from '../base/errors.js'
import { describe } from '../base/options/validate.js'
import type { AgentOptions, AgentTlsOptions, Environment } from './options.js'

const MAX_SHOWN_PATH = 256

/**
 * Reads agent options from the environment variables of Consul's clients. An empty variable counts as absent.
 *
 * There are two intended differences from Consul's Go client: an invalid `CONSUL_HTTP_SSL_VERIFY` is an error (Go
 * disables the verification), and a token file is read for every request (Go reads it once).
 * @throws OptionError when a value cannot be parsed or a file cannot be read
 */
export function agentOptionsFromEnv(env: Environment): AgentOptions & { readonly ssl?: boolean } {
  const get = (name: string): string | undefined => (env[name] === '' ? undefined : env[name])
  const tokenFile = get('CONSUL_HTTP_TOKEN_FILE')
  const tls = tlsFromEnv(get)
  return defined({
    address: get('CONSUL_HTTP_ADDR'),
    tokenFile,
    token: tokenFile === undefined ? get('CONSUL_HTTP_TOKEN') : undefined,
    auth: parseAuth(get('CONSUL_HTTP_AUTH')),
    ssl: boolean('CONSUL_HTTP_SSL', get('CONSUL_HTTP_SSL')),
    tls: Object.keys(tls).length > 0 ? tls : undefined,
    namespace: get('CONSUL_NAMESPACE'),
    partition: get('CONSUL_PARTITION'),
    datacenter: get('CONSUL_DATACENTER'),
  })
}

/** Returns the defined properties: an undefined option must not override another source of options. */
export function defined(options: object): object {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}

function parseAuth(text: string | undefined): AgentOptions['auth'] {
  if (text === undefined) return undefined
  const [username = ''] = text.split(':', 1)
  return { username, password: text.slice(username.length + 1) }
}

function tlsFromEnv(get: (name: string) => string | undefined): AgentTlsOptions {
  const readVariable = (name: string): string | undefined => {
    const path = get(name)
    return path === undefined ? undefined : read(name, path)
  }
  const ca = readVariable('CONSUL_CACERT')
  const folder = get('CONSUL_CAPATH')
  return defined({
    // As in the Go client, the file takes precedence over the folder.
    ca: ca === undefined ? folder && readFolder('CONSUL_CAPATH', folder) : [ca],
    cert: readVariable('CONSUL_CLIENT_CERT'),
    key: readVariable('CONSUL_CLIENT_KEY'),
    serverName: get('CONSUL_TLS_SERVER_NAME'),
    verify: boolean('CONSUL_HTTP_SSL_VERIFY', get('CONSUL_HTTP_SSL_VERIFY')),
  })
}

/** Parses a boolean in the spellings of Go's `strconv.ParseBool`. */
function boolean(name: string, text: string | undefined): boolean | undefined {
  if (text === undefined) return undefined
  if (['1', 't', 'T', 'true', 'TRUE', 'True'].includes(text)) return true
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(text)) return false
  throw new OptionError(name, 'true or false', describe(text))
}

/** Quotes a path for a message. */
function quote(path: string): string {
  return JSON.stringify(path.slice(0, MAX_SHOWN_PATH))
}

function read(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new OptionError(name, 'the path of a readable PEM file', quote(path), { cause })
  }
}

function readFolder(name: string, path: string): string[] {
  try {
    // Folders of mounted secrets contain links to files and links to folders.
    const files = readdirSync(path)
      .map((file) => join(path, file))
      .filter((file) => statSync(file).isFile())
    if (files.length > 0) return files.map((file) => readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new OptionError(name, 'the path of a folder of PEM files', quote(path), { cause })
  }
  // Without a certificate, Node.js would trust the public web PKI.
  throw new OptionError(name, 'a folder with at least one PEM file', 'an empty one')
}
