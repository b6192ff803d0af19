"""The numbers that Pods had: a Pod that returns gets them again, where its shape is the same and they are free.

By (namespace, name), and for the nameless Pods of a DaemonSet by (controller, node). Kept in memory only, and bounded:
losing it is harmless.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from allocator.core.candidates import Constraints
from allocator.core.claims import Claim, Owner, Shape

REMEMBERED = 10_000

Key = tuple[str, ...]
Numbers = tuple[int, ...]


class _Had(msgspec.Struct, frozen=True, gc=False):
    shape: Shape
    numbers: Numbers


class Sticky:
    """What Pods that are gone had; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._had: OrderedDict[Key, _Had] = OrderedDict()

    def remember(self, claim: Claim) -> None:
        had = _Had(claim.shape, tuple(port.host_port for port in claim.ports))
        for key in () if claim.external else _keys(claim.owner, claim.constraints):
            self._had[key] = had
            self._had.move_to_end(key)
        while len(self._had) > REMEMBERED:
            self._had.popitem(last=False)

    def numbers(self, owner: Owner, constraints: Constraints, shape: Shape) -> Numbers:
        """What the Pod had, one number for each port; nothing where it is new or has changed."""
        found = (self._had[key] for key in _keys(owner, constraints) if key in self._had)
        return next((had.numbers for had in found if had.shape == shape), ())


def _keys(owner: Owner, constraints: Constraints) -> Iterator[Key]:
    """A Pod that was admitted without a name has one when it goes, so that it is remembered by both."""
    if owner.full_name:
        yield owner.full_name
    if owner.controller_uid and constraints.only_node:
        yield owner.namespace, owner.controller_uid, constraints.only_node
