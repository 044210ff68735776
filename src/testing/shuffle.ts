/** Fisher and Yates. */
export function shuffled<T>(items: readonly T[]): T[] {
  const result = [...items]
  for (let end = result.length - 1; end > 0; end--) {
    const other = Math.floor(Math.random() * (end + 1))
    const [a, b] = [result[end], result[other]]
    if (a === undefined || b === undefined) continue
    result[end] = b
    result[other] = a
  }
  return result
}
