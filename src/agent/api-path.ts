import { OptionError } from '../base/errors.js'
import { describe } from '../base/options/validate.js'

/** Enough for three names of 255 encoded characters, and for most keys of the KV store. */
const MAX_LENGTH = 4_096
/** Printable ASCII without `?`, `#`, and the backslash. */
const API_PATH = /^\/v1\/[\x21-\x22\x24-\x3e\x40-\x5b\x5d-\x7e]+$/

/**
 * Whether an agent resolves a path to the resource that it names. Agents decode a path once and normalize it
 * afterwards, so that `..%2f` leaves its folder as `../` does.
 */
export function isApiPath(path: unknown): path is string {
  if (typeof path !== 'string' || path.length > MAX_LENGTH || !API_PATH.test(path)) return false
  let decoded: string
  try {
    decoded = decodeURIComponent(path)
  } catch {
    return false
  }
  const segments = decoded.split(/[/\\]/)
  // A key of the KV store may end with a slash.
  return segments.every((segment, i) =>
    segment === '' ? i === 0 || i === segments.length - 1 : segment !== '.' && segment !== '..',
  )
}

/** @throws OptionError */
export function expectApiPath(option: string, value: unknown): string {
  if (isApiPath(value)) return value
  throw new OptionError(
    option,
    `a path of the API (/v1/...) of at most ${MAX_LENGTH} characters, with every segment encoded and none empty`,
    describe(value),
  )
}
