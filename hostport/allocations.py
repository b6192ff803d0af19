"""The table in the annotation `hostport.io/allocations`: the shim writes it, and whoever explains a Pod reads it. Pure.

Rule: a table proves nothing, since anybody may write one. One that cannot be read is taken for an empty one.
"""

from __future__ import annotations

import msgspec


class AllocationRow(msgspec.Struct, rename="camel", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A port: the number that its containerPort had before the allocation, and the one that it has now.

    A block is one row: `host_port` is its first number, and `count`, which is left out for one, says how many it has.
    """

    container: str
    name: str
    protocol: str
    container_port: int
    host_port: int
    count: int = 1


_decode = msgspec.json.Decoder(list[AllocationRow]).decode


def parse_allocations(table: str) -> list[AllocationRow]:
    """The rows of a table; none where it cannot be read. Never raises."""
    try:
        return _decode(table)
    except (msgspec.DecodeError, RecursionError):
        return []
