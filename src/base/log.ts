import debug from 'debug'

/**
 * Debug logs, switched on by `DEBUG=connect:*`. Nothing secret is ever passed to them: no key, no token, no
 * request body.
 */
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
