/** The body of the answer to a denied request. It says nothing about the rules. */
export const DENIED_TEXT = 'request denied by the service mesh\n'
