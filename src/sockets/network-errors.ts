/** Whether an error means that the connection broke, as opposed to wrong use of the socket. */
export function isNetworkError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  const { code } = error as NodeJS.ErrnoException
  return code === 'ECONNRESET' || code === 'EPIPE' || code?.startsWith('ERR_SSL_') === true
}

/** Returns an error that clients treat as a connection reset: they decide by its code whether to retry. */
export function resetError(message: string): Error {
  return Object.assign(new Error(message), { code: 'ECONNRESET', syscall: 'read' })
}
