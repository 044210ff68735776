import { readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { OptionError } from '../base/errors.js'
import { describe } from '../base/validate.js'
import type { AgentOptions, AgentTlsOptions, Environment } from './options.js'

const MAX_SHOWN_PATH = 256

/**
 * Reads agent options from the environment variables of Consul's clients. An empty variable counts as absent.
 *
 * There are two intended differences from Consul's Go client: an invalid `CONSUL_HTTP_SSL_VERIFY` is an error (Go
 * disables the verification), and a token file is read for every request (Go reads it once).
 * @throws OptionError when a value cannot be parsed or a file cannot be read
 */
export function agentOptionsFromEnv(env: Environment): AgentOptions & { ssl?: boolean } {
  const get = (name: string): string | undefined => (env[name] === '' ? undefined : env[name])
  const options: { -readonly [K in keyof AgentOptions]: AgentOptions[K] } & { ssl?: boolean } = {}

  const address = get('CONSUL_HTTP_ADDR')
  if (address !== undefined) options.address = address
  const tokenFile = get('CONSUL_HTTP_TOKEN_FILE')
  const token = get('CONSUL_HTTP_TOKEN')
  if (tokenFile !== undefined) options.tokenFile = tokenFile
  else if (token !== undefined) options.token = token

  const auth = get('CONSUL_HTTP_AUTH')
  if (auth !== undefined) {
    const colon = auth.indexOf(':')
    options.auth =
      colon === -1
        ? { username: auth, password: '' }
        : { username: auth.slice(0, colon), password: auth.slice(colon + 1) }
  }

  const ssl = boolean('CONSUL_HTTP_SSL', get('CONSUL_HTTP_SSL'))
  if (ssl !== undefined) options.ssl = ssl
  const tls = tlsFromEnv(get)
  if (Object.keys(tls).length > 0) options.tls = tls

  const namespace = get('CONSUL_NAMESPACE')
  if (namespace !== undefined) options.namespace = namespace
  const partition = get('CONSUL_PARTITION')
  if (partition !== undefined) options.partition = partition
  const datacenter = get('CONSUL_DATACENTER')
  if (datacenter !== undefined) options.datacenter = datacenter
  return options
}

function tlsFromEnv(get: (name: string) => string | undefined): AgentTlsOptions {
  const tls: { -readonly [K in keyof AgentTlsOptions]: AgentTlsOptions[K] } = {}
  const file = get('CONSUL_CACERT')
  const folder = get('CONSUL_CAPATH')
  // As in the Go client, the file takes precedence over the folder.
  if (file !== undefined) tls.ca = [read('CONSUL_CACERT', file)]
  else if (folder !== undefined) tls.ca = readFolder('CONSUL_CAPATH', folder)
  const cert = get('CONSUL_CLIENT_CERT')
  if (cert !== undefined) tls.cert = read('CONSUL_CLIENT_CERT', cert)
  const key = get('CONSUL_CLIENT_KEY')
  if (key !== undefined) tls.key = read('CONSUL_CLIENT_KEY', key)
  const serverName = get('CONSUL_TLS_SERVER_NAME')
  if (serverName !== undefined) tls.serverName = serverName
  const verify = boolean('CONSUL_HTTP_SSL_VERIFY', get('CONSUL_HTTP_SSL_VERIFY'))
  if (verify !== undefined) tls.verify = verify
  return tls
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
