import type { TcpNetConnectOpts } from 'node:net'
import { DEFAULTS } from '../base/validate.js'

type TcpOptions = Required<Pick<TcpNetConnectOpts, 'noDelay' | 'keepAlive' | 'keepAliveInitialDelay'>>

/** What holds for each TCP connection, by the names that node:net has for it. */
export const TCP: TcpOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: DEFAULTS.keepAliveMs }
