import type { TcpNetConnectOpts } from 'node:net'
import { DEFAULTS } from '../base/options/validate.js'

type TcpOptions = Required<Pick<TcpNetConnectOpts, 'noDelay' | 'keepAlive' | 'keepAliveInitialDelay'>>

/** Options of every TCP connection, by their names in node:net. */
export const TCP: TcpOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: DEFAULTS.keepAliveMs }
