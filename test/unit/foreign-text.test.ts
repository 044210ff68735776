import { LIBRARY } from '../fixtures/foreign-text/library.js'
import { NETWORK } from '../fixtures/foreign-text/network.js'
import { PROXY_CONFIGURATION, PROXY_FLAGS } from '../fixtures/foreign-text/proxy.js'
import { foreignTextSuite } from '../fixtures/foreign-text/suite.js'
import { SUPERVISOR } from '../fixtures/foreign-text/supervisor.js'
import { EMBEDDED_AGENT } from '../fixtures/foreign-text/testing.js'

foreignTextSuite('library', LIBRARY)
foreignTextSuite('network', NETWORK)
foreignTextSuite('configuration of a proxy', PROXY_CONFIGURATION)
foreignTextSuite('command line of the sidecar', PROXY_FLAGS)
foreignTextSuite('supervisor', SUPERVISOR)
foreignTextSuite('embedded agent', EMBEDDED_AGENT)
