"""The table of ports that a Pod brings along (`hostport.io/allocations`), and what it may decide. Pure.

Rules:

* It proves nothing: it might be anybody's. It says what ports were called before they were moved, and no more.
* A dry run reserves nothing, so there is no id by which the allocator could know a Pod again that comes back in the
  same dry run (reinvocation). The table of the earlier preview stands in for it, for what another preview shows.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shim.pods import HIGHEST, Pod
from shim.settings import ALLOCATION_ID, ALLOCATIONS

Key = tuple[str, str, str, int]
"""Container, name, protocol and number of a port."""


class _Row(msgspec.Struct, rename="camel", gc=False):
    container: str
    name: str
    protocol: str
    container_port: int
    host_port: int


_decode = msgspec.json.Decoder(list[_Row]).decode


def brought(pod: Pod) -> Mapping[Key, int]:
    """The old containerPort of each port of the table; empty where there is none, or none that can be read."""
    table = pod.annotations.get(ALLOCATIONS)
    if not table:
        return {}
    try:
        rows = _decode(table)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return {
        (row.container, row.name, row.protocol, row.host_port): row.container_port
        for row in rows
        if 1 <= row.container_port <= HIGHEST
    }


def previewed(pod: Pod, *, own_network: bool) -> Mapping[Key, int]:
    """The old containerPorts of an earlier preview. Empty where there was none, or where its ports do not all stand."""
    if ALLOCATION_ID in pod.annotations:
        return {}
    earlier = brought(pod)
    standing = {
        (port.container, port.name, port.protocol, port.host_port if own_network else port.container_port)
        for port in pod.ports
    }
    return earlier if earlier.keys() <= standing else {}
