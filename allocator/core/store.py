"""The claims in force, every index over them, and what those that are gone had.

Longer than 350 lines because what follows a claim as it comes, changes and goes is read together.

Rules:

* Claims and indexes change together, in `insert`, `remove` and `replace`, and nowhere else.
* A claim that differs from the one before it in its end alone changes the index of ends and no other (a renewal).
* What is counted is counted as claims come and go: no reader walks over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from heapq import heappop, heappush
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from allocator.core.blocks import BlockMap, slots_in
from allocator.core.candidates import Constraints
from allocator.core.claims import POD, Bounds, Claim, ClaimId, Owner, PodUid, Shape, State, count_numbers
from allocator.core.foreign import ServicePorts
from allocator.core.index.cooling import GivenUp
from allocator.core.index.ports import OrderedKeys, PortIndex
from allocator.core.kept import SizedCache
from allocator.core.ports import LAST_SLOT, PortKey, Slot

K = TypeVar("K", bound=Hashable)

Key = tuple[str, str]
"""A namespace and a uid or name."""


class Outstanding(NamedTuple):
    """How many claims, and how many numbers they have."""

    claims: int
    ports: int


NOTHING = Outstanding(0, 0)


class ClaimStore:
    """What is in force. Readers look at the attributes; writers call the methods."""

    _shareable: tuple[int, frozenset[Slot]] = (-1, frozenset())  # for which value of `changes`, and what it was then

    def __init__(self) -> None:
        self.claims: dict[ClaimId, Claim] = {}
        self.ports, self.services = PortIndex(self.claims), ServicePorts()
        self.nodes, self.sets, self.numbers = self.ports.nodes, self.ports.sets, self.ports.numbers
        self.by_pod: dict[PodUid, ClaimId] = {}
        self._by_name: dict[str, dict[str, tuple[ClaimId, ...]]] = {}  # Pods, by namespace and name: one, two meanwhile
        self._shared = set[Key]()  # namespaces and names that several claims have
        self.former, self.given_up = FormerNumbers(), GivenUp(self.nodes)
        self.pending: set[ClaimId] = set()  # decided and not durable yet: counted, and shown to nobody
        self.by_controller: dict[Key, dict[ClaimId, None]] = {}  # reservations, oldest first: there may be many
        self.by_shape: dict[Shape, dict[tuple[int, ...], int]] = {}  # Pods of several ports: numbers, and how often
        self.unsettled: set[ClaimId] = set()
        self.ids: OrderedKeys[ClaimId] = OrderedKeys()
        self.portless: set[ClaimId] = set()  # their Pods have no host port any more: they stand nowhere
        self.leases: dict[ClaimId, None] = {}
        self.leases_end, self.others_end = Deadlines[ClaimId](), Deadlines[ClaimId]()
        self.unplanned: set[ClaimId] = set()  # those of the unsettled that stand nowhere
        self.wanting: dict[Slot, dict[ClaimId, None]] = {}  # the same, by what they want
        self._wanting_blocks: BlockMap[dict[ClaimId, None]] = BlockMap()
        self.unplanned_within: Counter[Constraints] = Counter()  # and how many there are for each candidate set
        self.states: Counter[State] = Counter()  # of what we granted
        self.ranges: Counter[Bounds] = Counter()  # of what we granted, by the range that it came from
        self.unmanaged_ports = 0  # held by Pods that we never granted anything
        self.reserved_in: dict[str, Outstanding] = {}  # by namespace: reservations of Pods that were not seen
        self.leased_in: dict[str, Outstanding] = {}

    def named(self, owner: Owner) -> frozenset[ClaimId]:
        """Succession: the claims of Pods with this very namespace and name."""
        if owner.kind != POD or not owner.name:
            return frozenset()
        return frozenset(self._by_name.get(owner.namespace, {}).get(owner.name, ()))

    def shareable(self) -> frozenset[Slot]:
        """The slots that two plans could have on one node: those of claims of one name, or on two addresses."""
        if self._shareable[0] != self.nodes.changes:
            self._shareable = self.nodes.changes, self._find_shareable()
        return self._shareable[1]

    def _find_shareable(self) -> frozenset[Slot]:
        named = (self.claims[each] for namespace, name in self._shared for each in self._by_name[namespace][name])
        keys = (key for claim in named if not claim.is_settled for key in claim.keys)
        return frozenset(self.sets.addressed()).union(*(slots_in(key.slot) for key in keys))

    def insert(self, claim: Claim) -> None:
        """Puts a claim into every index, and on its node.

        Raises:
            AssertionError: there is a claim of its id.

        """
        if claim.id in self.claims:
            raise AssertionError(f"claim {claim.id} exists")
        self._insert(claim)
        self.ids.add(claim.id)

    def publish(self, claim_id: ClaimId) -> Claim | None:
        """A claim that was pending is durable. It may have been due meanwhile: its end is told again.

        Returns the claim; None: it has ended.
        """
        self.pending.discard(claim_id)
        claim = self.claims.get(claim_id)
        if claim is not None:
            self.expect(claim)
            self._touch(claim)
        return claim

    def _insert(self, claim: Claim) -> None:
        self.claims[claim.id] = claim
        full_name, is_settled, numbers = claim.owner.full_name, claim.is_settled, count_numbers(claim.ports)
        if full_name is not None:
            self._note_name(claim.id, *full_name)
        if controller := _waits_for(claim):
            self.by_controller.setdefault(controller, {})[claim.id] = None
        if claim.pod_uid is not None:
            self.by_pod[claim.pod_uid] = claim.id
        if not is_settled:
            self.unsettled.add(claim.id)
            if claim.node is None:
                self._wait(claim)
        if not claim.ports:
            self.portless.add(claim.id)
        if claim.state is State.LEASED:
            self.leases[claim.id] = None
        self.expect(claim)
        self._count_shape(claim, 1)
        self._count(claim, 1, numbers)
        self.ports.stand(claim, is_settled=is_settled)

    def _note_name(self, claim_id: ClaimId, namespace: str, name: str) -> None:
        names = self._by_name.setdefault(namespace, {})
        others = names.get(name, ())
        names[name] = (*others, claim_id)
        if others:
            self._shared.add((namespace, name))

    def expect(self, claim: Claim) -> None:
        """Its end is told when it is due; also once more, where it was told and did not come about."""
        if claim.expires is not None:
            self._ends(claim).add(claim.id, claim.expires)

    def _ends(self, claim: Claim) -> Deadlines[ClaimId]:
        return self.leases_end if claim.state is State.LEASED else self.others_end

    def remove(self, claim_id: ClaimId) -> None:
        """Takes the claim of an id out of every index, and off its node."""
        self.ids.discard(claim_id)
        self._remove(claim_id)
        del self.claims[claim_id]

    def _remove(self, claim_id: ClaimId) -> None:
        """From every index; `claims` itself is left, since it is large, and made anew where many were deleted."""
        claim = self.claims[claim_id]
        full_name, is_settled, numbers = claim.owner.full_name, claim.is_settled, count_numbers(claim.ports)
        self.ports.leave(claim, is_settled=is_settled)
        if full_name is not None:
            self._forget_name(claim_id, *full_name)
        if controller := _waits_for(claim):
            del self.by_controller[controller][claim_id]
            if not self.by_controller[controller]:
                del self.by_controller[controller]
        if claim.pod_uid is not None:
            del self.by_pod[claim.pod_uid]
        self.unsettled.discard(claim_id)
        if claim_id in self.unplanned:
            self._wait_no_more(claim)
        self.portless.discard(claim_id)
        self.leases.pop(claim_id, None)
        if claim.expires is not None:
            self._ends(claim).discard(claim_id, claim.expires)
        self._count_shape(claim, -1)
        self._count(claim, -1, numbers)

    def replace(self, claim: Claim) -> None:
        """The claim in place of the one with its id. A new end alone touches the index of ends, and no other."""
        old = self.claims[claim.id]
        # Everything but the end is what the other indexes go by.
        if replace(claim, expires=old.expires) != old:
            self._remove(claim.id)
            self._insert(claim)
            return
        if old.expires is not None:
            self._ends(old).discard(old.id, old.expires)
        self.claims[claim.id] = claim
        self.expect(claim)
        self._touch(claim)

    def _touch(self, claim: Claim) -> None:
        """Notes that a claim looks different now, though nothing came or went: readers look again."""
        nodes = self.nodes
        nodes.changes += 1
        if claim.node and (entry := nodes.entries[nodes.positions[claim.node]]) is not None:
            entry.changed = nodes.changes

    def _wait(self, claim: Claim) -> None:
        self.unplanned.add(claim.id)
        self.unplanned_within[claim.constraints] += 1
        for slot in {key.slot for key in claim.keys}:
            if slot > LAST_SLOT:
                these = self._wanting_blocks.values.get(slot)
                if these is None:
                    self._wanting_blocks.put(slot, these := {})
                these[claim.id] = None
            else:
                self.wanting.setdefault(slot, {})[claim.id] = None

    def wanting_any(self, key: PortKey) -> Collection[ClaimId]:
        """Those of the unplanned that want a number of a key, on whatever address."""
        slot, blocks = key.slot, self._wanting_blocks
        if slot <= LAST_SLOT and not blocks:
            return self.wanting.get(slot, ())
        found = dict[ClaimId, None]()
        for one in slots_in(slot):
            found.update(self.wanting.get(one, {}))
        for block in blocks.meeting(slot):
            found.update(blocks.values[block])
        return found

    def _wait_no_more(self, claim: Claim) -> None:
        self.unplanned.discard(claim.id)
        self.unplanned_within[claim.constraints] -= 1
        if not self.unplanned_within[claim.constraints]:
            del self.unplanned_within[claim.constraints]
        for slot in {key.slot for key in claim.keys}:
            if slot > LAST_SLOT:
                left = self._wanting_blocks.values[slot]
                del left[claim.id]
                if not left:
                    self._wanting_blocks.drop(slot)
                continue
            del self.wanting[slot][claim.id]
            if not self.wanting[slot]:
                del self.wanting[slot]

    def _forget_name(self, claim_id: ClaimId, namespace: str, name: str) -> None:
        names = self._by_name[namespace]
        left = tuple(each for each in names[name] if each != claim_id)
        if left:
            names[name] = left
            if len(left) == 1:
                self._shared.discard((namespace, name))
            return
        del names[name]
        if not names:
            del self._by_name[namespace]

    def _count_shape(self, claim: Claim, change: int) -> None:
        if len(claim.ports) < 2 or not claim.owner.is_pod:
            return
        shape, numbers = claim.shape, tuple([port.host_port for port in claim.ports])
        counts = self.by_shape.setdefault(shape, {})
        counts[numbers] = counts.get(numbers, 0) + change
        if not counts[numbers]:
            del counts[numbers]
            if not counts:
                del self.by_shape[shape]

    def _count(self, claim: Claim, change: int, numbers: int) -> None:
        if claim.unmanaged:
            self.unmanaged_ports += change * numbers
            return
        self.states[claim.state] += change
        if claim.state is State.RESERVED or claim.state is State.LEASED:
            self._count_tenant(claim, change, numbers)
        if claim.range is not None:
            self.ranges[claim.range] += change
            if not self.ranges[claim.range]:
                del self.ranges[claim.range]

    def _count_tenant(self, claim: Claim, change: int, numbers: int) -> None:
        sums = self.leased_in if claim.state is State.LEASED else self.reserved_in
        namespace = claim.owner.namespace
        claims, ports = sums.get(namespace, NOTHING)
        if claims + change:
            sums[namespace] = Outstanding(claims + change, ports + change * numbers)
        else:
            del sums[namespace]


def _waits_for(claim: Claim) -> Key | None:
    """The controller whose next Pod a reservation may be."""
    if claim.state is not State.RESERVED or not claim.owner.controller_uid:
        return None
    return claim.owner.namespace, claim.owner.controller_uid


LEAST_SECONDS = 64
"""A heap is not made anew for less."""


class Deadlines(Generic[K]):
    """Keys by the time when they end, in seconds: a look at what is due costs what is due, however many end later.

    There is a map for each second in which somebody ends, and a heap of these seconds. Where all of a second were taken
    out, its map goes, and the second stays in the heap until it is reached. When half of the heap are such seconds, it
    is made anew.
    """

    def __init__(self) -> None:
        self._by_second: dict[int, dict[K, float]] = {}
        self._seconds: list[int] = []

    def add(self, claim_id: K, at: float) -> None:
        """Notes an end. `at`: in seconds."""
        second = int(at // 1)
        if second not in self._by_second:
            self._by_second[second] = {}
            heappush(self._seconds, second)
        self._by_second[second][claim_id] = at

    def discard(self, claim_id: K, at: float) -> None:
        """What was added may have been taken since."""
        second = int(at // 1)
        ends = self._by_second.get(second, {})
        ends.pop(claim_id, None)
        if ends or second not in self._by_second:
            return
        del self._by_second[second]
        if len(self._seconds) > LEAST_SECONDS and len(self._seconds) > 2 * len(self._by_second):
            self._seconds = sorted(self._by_second)

    def take(self, until: float, most: int) -> list[K]:
        """At most so many of those that end by then, the earliest second first. Each is taken once."""
        found: list[K] = []
        while len(found) < most and (ends := self._first(until)):
            due = list(islice((claim_id for claim_id, at in ends.items() if at <= until), most - len(found)))
            if not due:
                break
            for claim_id in due:
                del ends[claim_id]
            found += due
        return found

    def has_due(self, until: float) -> bool:
        """Whether anybody ends by then."""
        return any(at <= until for at in self._first(until).values())

    def _first(self, until: float) -> dict[K, float]:
        """Those of the first second in which anybody ends; nothing where that is later."""
        while self._seconds and self._seconds[0] <= until:
            ends = self._by_second.get(self._seconds[0])
            if ends:
                return ends
            self._by_second.pop(heappop(self._seconds), None)
        return {}


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
