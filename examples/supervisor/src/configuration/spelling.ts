/**
 * Converts the spelling of requests to that of files: `LocalBindPort` becomes `local_bind_port`. Runs in linear time.
 */
export function snakeCase(key: string): string {
  return key.replaceAll(/(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])/g, '_').toLowerCase()
}

/**
 * Folds a key to compare spellings. Agents ignore case in JSON keys, so that `LocalBindPort` and `localbindport` are
 * the same key.
 */
export function foldKey(key: string): string {
  return key.toLowerCase().replaceAll('_', '')
}
