// What can be run of a Markdown document: its fenced blocks, and the setup that its reader does not see.

export interface Block {
  readonly language: string
  /** From `file=name` after the language: what the block is the content of. */
  readonly file: string | undefined
  readonly text: string
  /** Of its first line, for messages. */
  readonly line: number
}

/** The fenced blocks of a document, in their order. A comment `<!-- setup … -->` counts as a block of that language. */
export function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = []
  const lines = markdown.split('\n')
  for (let i = 0; i < lines.length; i += 1) {
    const fence = /^```(\S+)(?: +file=(\S+))?\s*$/.exec(lines[i] ?? '')
    const setup = lines[i] === '<!-- setup'
    if (fence === null && !setup) {
      if (/^```/.test(lines[i] ?? ''))
        throw new Error(`line ${i + 1}: a block without a language, or with other words`)
      continue
    }
    const end = lines.indexOf(setup ? '-->' : '```', i + 1)
    if (end === -1) throw new Error(`line ${i + 1}: a block without an end`)
    const text = lines.slice(i + 1, end).join('\n')
    blocks.push({ language: setup ? 'setup' : (fence?.[1] ?? ''), file: fence?.[2], text, line: i + 2 })
    i = end
  }
  return blocks
}

/** A document's fragments in TypeScript, as the one program that they are parts of; undefined where there are none. */
export function programOf(blocks: readonly Block[]): string | undefined {
  const parts = blocks.filter(
    ({ language, file }) => language === 'setup' || (language === 'ts' && file === undefined),
  )
  if (!parts.some(({ language }) => language === 'ts')) return undefined
  return parts.map(({ text, line }) => `// line ${line}\n${text}\n`).join('\n')
}

/** What must be printed after a block, line by line; a line with `…` stands for any text there. */
export function expectations(text: string): RegExp[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map(
      (line) =>
        new RegExp(
          line
            .split('…')
            .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
            .join('.*'),
        ),
    )
}
