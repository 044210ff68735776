/**
 * Returns a text of the operator as Envoy compares it: a character for each byte of its UTF-8 form, as Node.js returns
 * the headers and the path of a request.
 */
export function byteString(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}

/** Converts the letters A to Z, and no others, to lower case. */
export function lowerCase(bytes: string): string {
  return /[\x80-\xff]/.test(bytes)
    ? bytes.replace(/[A-Z]+/g, (letters) => letters.toLowerCase())
    : bytes.toLowerCase()
}
