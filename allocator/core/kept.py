"""What is kept for whoever comes again, bounded in bytes: answers, and equal values as one object.

What is kept may be forgotten at any time. That costs time, or what somebody would have liked, and no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

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
