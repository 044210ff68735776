import { coordinateJson, isCompatible, readCoordinate, type Coordinate } from '../coordinates.js'
import { decode, empty, HttpError, json, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'
import { consistencyHeader, inDatacenter, indexed, indexHeaders } from './indexed.js'

/** Where nodes are in the network. Consul measures it; here it is as somebody says. */
export function coordinateRoutes(state: State): Routes {
  return {
    '/v1/coordinate/update': { PUT: inDatacenter(state, update) },
    '/v1/coordinate/nodes': { GET: inDatacenter(state, nodes) },
    '/v1/coordinate/node/': { GET: inDatacenter(state, node) },
  }
}

function update(call: Call, state: State): Answer {
  const { node, coordinate } = decode(call, 400, 'Request decode failed', (fields) => {
    const values = {
      node: fields.string('Node') ?? '',
      coordinate: readCoordinate(fields.object('Coord') ?? {}),
    }
    fields.string('Segment')
    fields.end()
    return values
  })
  state.acl.permissions(call.token).requireOther()
  if (!isCompatible(coordinate)) throw new HttpError(500, 'incompatible coordinate')
  // What is said of an unknown node is dropped.
  if (state.catalog.node(node)) state.coordinates.set(node, coordinate)
  return empty()
}

function nodes(call: Call, state: State): Promise<Answer> {
  const read = (): Json =>
    state.acl.permissions(call.token).nodes
      ? state.coordinates.entries().map(([name, coordinate]) => entryJson(name, coordinate))
      : []
  const index = (): number => state.changes.modified('coordinates')
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function node(call: Call, state: State): Answer {
  const coordinate = state.coordinates.get(call.rest)
  const headers = indexHeaders(state.changes.modified('coordinates'))
  if (!coordinate || !state.acl.permissions(call.token).nodes) return empty(404, headers)
  return json([entryJson(call.rest, coordinate)], headers)
}

function entryJson(node: string, coordinate: Coordinate): JsonObject {
  return { Node: node, Segment: '', Coord: coordinateJson(coordinate) }
}
