/**
 * Escapes control characters, which terminals interpret, and format characters (bidirectional marks, zero-width spaces),
 * which can disguise a name.
 * @see Unicode TR 36, "Unicode Security Considerations", section 3
 */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029\u180e]/gu, escapeCharacter)
}

function escapeCharacter(character: string): string {
  const code = character.codePointAt(0) ?? 0
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, '0')}`
}
