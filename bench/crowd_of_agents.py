"""Agents that are there while an allocator starts, for `bench.sockets`: they connect to it, and watch its health.

An agent that is refused comes again after the pause that a real one makes. One that is connected stays.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection

from agent.http2 import framed
from agent.search import HEALTH_REQUEST
from agent.stream import Pauses

MOST_AT_ONCE = 64


async def staying(host: str, port: int, tls: ssl.SSLContext, gate: asyncio.Semaphore) -> None:
    """One of them, until it is ended."""
    pauses = Pauses()
    while True:
        began = time.monotonic()
        try:
            await _stay(*await _connected(host, port, tls, gate))
        except OSError:
            await asyncio.sleep(pauses.after(time.monotonic() - began))


async def _connected(
    host: str, port: int, tls: ssl.SSLContext, gate: asyncio.Semaphore
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, H2Connection]:
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
    return reader, writer, h2


async def _stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, h2: H2Connection) -> None:
    while data := await reader.read(1 << 16):
        h2.receive_data(data)
        writer.write(h2.data_to_send())


async def crowd(count: int, host: str, port: int, ca: Path) -> None:
    tls = ssl.create_default_context(cafile=ca)
    tls.set_alpn_protocols(["h2"])
    gate = asyncio.Semaphore(MOST_AT_ONCE)
    await asyncio.gather(*(staying(host, port, tls, gate) for _ in range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd_of_agents", description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(crowd(options.count, "127.0.0.1", options.port, options.ca))


if __name__ == "__main__":
    main()
