"""The PortLeases that exist, as far as we know: from our own writes and from the watch, whichever is newer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from allocator.core.claims import ClaimId
from allocator.leases.objects import PortLease

REMEMBERED = 1000
"""Objects that have gone: an answer about one of them may still be on its way."""


class PortLeaseCache:
    """By uid, and those that are granted by their claim's id."""

    def __init__(self) -> None:
        self._objects: dict[str, PortLease] = {}
        self._granted: dict[ClaimId, str] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self.latest = 0  # the newest version of an object that we know, by our own writes or by the watch

    def put(self, stored: PortLease) -> bool:
        """Notes an object as it was seen, unless something newer is known; False where it has gone since."""
        self.latest = max(self.latest, stored.version)
        if stored.uid in self._gone:
            return False
        known = self._objects.get(stored.uid)
        if known is None or stored.version >= known.version:
            self._objects[stored.uid] = stored
            if stored.claim is not None:
                self._granted[stored.id] = stored.uid
        return True

    def drop(self, uid: str) -> PortLease | None:
        """Notes that an object has gone, for good; returns what was known of it."""
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        stored = self._objects.pop(uid, None)
        if stored is not None and self._granted.get(stored.id) == uid:
            del self._granted[stored.id]
        return stored

    def of(self, claim_id: ClaimId) -> PortLease | None:
        """The granted object of a lease."""
        uid = self._granted.get(claim_id)
        return None if uid is None else self._objects[uid]

    def uids(self) -> set[str]:
        return set(self._objects)

    def __iter__(self) -> Iterator[PortLease]:
        return iter(list(self._objects.values()))
