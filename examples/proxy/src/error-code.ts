/** The code of the system's error behind an error of the library. */
export function errorCode(error: Error): string | undefined {
  const { cause } = error
  return ((cause instanceof Error ? cause : error) as NodeJS.ErrnoException).code
}
