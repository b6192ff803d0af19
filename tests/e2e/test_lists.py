"""What our way to list relies on, of a real API server."""

from __future__ import annotations

import asyncio

from allocator.cluster.client import Client, loader
from allocator.cluster.projection import NodeSketch, Reader, head_of_page
from e2e.control_plane import ControlPlane


def test_the_first_bytes_of_a_page_tell_of_the_next(plane: ControlPlane) -> None:
    async def read() -> list[bytes]:
        client = Client(loader(str(plane.kubectl.kubeconfig)))
        try:
            async with client.stream("/api/v1/nodes", {"limit": "1"}, 5) as chunks:
                return [chunk async for chunk in chunks]
        finally:
            await client.close()

    body = asyncio.run(read())
    page = Reader(NodeSketch).page(b"".join(body))

    assert page.metadata.continue_
    assert head_of_page(body[0]) == page.metadata
