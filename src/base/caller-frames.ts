/** Errors that have been given frames already: several callers may wait for one error. */
const traced = new WeakSet<Error>()

/**
 * Runs an asynchronous call of the public surface, and appends the stack frames of the program that made it to the error
 * that it rejects with. Errors of timers and sockets hold no frame of the program otherwise.
 */
export async function withCallerFrames<T>(call: () => Promise<T>): Promise<T> {
  // Its stack is only formatted when it is read.
  const caller: { stack?: string } = {}
  Error.captureStackTrace(caller, withCallerFrames)
  try {
    return await call()
  } catch (error) {
    if (error instanceof Error) appendFrames(error, caller.stack)
    throw error
  }
}

function appendFrames(error: Error, callerStack: string | undefined): void {
  const frames = callerStack?.split('\n').slice(1) ?? []
  // The second frame is the program's own; it is there already when the error was thrown in the same turn.
  const own = frames[1]
  if (own === undefined || traced.has(error) || error.stack?.includes(own) === true) return
  traced.add(error)
  error.stack = [error.stack ?? String(error), ...frames].join('\n')
}
