/** Whether an error of a socket means that the connection broke, and not that one of us was wrong. */
export function isNetworkError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  const { code } = error as NodeJS.ErrnoException
  return code === 'ECONNRESET' || code === 'EPIPE' || code?.startsWith('ERR_SSL_') === true
}

/** An error that clients treat as a reset of the connection: by its code they decide whether to try again. */
export function resetError(message: string): Error {
  return Object.assign(new Error(message), { code: 'ECONNRESET', syscall: 'read' })
}
