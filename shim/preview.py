"""What an earlier dry run left in a Pod that comes back in the same dry run (reinvocation). Pure.

A dry run reserves nothing, so there is no id by which the allocator could know the Pod again. The table of the earlier
preview stands in for it. It might be anybody's, and decides no more than what another preview shows.
"""

from __future__ import annotations

import json

from shim.pods import Pod
from shim.settings import ALLOCATION_ID, ALLOCATIONS

Key = tuple[str, str, str, int]
"""Container, name, protocol and number of a port."""


def previewed(pod: Pod) -> dict[Key, int]:
    """The old containerPorts of an earlier preview. Empty where there was none, or where its ports do not all stand."""
    if ALLOCATION_ID in pod.annotations or ALLOCATIONS not in pod.annotations:
        return {}
    try:
        table = json.loads(pod.annotations[ALLOCATIONS])
        earlier = {
            (str(each["container"]), str(each["name"]), str(each["protocol"]), int(each["hostPort"])): int(
                each["containerPort"]
            )
            for each in table
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    standing = {(port.container, port.name, port.protocol, port.container_port) for port in pod.ports}
    return earlier if earlier.keys() <= standing else {}
