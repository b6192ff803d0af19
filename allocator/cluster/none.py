"""No cluster: one implicit node, about which every ask is, and nobody who could confirm a Pod."""

from __future__ import annotations

import asyncio

from allocator.cluster.contract import Observer
from allocator.core.candidates import NodeName

IMPLICIT_NODE = NodeName("localhost")


class NoCluster:
    """`--cluster none`. Its node is part of the ledger's rules."""

    async def run(self, observer: Observer) -> None:
        await asyncio.Event().wait()

    async def synced(self) -> None:
        return
