import { expectAddress } from '../options.js'
import type { AddressTarget } from './upstream.js'
import type { Endpoint, Resolver } from './resolver.js'

/** Resolves to the addresses that are given, always. */
export class StaticResolver implements Resolver {
  readonly name: string
  readonly #endpoints: readonly Endpoint[]

  constructor({ address, ...identity }: AddressTarget & { readonly address: readonly string[] }) {
    this.name = `${identity.service} at ${address.join(', ')}`
    this.#endpoints = Object.freeze(
      address.map((each) => ({ ...expectAddress('upstream.address', each), identity })),
    )
  }

  resolve(): readonly Endpoint[] {
    return this.#endpoints
  }
}
