"""Claims whose numbers Services hold as well: kube-proxy takes what is sent to them. Nothing here changes a claim.

Rules:

* Who has a number keeps it: a Service that comes later is told, and so is the Pod.
* Each claim is told once, when its Pod is seen or the Service takes the number, whichever comes second; and again when
  a Service gave the number up in between. A reservation has no Pod yet, and is told when that is seen.
* Who stands by finds the same and tells nobody. So all are found again when it begins to serve: another may have told
  them, or nobody. An Event that is told twice is one (`allocator.reports`).
* One number may be held on every node. Those who hold it are looked at some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from allocator.core.claims import Claim, ClaimId, State
from allocator.core.foreign import ForeignHolder, ServicePorts
from allocator.core.index.ports import PortIndex
from allocator.core.ports import WILDCARD, PortKey, Slot, number_of, protocol_of
from allocator.core.store import ClaimStore

MOST_PORTS, MOST_SLOTS = 1_000, 1_000
"""Ports of claims that are looked at in one call, and slots whose holders are found in it, where most have none."""

Held = tuple[tuple[PortKey, ForeignHolder], ...]
"""Ports of a claim, each with the Service that holds its number."""


class NodePortConflicts:
    """Who is to be told, and was.

    slots, due: those whose holders, and claims that, are to be looked at. told: claims that were told of something that
    still holds. Where no Service has a node port they are empty, and nobody need ask more.
    """

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._services: ServicePorts = store.services
        self.slots: dict[Slot, None] = {}
        self.due: dict[ClaimId, None] = {}
        self.told: dict[ClaimId, Held] = {}

    def changed(self, slots: Iterable[Slot]) -> None:
        """Services hold some slots that they did not before, or no longer: who has them is to be looked at."""
        self.slots.update(dict.fromkeys(slots))

    def find_again(self) -> None:
        """Nobody was told: who has a number of a Service is to be looked at anew."""
        self.told.clear()
        self.changed(self._services.holders)

    def _find(self, slot: Slot) -> None:
        """Notes who has a slot, on whatever node: they are to be looked at."""
        store, key = self._store, PortKey(WILDCARD, protocol_of(slot), number_of(slot))
        for name in store.nodes.names_of(_claimed(store.ports, key)):
            self.due.update(dict.fromkeys(store.ports.holders(name, key)))
        self.due.update(dict.fromkeys(store.wanting_any(key)))

    def seen(self, claim_id: ClaimId) -> None:
        """A claim is new or its ports have changed."""
        self.due[claim_id] = None

    def forget(self, claim_id: ClaimId) -> None:
        """The claim has ended."""
        self.told.pop(claim_id, None)
        self.due.pop(claim_id, None)

    def look(self) -> list[tuple[Claim, Held]]:
        """Looks at some of those that are due; gives what is to be told now."""
        found = []
        for slot in list(islice(self.slots, MOST_SLOTS)):
            if len(self.due) >= MOST_PORTS:
                break
            del self.slots[slot]
            self._find(slot)
        weight = 0
        for claim_id in list(islice(self.due, MOST_PORTS)):
            if weight >= MOST_PORTS:
                break
            del self.due[claim_id]
            claim = self._store.claims.get(claim_id)
            weight += 1 + len(claim.ports) if claim else 1
            if claim is None or claim.state is State.RESERVED:
                continue
            held = tuple(self._services.holding(claim.keys))
            news = tuple(each for each in held if each not in self.told.get(claim_id, ()))
            if held:
                self.told[claim_id] = held
            else:
                self.told.pop(claim_id, None)
            if news:
                found.append((claim, news))
        return found

    def count(self) -> int:
        """How many numbers of nodes, and of those who wait for one, are held by a Service as well, plans among them."""
        store, total = self._store, 0
        for slot in self._services.holders:
            key = PortKey(WILDCARD, protocol_of(slot), number_of(slot))
            total += _claimed(store.ports, key).bit_count() + len(store.wanting_any(key))
        return total


def _claimed(ports: PortIndex, key: PortKey) -> int:
    """The nodes where a claim has the key's number, on whatever address; those where a process alone has it aside."""
    processes_alone = ports.foreign(key) & ~ports.sockets.beside.conflicting(key)  # beside a claim on another address
    return ports.conflicting(key) & ~processes_alone | ports.planned(key)
