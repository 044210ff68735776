import type { EventEmitter } from 'eventemitter3'

/**
 * Emits an event; an error thrown by a listener becomes an uncaught exception of the process instead of an error of
 * the code that emits.
 */
export function emitSafely<E extends EventEmitter.ValidEventTypes, T extends EventEmitter.EventNames<E>>(
  emitter: EventEmitter<E>,
  event: T,
  ...args: Parameters<EventEmitter.EventListener<E, T>>
): void {
  callSafely(() => {
    emitter.emit(event, ...args)
  })
}

/** Calls code of the application; what it throws becomes an uncaught exception of the process. */
export function callSafely(call: () => void): void {
  try {
    call()
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}
