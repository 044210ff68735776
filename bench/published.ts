// Makes the benchmarks import the compiled library, as it is published, instead of its sources: tsx changes the code that
// it compiles, so that closures take longer to create.
import { register } from 'node:module'

const SOURCES = new URL('../src/', import.meta.url).href
const COMPILED = new URL('../dist/', import.meta.url).href

register(
  `data:text/javascript,${encodeURIComponent(`export async function resolve(specifier, context, next) {
  const found = await next(specifier, context)
  const { url } = found
  if (!url.startsWith('${SOURCES}')) return found
  const file = url.slice(${SOURCES.length}).replace(/\\.ts(?=$|\\?)/, '.js')
  return { ...found, url: '${COMPILED}' + file, format: 'module' }
}`)}`,
)
