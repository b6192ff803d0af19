"""What is kept for whoever comes again, bounded in bytes: answers, equal values as one object, the numbers of the gone.

What is kept may be forgotten at any time. That costs time, or a number that somebody would have liked, and no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import TypeVar

import msgspec

from allocator.core.candidates import Constraints
from allocator.core.claims import POD, Claim, Owner, Shape

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 200  # of what every entry takes besides
SHARE = 128  # an entry takes at most one part in so many


class SizedCache(OrderedDict[K, V]):
    """Answers that are kept for whoever asks the same again, at most so many bytes of them: read as a map, by `get`.

    A cache that counts its entries is as large as callers make them. This one is told how large each is, by an
    estimate, forgets what was put in longest ago, and does not take in what is large: whoever asks that pays for it
    each time.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._sizes: dict[K, int] = {}
        self.size = 0

    def put(self, key: K, value: V, size: int) -> None:
        """Keeps a value. `size`: the bytes of key and value, about."""
        self.drop(key)
        size += ENTRY_BYTES
        if size > self._most // SHARE:
            return
        self[key] = value
        self._sizes[key] = size
        self.size += size
        while self.size > self._most:
            self.drop(next(iter(self)))

    def drop(self, key: K) -> None:
        """Forgets a key, if it is kept."""
        self.pop(key, None)
        self.size -= self._sizes.pop(key, 0)


def kept_once(known: SizedCache[K, K], value: K, size: Callable[[K], int]) -> K:
    """The object that was seen first of all that are equal to a value. `size`: gives the bytes of one, about."""
    found = known.get(value)
    if found is None:
        known.put(value, value, size(value))
        return value
    return found


REMEMBERED_BYTES = 16 << 20
PORT_BYTES = 150
"""That a port takes, about, besides its names."""

_FormerKey = tuple[str, ...]
Numbers = tuple[int, ...]


class _Had(msgspec.Struct, frozen=True, gc=False):
    """numbers: one for each port. counts: how many each port had; nothing where that is one for all."""

    shape: Shape
    numbers: Numbers
    counts: Numbers = ()

    def all_numbers(self) -> Iterator[int]:
        if not self.counts:
            return iter(self.numbers)
        runs = zip(self.numbers, self.counts, strict=True)
        return chain.from_iterable(range(number, number + count) for number, count in runs)


class FormerNumbers:
    """What Pods and leases that are gone had; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._had: SizedCache[_FormerKey, _Had] = SizedCache(REMEMBERED_BYTES)

    def remember(self, claim: Claim) -> None:
        """Keeps the numbers of a claim that has ended, for the next one of its name, or of its controller and node."""
        counts = tuple(port.count for port in claim.ports)
        had = _Had(
            claim.shape, tuple(port.host_port for port in claim.ports), counts if max(counts, default=1) > 1 else ()
        )
        size = sum(PORT_BYTES + len(port.container) + len(port.name) for port in claim.ports)
        for key in () if claim.unmanaged else _keys(claim.owner, claim.constraints):
            self._had.put(key, had, size + sum(map(len, key)))

    def numbers(self, owner: Owner, constraints: Constraints, shape: Shape) -> Numbers:
        """What the Pod had, one number for each port; nothing where it is new or has changed."""
        found = map(self._had.get, _keys(owner, constraints))
        return next((had.numbers for had in found if had is not None and had.shape == shape), ())

    def own(self, owner: Owner, constraints: Constraints) -> frozenset[int]:
        """Every number that the owner had, whatever else has changed."""
        found = map(self._had.get, _keys(owner, constraints))
        return frozenset(number for had in found if had is not None for number in had.all_numbers())


def _keys(owner: Owner, constraints: Constraints) -> Iterator[_FormerKey]:
    """A Pod that was admitted without a name has one when it goes, so that it is remembered by both."""
    if owner.name:
        yield (owner.namespace, owner.name) if owner.kind == POD else ("", owner.kind, owner.namespace, owner.name)
    if owner.controller_uid and constraints.only_node:
        yield owner.namespace, owner.controller_uid, constraints.only_node
