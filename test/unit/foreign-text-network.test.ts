// Bytes and JSON from peers, agents, and DNS servers, and the hosts of URLs.
import { upstreamOfHost } from '../../src/adapters/host.js'
import { parseAuthorize } from '../../src/agent/authorize.js'
import { decodeAnswer, dnsQuestion } from '../../src/agent/dns-message.js'
import { parseConnectInstances } from '../../src/agent/health.js'
import { parseMatch } from '../../src/agent/intentions.js'
import { parseLeaf } from '../../src/agent/leaf.js'
import { parseManagedProxy, parseProxy } from '../../src/agent/proxy.js'
import { parseIsSorted, parseQueryAnswer } from '../../src/agent/query.js'
import { parseRoots } from '../../src/agent/roots.js'
import { visible } from '../../src/errors.js'
import { parseCertificate } from '../../src/identity/certificate.js'
import { parsePemCertificates } from '../../src/identity/path.js'
import { withShortMessage } from '../../src/transport/openssl-error.js'
import { type ForeignTextParser, foreignTextSuite } from '../fixtures/foreign-text.js'

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')
const any = /./

/** A reader of an answer of the agent, given JSON, and given the text where each reader expects one. */
function answers(
  name: string,
  parse: (body: unknown) => unknown,
  wrap: (text: string) => unknown,
): ForeignTextParser {
  return {
    name,
    parse: (text) => {
      parse(wrap(text))
      parse(JSON.parse(text))
    },
    characters: '/:-.%',
    nested: [
      ['[', ']'],
      ['{"a":', '}'],
      ['{"Service":', '}'],
    ],
    expected: any,
  }
}

foreignTextSuite('network', [
  {
    name: 'DNS message',
    parse: (text) => decodeAnswer(bytes(text), dnsQuestion('a.b', 'SRV')),
    characters: '\0\x01\x3f\xc0\xff',
    // A header with one question and many answers, and compressed names.
    prefixes: [
      '\0\0\x81\x80\0\x01\xff\xff\0\0\0\0\x01a\x01b\0\0\x21\0\x01',
      '\0\0\x81\x80\0\0\xff\xff\0\0\0\0\xc0\x0c',
    ],
    expected: any,
  },
  {
    name: 'certificate',
    parse: (text) => parseCertificate(bytes(text)),
    characters: '0\x82\x80\xa3\x06',
    prefixes: ['0\x82\xff\xff', '0\x80'],
    nested: [
      ['0\x80', '\0\0'],
      ['0\x82\x0f\xff', ''],
    ],
    expected: any,
  },
  {
    name: 'PEM text',
    parse: parsePemCertificates,
    characters: '-=\n',
    prefixes: ['-----BEGIN CERTIFICATE-----', '-----BEGIN CERTIFICATE-----\nAA=='],
    nested: [['-----BEGIN CERTIFICATE-----', '-----END CERTIFICATE-----']],
    expected: any,
  },
  {
    name: 'host of a URL',
    parse: (text) => upstreamOfHost(text, undefined, { domain: 'consul', hosts: new Map() }),
    characters: '.-_[]:%',
    prefixes: ['a.service.', '['],
  },
  { name: 'message of an error', parse: visible, characters: '\n\u202e\u200b\\' },
  {
    name: 'message of OpenSSL',
    parse: (text) => withShortMessage(new Error(text)),
    characters: ':A0\n',
    prefixes: ['40C7E5F8967F0000:error:0A0000C7:', 'error:'],
  },
  answers('instances of a service', parseConnectInstances, (text) => [
    {
      Node: { Node: text, Address: text },
      Service: { ID: text, Service: text, Address: text, Port: 1, Tags: [text] },
    },
  ]),
  answers(
    'intentions',
    (body) => parseMatch(body, 'web'),
    (text) => ({ web: [{ SourceName: text, DestinationName: text, Action: text, Precedence: 1 }] }),
  ),
  answers('leaf', parseLeaf, (text) => ({ CertPEM: text, PrivateKeyPEM: text, Service: text })),
  answers('roots', parseRoots, (text) => ({
    TrustDomain: text,
    ActiveRootID: text,
    Roots: [{ ID: text, RootCert: text }],
  })),
  answers('registration of a proxy', parseProxy, (text) => ({
    ID: text,
    Kind: text,
    Address: text,
    Proxy: { Config: { a: text } },
  })),
  answers('registration of a managed proxy', parseManagedProxy, (text) => ({
    ProxyServiceID: text,
    TargetServiceName: text,
    Config: { a: text },
    Upstreams: [text],
  })),
  answers('decision of an agent', parseAuthorize, (text) => ({ Authorized: true, Reason: text })),
  answers('prepared query', parseQueryAnswer, (text) => ({ Service: text, Nodes: [], DNS: { TTL: text } })),
  answers('definition of a query', parseIsSorted, (text) => ({ Query: { Service: { Near: text } } })),
])
