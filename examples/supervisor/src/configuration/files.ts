import { readFileSync, readdirSync, statSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { ConfigurationError } from './error.js'
import { type Json, parseHcl, parseJson } from './parse.js'

/** A parsed configuration file. */
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
 * Reads files and directories in the given order. As in Consul, a directory stands for its `.json` and `.hcl` files
 * in lexical order, without subdirectories.
 * @throws ConfigurationError
 */
export async function readFiles(paths: readonly string[]): Promise<readonly ConfigurationFile[]> {
  const files: ConfigurationFile[] = []
  for (const path of paths.flatMap(configurationFiles)) files.push({ path, content: await read(path) })
  return files
}

/** Whether a file with this name in a directory is part of the configuration. */
export function isConfigurationName(name: string): boolean {
  return Object.hasOwn(FORMATS, extname(name))
}

/**
 * Lists the configuration files of one path, which is a file or a directory.
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
    throw new ConfigurationError(`${path}: file is larger than ${MAX_BYTES} bytes`)
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
