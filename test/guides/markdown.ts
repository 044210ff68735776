// The fenced code blocks of a Markdown document. Hidden blocks are rejected: tests run only what a reader sees.

export interface Block {
  readonly language: string
  /** The name of the file with this content, from `file=name` after the language. */
  readonly file: string | undefined
  readonly text: string
  /** The number of the first line, for messages. */
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
        throw new Error(`line ${i + 1}: invalid line after the fence; expected a language`)
      if (line.includes('<!--')) throw new Error(`line ${i + 1}: HTML comments are not visible to readers`)
      continue
    }
    const end = lines.indexOf('```', i + 1)
    if (end === -1) throw new Error(`line ${i + 1}: the block has no end`)
    const text = lines.slice(i + 1, end).join('\n')
    blocks.push({ language: fence[1] ?? '', file: fence[2], text, line: i + 2 })
    i = end
  }
  return blocks
}

/** Returns the fragments of a document: the TypeScript blocks without a file name. Together they are one program. */
export function fragmentsOf(blocks: readonly Block[]): Block[] {
  return blocks.filter(({ language, file }) => language === 'ts' && file === undefined)
}

/** Joins fragments to a program. */
export function joined(fragments: readonly Block[]): string {
  return fragments.map(({ text, line }) => `// line ${line}\n${text}\n`).join('\n')
}

/** Returns patterns for the lines of an output block. `…` stands for any text. */
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
