import { readFileSync, readdirSync, statSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { ConfigurationError } from './error.js'
import { type Json, parseHcl, parseJson } from './parse.js'

/** One file of the configuration, and what it says. */
export interface ConfigurationFile {
  readonly path: string
  readonly content: Json
}

const FORMATS: Readonly<Record<string, (path: string, text: string) => Json | Promise<Json>>> = {
  '.json': parseJson,
  '.hcl': parseHcl,
}

/** Far above what anybody writes by hand. */
const MAX_BYTES = 16 * 1024 * 1024

/**
 * Reads files and folders in the order in which they are given; of a folder, as Consul does, the `.json` and `.hcl`
 * files in lexical order, without what is further inside.
 * @throws ConfigurationError
 */
export async function readFiles(paths: readonly string[]): Promise<readonly ConfigurationFile[]> {
  const files: ConfigurationFile[] = []
  for (const path of paths.flatMap(list)) files.push({ path, content: await read(path) })
  return files
}

function list(given: string): string[] {
  const path = resolve(given)
  if (!attempt(path, () => statSync(path).isDirectory())) {
    if (Object.hasOwn(FORMATS, extname(path))) return [path]
    throw new ConfigurationError(`${path}: expected a file that ends in ${Object.keys(FORMATS).join(' or ')}`)
  }
  return attempt(path, () => readdirSync(path, { withFileTypes: true }))
    .map(({ name }) => join(path, name))
    .filter((file) => Object.hasOwn(FORMATS, extname(file)))
    .filter((file) => attempt(file, () => statSync(file).isFile()))
    .sort()
}

async function read(path: string): Promise<Json> {
  if (!attempt(path, () => statSync(path).isFile())) throw new ConfigurationError(`${path}: expected a file`)
  if (attempt(path, () => statSync(path).size) > MAX_BYTES) {
    throw new ConfigurationError(`${path}: expected a configuration, found more than ${MAX_BYTES} bytes`)
  }
  const text = attempt(path, () => readFileSync(path, 'utf8'))
  const parse = FORMATS[extname(path)] ?? parseJson
  return parse(path, text)
}

function attempt<T>(path: string, act: () => T): T {
  try {
    return act()
  } catch (cause) {
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException
    throw new ConfigurationError(`${path}: cannot be read (${code})`, { cause })
  }
}
