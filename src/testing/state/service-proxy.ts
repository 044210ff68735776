import { integer, list, object, string, struct, type Reader } from '../http/decode.js'
import { omitZero, type JsonObject } from '../http/json.js'

/** The proxy part of a registration. */
export interface Proxy extends JsonObject {
  DestinationServiceName: string
  DestinationServiceID: string
  LocalServiceAddress: string
  LocalServicePort: number
  Config: JsonObject
  Upstreams: JsonObject[]
  MeshGateway: JsonObject
  Expose: JsonObject
}

const readUpstream = struct({
  DestinationType: string,
  DestinationNamespace: string,
  DestinationName: string,
  Datacenter: string,
  LocalBindAddress: string,
  LocalBindPort: integer,
  Config: object,
  MeshGateway: object,
})

const readSettings = struct({
  DestinationServiceName: string,
  DestinationServiceID: string,
  LocalServiceAddress: string,
  LocalServicePort: integer,
  Mode: string,
  Config: object,
  Upstreams: list(readUpstream),
  MeshGateway: object,
  Expose: object,
})

export const readProxy: Reader<Proxy> = (value, field) => {
  const settings = readSettings(value, field)
  const Upstreams = settings.Upstreams.map((upstream) => ({
    ...omitZero(upstream),
    DestinationType: upstream.DestinationType || 'service',
    DestinationName: upstream.DestinationName,
    LocalBindPort: upstream.LocalBindPort,
    MeshGateway: upstream.MeshGateway,
  }))
  return { ...settings, Upstreams }
}

/** Converts a proxy to the JSON of the endpoints. */
export function proxyJson(proxy: Proxy): JsonObject {
  return { ...omitZero(proxy), MeshGateway: proxy.MeshGateway, Expose: proxy.Expose }
}
