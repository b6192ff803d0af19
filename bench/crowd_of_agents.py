"""Agents that wait for an allocator while it starts, for `bench.sockets`: connections with TLS that watch its health.

`start` is the allocator's side, in a process of its own: prints how long it took to know the cluster. `crowd` is
theirs: they come as fast as they can, and stay until the process is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection

from agent.http2 import framed
from agent.stream import HEALTH_REQUEST, SERVICE
from allocator.app.servers import MOST_WITH_AGENTS, SERVER_OPTIONS
from bench.processes import CHECKOUT
from testing import simulator

MOST_AT_ONCE = 64
OPTIONS = tuple((dict(SERVER_OPTIONS) | {"grpc.max_allowed_incoming_connections": MOST_WITH_AGENTS}).items())


async def waiting(host: str, port: int, tls: ssl.SSLContext, gate: asyncio.Semaphore) -> asyncio.Task[None]:
    """One of them, once its allocator has answered."""
    async with gate:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        h2 = H2Connection(H2Configuration(client_side=True))
        h2.initiate_connection()
        fields = {":method": "POST", ":scheme": "https", ":path": "/grpc.health.v1.Health/Watch", ":authority": host}
        h2.send_headers(1, [*fields.items(), ("te", "trailers"), ("content-type", "application/grpc")])
        h2.send_data(1, framed(HEALTH_REQUEST), end_stream=True)
        writer.write(h2.data_to_send())
        h2.receive_data(await reader.read(1 << 16))
        writer.write(h2.data_to_send())
    return asyncio.create_task(_stay(reader, writer, h2))


async def _stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, h2: H2Connection) -> None:
    while data := await reader.read(1 << 16):
        h2.receive_data(data)
        writer.write(h2.data_to_send())


async def crowd(count: int, host: str, port: int, ca: Path) -> None:
    """Connects all of them, and returns when all have ended."""
    tls = ssl.create_default_context(cafile=ca)
    tls.set_alpn_protocols(["h2"])
    gate = asyncio.Semaphore(MOST_AT_ONCE)
    staying = await asyncio.gather(*(waiting(host, port, tls, gate) for _ in range(count)))
    await asyncio.gather(*staying, return_exceptions=True)


@contextlib.asynccontextmanager
async def agents(count: int) -> AsyncIterator[None]:
    """A server that does not serve yet, and so many agents in a process of their own that connect to it."""
    server, told, authority = grpc.aio.server(options=OPTIONS), health.aio.HealthServicer(), trustme.CA()
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    await told.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    issued = authority.issue_cert("127.0.0.1")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    with authority.cert_pem.tempfile() as ca:
        flags = ("crowd", f"--count={count}", f"--port={port}", f"--ca={ca}")
        crowding = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.crowd_of_agents", *flags, cwd=CHECKOUT
        )
        try:
            yield
        finally:
            crowding.kill()
            await crowding.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd_of_agents", description=__doc__)
    parser.add_argument("side", choices=("start", "crowd"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--url", default="", help="of the simulated API server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ca", type=Path)
    options = parser.parse_args()
    if options.side == "crowd":
        asyncio.run(crowd(options.count, "127.0.0.1", options.port, options.ca))
    else:
        print(json.dumps(asyncio.run(simulator.start(options.url, agents(options.count)))))


if __name__ == "__main__":
    main()
