/** Formats a host and a port as in a URL: `host:port`, with an IPv6 address in brackets. */
export function formatHostPort({ host, port }: { readonly host: string; readonly port: number }): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}
