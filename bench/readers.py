"""Readers of the status page, as browsers are: each follows the stream and asks for its views anew after news.

    python -m bench.readers --address 127.0.0.1:8081 --readers 5

Runs until its standard input ends, then prints one JSON line: how many views came, and how long they took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

NODES_PERIOD = 2.0  # as page.js has them
DECISIONS_PERIOD = 1.0
VIEWS = (("/nodes?name=node-{}", NODES_PERIOD), ("/claims?q=pod-{}", NODES_PERIOD), ("/decisions", DECISIONS_PERIOD))


class Reader:
    """One of them. No two ask the same."""

    def __init__(self, client: AsyncHTTPClient, address: str, number: int, took: list[float]) -> None:
        self._client = client
        self._address = address
        self._number = number
        self._took = took
        self._news = [asyncio.Event() for _ in VIEWS]

    async def read(self) -> None:
        await asyncio.gather(self._follow(), *(self._view(place) for place in range(len(VIEWS))))

    async def _follow(self) -> None:
        def told(_: bytes) -> None:
            for news in self._news:
                news.set()

        url = f"http://{self._address}/events"
        await self._client.fetch(HTTPRequest(url, streaming_callback=told, request_timeout=0))

    async def _view(self, place: int) -> None:
        path, period = VIEWS[place]
        url = f"http://{self._address}{path.format(quote(str(self._number)))}"
        while True:
            await self._news[place].wait()
            self._news[place].clear()
            began = time.perf_counter()
            await self._client.fetch(url)
            took = time.perf_counter() - began
            self._took.append(took)
            await asyncio.sleep(max(period, 3 * took))


async def read(address: str, readers: int) -> list[float]:
    """Until nobody types any more; the seconds that each view took."""
    client, took = AsyncHTTPClient(max_clients=10 * readers), list[float]()
    reading = [asyncio.create_task(Reader(client, address, number, took).read()) for number in range(1, readers + 1)]
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    done, _ = await asyncio.wait([ended, *reading], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    for task in reading:
        task.cancel()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--readers", type=int, default=5)
    arguments = parser.parse_args()
    took = sorted(asyncio.run(read(arguments.address, arguments.readers)))
    report = {"views": len(took), "p50_ms": 1000 * took[len(took) // 2], "max_ms": 1000 * took[-1]}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
