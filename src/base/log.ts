import debug from 'debug'

/** Debug logs, enabled by `DEBUG=connect:*`. They never contain keys, tokens, or request bodies. */
export const log: Record<
  'watch' | 'identity' | 'authorize' | 'resolve' | 'dial' | 'listen' | 'register',
  debug.Debugger
> = {
  watch: debug('connect:watch'),
  identity: debug('connect:identity'),
  authorize: debug('connect:authorize'),
  resolve: debug('connect:resolve'),
  dial: debug('connect:dial'),
  listen: debug('connect:listen'),
  register: debug('connect:register'),
}
