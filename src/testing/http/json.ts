/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | JsonObject

/** A JSON object. A field with the value `undefined` is left out of the JSON text. */
export interface JsonObject {
  [key: string]: Json | undefined
}

export function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json)
}

/** Whether a value is absent or the zero value of its type, which Go leaves out with `omitempty`. */
export function isZero(json: Json | undefined): boolean {
  if (typeof json === 'object' && json !== null) return Object.keys(json).length === 0
  return json === undefined || json === null || json === '' || json === 0 || json === false
}

/** Removes the fields with zero values, as Go does with `omitempty`. */
export function omitZero(json: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(json).filter(([, value]) => !isZero(value)))
}
