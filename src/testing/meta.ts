/** What Consul finds wrong with the metadata of a node or a service. */
export function validateMeta(meta: Record<string, string>): string | undefined {
  const pairs = Object.entries(meta)
  if (pairs.length > 64) return 'Node metadata cannot contain more than 64 key/value pairs'
  for (const [key, value] of pairs) {
    const problem = pairProblem(key, value)
    if (problem !== undefined) return `Couldn't load metadata pair ('${key}', '${value}'): ${problem}`
  }
  return undefined
}

function pairProblem(key: string, value: string): string | undefined {
  if (key === '') return 'Key cannot be blank'
  if (!/^[a-zA-Z0-9_-]+$/.test(key)) return 'Key contains invalid characters'
  if (key.length > 128) return 'Key is too long (limit: 128 characters)'
  return value.length > 512 ? 'Value is too long (limit: 512 characters)' : undefined
}
