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

/** Upper bound on the size of one file. */
export const MAX_BYTES = 16 * 1024 * 1024

/**
 * Reads files and folders in the order in which they are given; of a folder, as Consul does, the `.json` and `.hcl`
 * files in lexical order, without what is further inside.
 * @throws ConfigurationError
 */
export async function readFiles(paths: readonly string[]): Promise<readonly ConfigurationFile[]> {
  const files: ConfigurationFile[] = []
  for (const path of paths.flatMap(configurationFiles)) files.push({ path, content: await read(path) })
  return files
}

/** Whether a file of this name in a folder is part of the configuration. */
export function isConfigurationName(name: string): boolean {
  return Object.hasOwn(FORMATS, extname(name))
}

/**
 * The files of one path, which is a file or a folder.
 * @throws ConfigurationError
 */
export function configurationFiles(given: string): string[] {
  const path = resolve(given)
  if (!attempt(path, () => statSync(path).isDirectory())) {
    if (isConfigurationName(path)) return [path]
    throw new ConfigurationError(`${path}: expected a file that ends in ${Object.keys(FORMATS).join(' or ')}`)
  }
  return attempt(path, () => readdirSync(path, { withFileTypes: true }))
    .map(({ name }) => join(path, name))
    .filter(isConfigurationName)
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
