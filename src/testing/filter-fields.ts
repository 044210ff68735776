/** The type of a field that a filter may select; what it may be asked follows from it. */
export type FieldType =
  'string' | 'int' | 'bool' | 'strings' | { list: Fields } | { map: FieldType } | { struct: Fields }

export type Fields = Record<string, FieldType>

const stringMap: FieldType = { map: 'string' }
const meshGateway: FieldType = { struct: { Mode: 'string' } }
const weights: FieldType = { struct: { Passing: 'int', Warning: 'int' } }
const connect: FieldType = { struct: { Native: 'bool' } }
const taggedAddresses: FieldType = { map: { struct: { Address: 'string', Port: 'int' } } }

const upstream: Fields = {
  DestinationType: 'string',
  DestinationNamespace: 'string',
  DestinationName: 'string',
  Datacenter: 'string',
  LocalBindAddress: 'string',
  LocalBindPort: 'int',
  MeshGateway: meshGateway,
}

const exposedPath: Fields = {
  ListenerPort: 'int',
  Path: 'string',
  LocalPathPort: 'int',
  Protocol: 'string',
  ParsedFromCheck: 'bool',
}

const proxy: FieldType = {
  struct: {
    DestinationServiceName: 'string',
    DestinationServiceID: 'string',
    LocalServiceAddress: 'string',
    LocalServicePort: 'int',
    Upstreams: { list: upstream },
    MeshGateway: meshGateway,
    Expose: { struct: { Checks: 'bool', Paths: { list: exposedPath } } },
  },
}

export const nodeFields: Fields = {
  ID: 'string',
  Node: 'string',
  Address: 'string',
  Datacenter: 'string',
  TaggedAddresses: stringMap,
  Meta: stringMap,
}

export const serviceFields: Fields = {
  Kind: 'string',
  ID: 'string',
  Service: 'string',
  Tags: 'strings',
  Address: 'string',
  TaggedAddresses: taggedAddresses,
  Meta: stringMap,
  Port: 'int',
  Weights: weights,
  EnableTagOverride: 'bool',
  Proxy: proxy,
  Connect: connect,
}

export const checkFields: Fields = {
  Node: 'string',
  CheckID: 'string',
  Name: 'string',
  Status: 'string',
  Notes: 'string',
  Output: 'string',
  ServiceID: 'string',
  ServiceName: 'string',
  ServiceTags: 'strings',
  Type: 'string',
}

/** Of an instance, as health answers show it. */
export const entryFields: Fields = {
  Node: { struct: nodeFields },
  Service: { struct: serviceFields },
  Checks: { list: checkFields },
}

/** Of an instance, as catalog answers show it. */
export const catalogServiceFields: Fields = {
  ID: 'string',
  Node: 'string',
  Address: 'string',
  Datacenter: 'string',
  TaggedAddresses: stringMap,
  NodeMeta: stringMap,
  ServiceKind: 'string',
  ServiceID: 'string',
  ServiceName: 'string',
  ServiceTags: 'strings',
  ServiceAddress: 'string',
  ServiceTaggedAddresses: taggedAddresses,
  ServiceWeights: weights,
  ServiceMeta: stringMap,
  ServicePort: 'int',
  ServiceEnableTagOverride: 'bool',
  ServiceProxy: proxy,
  ServiceConnect: connect,
}

export const intentionFields: Fields = {
  ID: 'string',
  Description: 'string',
  SourceNS: 'string',
  SourceName: 'string',
  DestinationNS: 'string',
  DestinationName: 'string',
  SourceType: 'string',
  Action: 'string',
  DefaultAddr: 'string',
  DefaultPort: 'int',
  Meta: stringMap,
  Precedence: 'int',
}
