import { Router } from '../http/router.js'
import { aclRoutes } from './acl.js'
import { agentRoutes } from './agent.js'
import { configRoutes } from './config.js'
import { connectRoutes } from './connect.js'
import { healthRoutes } from './health.js'
import { intentionRoutes } from './intentions.js'
import { keyValueRoutes } from './kv.js'
import { queryRoutes } from './query.js'

export const router: Router = new Router(
  aclRoutes,
  agentRoutes,
  configRoutes,
  connectRoutes,
  healthRoutes,
  intentionRoutes,
  keyValueRoutes,
  queryRoutes,
)
