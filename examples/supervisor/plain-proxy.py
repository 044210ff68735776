#!/usr/bin/env python3
"""The interface of a managed proxy, in fifty lines. INSECURE: it neither encrypts nor authenticates connections."""
import asyncio, json, os, signal, sys, urllib.parse, urllib.request

# Set by the supervisor: the proxy's id, its ACL token, and the address of the agent.
PROXY_ID, TOKEN = os.environ["CONNECT_PROXY_ID"], os.environ.get("CONNECT_PROXY_TOKEN", "")
ADDRESS = os.environ.get("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
AGENT = ADDRESS if "://" in ADDRESS else f"http://{ADDRESS}"

def ask(path):
    request = urllib.request.Request(AGENT + path, headers={"X-Consul-Token": TOKEN} if TOKEN else {})
    with urllib.request.urlopen(request, timeout=400) as response:
        return json.load(response), response.headers.get("X-Consul-ContentHash", "")

def configuration(seen=""):  # Blocks until the configuration differs from the given hash.
    return ask(f"/v1/agent/service/{urllib.parse.quote(PROXY_ID, safe='')}?wait=5m&hash={seen}")

def instance_of(upstream):
    found, _ = ask(f"/v1/health/connect/{urllib.parse.quote(upstream['DestinationName'], safe='')}?passing")
    node, service = found[0]["Node"], found[0]["Service"]
    return service["Address"] or node["Address"], service["Port"]

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()

async def serve(host, port, find):
    async def connected(reader, writer):
        try:
            there = await asyncio.open_connection(*await asyncio.to_thread(find))
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
            there[1].close()
        except (OSError, IndexError) as error:
            print("connection failed:", error, file=sys.stderr)
        writer.close()
    return await asyncio.start_server(connected, host, port)

async def main():
    servers, seen = [], ""
    while True:
        service, seen = await asyncio.to_thread(configuration, seen)
        proxy, config = service["Proxy"], service["Proxy"]["Config"]
        for server in servers:
            server.close()
        host, _, port = config["local_service_address"].rpartition(":")
        servers = [await serve(config["bind_address"], config["bind_port"], lambda: (host, int(port)))]
        for up in proxy.get("Upstreams") or []:
            bind = up.get("LocalBindAddress") or "127.0.0.1"
            servers.append(await serve(bind, up["LocalBindPort"], lambda up=up: instance_of(up)))
        print("listening on", config["bind_port"], flush=True)

signal.signal(signal.SIGINT, lambda *_: os._exit(0))  # Has no connections worth draining, so exits at once.
asyncio.run(main())
