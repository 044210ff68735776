/** Errors with appended frames: several callers may wait for one error. */
const traced = new WeakSet<Error>()

/**
 * Runs an asynchronous public function, and appends the stack frames of its caller to the error. Errors of timers and
 * sockets have no frame of the application otherwise.
 */
export async function withCallerFrames<T>(call: () => Promise<T>): Promise<T> {
  // The stack is only formatted when it is read.
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
  // The second frame is the application. An error that was thrown in the same turn contains it already.
  const own = frames[1]
  if (own === undefined || traced.has(error) || error.stack?.includes(own) === true) return
  traced.add(error)
  error.stack = [error.stack ?? String(error), ...frames].join('\n')
}
