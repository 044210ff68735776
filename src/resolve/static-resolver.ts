import { expectAddress } from '../base/options/validate.js'
import type { AddressUpstream } from './upstream.js'
import { type Endpoint, type Resolver, endpointList } from './resolver.js'

/** Resolves to fixed addresses. */
export class StaticResolver implements Resolver {
  readonly name: string
  readonly #endpoints: readonly Endpoint[]

  constructor(upstream: AddressUpstream & { readonly address: readonly string[] }) {
    const { address, service, datacenter, namespace, partition } = upstream
    const identity = { service, datacenter, namespace, partition }
    this.name = `${service} at ${address.join(', ')}`
    this.#endpoints = endpointList(
      address.map((each) => ({ ...expectAddress('upstream.address', each), identity })),
    )
  }

  resolve(): readonly Endpoint[] {
    return this.#endpoints
  }
}
