// The fenced blocks of a Markdown document. There are no hidden blocks: what is run is what a reader can paste.

export interface Block {
  readonly language: string
  /** From `file=name` after the language: what the block is the content of. */
  readonly file: string | undefined
  readonly text: string
  /** Of its first line, for messages. */
  readonly line: number
}

/**
 * Returns the fenced blocks of a document in order.
 * @throws Error for a block without a language, and for an HTML comment, which would hide text from the reader
 */
export function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = []
  const lines = markdown.split('\n')
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i] ?? ''
    const fence = /^```(\S+)(?: +file=(\S+))?\s*$/.exec(line)
    if (fence === null) {
      if (line.startsWith('```'))
        throw new Error(`line ${i + 1}: a block without a language, or with other words`)
      if (line.includes('<!--'))
        throw new Error(`line ${i + 1}: an HTML comment, which the reader does not see`)
      continue
    }
    const end = lines.indexOf('```', i + 1)
    if (end === -1) throw new Error(`line ${i + 1}: a block without an end`)
    const text = lines.slice(i + 1, end).join('\n')
    blocks.push({ language: fence[1] ?? '', file: fence[2], text, line: i + 2 })
    i = end
  }
  return blocks
}

/** Returns the fragments of a document: its TypeScript blocks without a file name, which are one program together. */
export function fragmentsOf(blocks: readonly Block[]): Block[] {
  return blocks.filter(({ language, file }) => language === 'ts' && file === undefined)
}

/** Joins fragments to the program that they are parts of. */
export function joined(fragments: readonly Block[]): string {
  return fragments.map(({ text, line }) => `// line ${line}\n${text}\n`).join('\n')
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
