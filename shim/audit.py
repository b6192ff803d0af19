"""The annotations that tell what was allocated: for kubectl, for the downward API, and for the way back.

Rule: what comes in under these names proves nothing and is replaced; what is not true any more is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from shim.held import Held
from shim.pods import Pod
from shim.pointers import Op, add, escaped, remove
from shim.settings import ALLOCATED, ALLOCATION_ID, ALLOCATIONS, PREFIX, REWRITTEN, WARNINGS

TOLD = frozenset({ALLOCATION_ID, WARNINGS, REWRITTEN})

_encode = msgspec.json.Encoder().encode

LONGEST_NAME = 63
"""Of the part behind the slash; Kubernetes refuses more."""


def audit_ops(
    pod: Pod, held: tuple[Held, ...], allocation_id: str, more: Mapping[str, str] | None = None
) -> Iterator[Op]:
    """`more`: what else is told, by name of the annotation."""
    wanted = audit_annotations(held, allocation_id) | dict(more or {})
    for name in pod.annotations:
        is_ours = name.startswith(ALLOCATED) or name in TOLD
        if is_ours and name not in wanted:
            yield remove(_pointer(name))
    for name, value in wanted.items():
        if pod.annotations.get(name) != value:
            yield add(_pointer(name), value)


def audit_annotations(held: tuple[Held, ...], allocation_id: str) -> dict[str, str]:
    """By name. A dry run has no id."""
    holders: dict[str, set[int]] = {}
    for each in held:
        holders.setdefault(_base(each), set()).add(each.at)
    annotations: dict[str, str] = {}
    for each in held:
        base = _base(each)
        name = base if len(holders[base]) == 1 else _with_container(each.container, base)
        annotations.setdefault(ALLOCATED + name, str(each.number))
    annotations[ALLOCATIONS] = _encode([_entry(each) for each in held]).decode()
    return annotations | ({ALLOCATION_ID: allocation_id} if allocation_id else {})


def _base(each: Held) -> str:
    return each.name or f"{each.old}-{each.protocol}"


def _with_container(container: str, base: str) -> str:
    """Kept within the limit by a hash in place of the end of the container's name."""
    longest = LONGEST_NAME - len(ALLOCATED.removeprefix(PREFIX))
    if len(container) + 1 + len(base) <= longest:
        return f"{container}-{base}"
    digest = hashlib.sha256(container.encode()).hexdigest()[:8]
    room = max(longest - len(f"-{digest}-{base}"), 0)
    return f"{container[:room]}-{digest}-{base}"


def _entry(each: Held) -> dict[str, str | int]:
    return {
        "container": each.container,
        "name": each.name,
        "protocol": each.protocol,
        "containerPort": each.old,
        "hostPort": each.number,
    }


def _pointer(name: str) -> str:
    return f"/metadata/annotations/{escaped(name)}"
