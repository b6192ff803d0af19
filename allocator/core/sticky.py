"""The numbers that Pods had: a Pod that returns gets them again, where its shape is the same and they are free.

By (namespace, name), and for the nameless Pods of a DaemonSet by (controller, node). Kept in memory only, and bounded
in bytes: losing it is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from allocator.core.candidates import Constraints
from allocator.core.claims import Claim, Owner, Shape
from allocator.core.sized import Sized

REMEMBERED_BYTES = 16 << 20
PORT_BYTES = 150
"""That a port takes, about, besides its names."""

Key = tuple[str, ...]
Numbers = tuple[int, ...]


class _Had(msgspec.Struct, frozen=True, gc=False):
    shape: Shape
    numbers: Numbers


class Sticky:
    """What Pods that are gone had; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._had: Sized[Key, _Had] = Sized(REMEMBERED_BYTES)

    def remember(self, claim: Claim) -> None:
        had = _Had(claim.shape, tuple(port.host_port for port in claim.ports))
        size = sum(PORT_BYTES + len(port.container) + len(port.name) for port in claim.ports)
        for key in () if claim.external else _keys(claim.owner, claim.constraints):
            self._had.put(key, had, size + sum(map(len, key)))

    def numbers(self, owner: Owner, constraints: Constraints, shape: Shape) -> Numbers:
        """What the Pod had, one number for each port; nothing where it is new or has changed."""
        found = map(self._had.get, _keys(owner, constraints))
        return next((had.numbers for had in found if had is not None and had.shape == shape), ())


def _keys(owner: Owner, constraints: Constraints) -> Iterator[Key]:
    """A Pod that was admitted without a name has one when it goes, so that it is remembered by both."""
    if owner.full_name:
        yield owner.full_name
    if owner.controller_uid and constraints.only_node:
        yield owner.namespace, owner.controller_uid, constraints.only_node
