"""Answers that are kept for whoever asks the same again, bounded in bytes.

A cache that counts its entries is as large as callers make them. This one is told how large each is, by an estimate,
forgets what was asked for longest ago, and does not take in what is large: whoever asks that pays for it each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 200  # of what every entry takes besides
SHARE = 128  # an entry takes at most one part in so many


class Sized(Generic[K, V]):
    """See the module. `most` is in bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size = 0

    def get(self, key: K) -> V | None:
        """What is kept; it counts as asked for now."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keeps a value. `size`: the bytes of key and value, about."""
        self.drop(key)
        size += ENTRY_BYTES
        if size > self._most // SHARE:
            return
        self._kept[key] = value, size
        self.size += size
        while self.size > self._most:
            self.size -= self._kept.popitem(last=False)[1][1]

    def drop(self, key: K) -> None:
        """Forgets a key, if it is kept."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.size -= found[1]

    def __len__(self) -> int:
        return len(self._kept)
