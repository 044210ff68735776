/**
 * Escapes characters that change how the text around them is shown: control characters, which steer a terminal, and
 * format characters (bidirectional marks, zero-width spaces), which disguise a name.
 * @see Unicode TR 36, "Unicode Security Considerations", section 3
 */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029\u180e]/gu, escaped)
}

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, '0')}`
}
