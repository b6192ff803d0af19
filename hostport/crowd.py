"""Which connections a server keeps, and which one goes when there are too many. Pure.

Rules:

* A connection whose request is whole is owed an answer: it never goes.
* No peer has more than half of all. One that would have more loses what of its own has been silent longest.
* When there are too many, the one goes that has been silent longest of those that never completed a request; where all
  have, the one of the peer that has most. So whoever comes last is served, and whoever says nothing makes room.
* Where nobody can go, whoever comes is turned away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Crowd(Generic[K]):
    """The connections of one server, each with the address of its peer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._peers: dict[K, str] = {}
        self._counts: Counter[str] = Counter()
        self._new: dict[K, None] = {}  # that never completed a request; whoever was heard last is last
        self._known: dict[K, None] = {}  # that did, and are owed nothing

    def __len__(self) -> int:
        return len(self._peers)

    def is_full(self, peer: str) -> bool:
        """Whether one more of this peer is one too many."""
        return len(self._peers) >= self._most or self._counts[peer] >= self._most_of_one

    def to_go(self, peer: str) -> K | None:
        """Which one goes for one of this peer; None: none can."""
        if self._counts[peer] >= self._most_of_one:
            return next(chain(self._of(peer, self._new), self._of(peer, self._known)), None)
        return next(chain(self._new, self._those_who_know_us()), None)

    def to_free(self, most: int) -> list[K]:
        """Who goes where files are short: the older half of those that never completed a request, then the others.

        Not all of the former: whoever has just come is among them, and it is for such that there must be room.
        """
        silent = islice(self._new, len(self._new) // 2)
        return list(islice(chain(silent, self._those_who_know_us()), most))

    def _those_who_know_us(self) -> Iterator[K]:
        """Those that are owed nothing, of the peer that has most, then of all."""
        greatest = max(self._counts, key=self._counts.__getitem__, default="")
        return chain(self._of(greatest, self._known), (each for each in self._known if self._peers[each] != greatest))

    def _of(self, peer: str, among: Iterable[K]) -> Iterator[K]:
        return (each for each in among if self._peers[each] == peer)

    def join(self, connection: K, peer: str) -> None:
        self._peers[connection] = peer
        self._counts[peer] += 1
        self._new[connection] = None

    def heard(self, connection: K) -> None:
        """Something of a request has come."""
        for among in (self._new, self._known):
            if connection in among:
                del among[connection]
                among[connection] = None

    def owed(self, connection: K) -> None:
        """A request is whole: it waits for its answer."""
        self._new.pop(connection, None)
        self._known.pop(connection, None)

    def waits(self, connection: K) -> None:
        """It waits for a request; for its next one, where it has completed one."""
        if connection in self._peers and connection not in self._new:
            self._known[connection] = None

    def leave(self, connection: K) -> None:
        peer = self._peers.pop(connection, None)
        if peer is None:
            return
        self.owed(connection)
        self._counts[peer] -= 1
        if not self._counts[peer]:
            del self._counts[peer]
