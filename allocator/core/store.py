"""The claims in force, every index over them, and what is remembered of owners and of claims that are gone.

Longer than 350 lines because what follows a claim as it comes, changes and goes is read together.

Rules:

* Claims and indexes change together, in `insert`, `remove` and `replace`, and nowhere else.
* Each index goes by a key, some fields of a claim (`_keys`). `replace` passes over those whose key is as before.
* A claim that differs from the one before it in its end alone changes the index of ends and no other (a renewal).
* What is counted is counted as claims come and go: no reader walks over all of them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from functools import partial
from heapq import heappop, heappush
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

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
V = TypeVar("V")

Key = tuple[str, str]
"""A namespace and a uid or name."""


class Outstanding(NamedTuple):
    """How many claims, and how many numbers they have."""

    claims: int
    ports: int


NOTHING = Outstanding(0, 0)


class _Index(NamedTuple):
    """How a claim comes and goes. Both are given the claim and its key."""

    add: Callable[[Claim, Any], None]
    discard: Callable[[Claim, Any], None]  # of the very claim that was added, while it is still the one of its id


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
        self.former, self.given_up, self.owners = FormerNumbers(), GivenUp(self.nodes), OwnerHistory()
        self.pending: set[ClaimId] = set()  # decided and not durable yet: counted, and shown to nobody
        self.by_controller: dict[Key, dict[ClaimId, None]] = {}  # reservations, oldest first: there may be many
        self.by_shape: dict[Shape, dict[tuple[int, ...], int]] = {}  # Pods of several ports: numbers, and how often
        self.ids, self.unsettled = OrderedKeys[ClaimId](), set[ClaimId]()
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
        # By namespace: the reservations of Pods that were not seen, and the leases.
        self.reserved_in, self.leased_in = dict[str, Outstanding](), dict[str, Outstanding]()
        self._indexes = self._all_indexes()

    def _all_indexes(self) -> tuple[_Index, ...]:
        """All but that of ends, which is told of each change: an end that was taken may have to be told again."""
        return (
            _Index(self._note_name, self._forget_name),
            _Index(self._note_pod, self._forget_pod),
            _Index(self._note_waiting, self._forget_waiting),
            _Index(self._enter, self._exit),
            _Index(self._want, self._want_no_more),
            _Index(partial(self._count_shape, 1), partial(self._count_shape, -1)),
            _Index(partial(self._count, 1), partial(self._count, -1)),
            _Index(self._stand, self._leave),
        )

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
        self.claims[claim.id] = claim
        self.expect(claim)
        for (add, _), key in zip(self._indexes, _keys(claim), strict=True):
            if key is not None:
                add(claim, key)
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

    def expect(self, claim: Claim) -> None:
        """Its end is told when it is due; also once more, where it was told and did not come about."""
        if claim.expires is not None:
            self._ends(claim).add(claim.id, claim.expires)

    def _expect_no_more(self, claim: Claim) -> None:
        if claim.expires is not None:
            self._ends(claim).discard(claim.id, claim.expires)

    def _ends(self, claim: Claim) -> Deadlines[ClaimId]:
        return self.leases_end if claim.state is State.LEASED else self.others_end

    def remove(self, claim_id: ClaimId) -> None:
        """Takes the claim of an id out of every index, and off its node."""
        claim = self.claims[claim_id]
        self.ids.discard(claim_id)
        for (_, discard), key in zip(self._indexes, _keys(claim), strict=True):
            if key is not None:
                discard(claim, key)
        self._expect_no_more(claim)
        del self.claims[claim_id]

    def replace(self, claim: Claim) -> None:
        """The claim in place of the one with its id. An index whose key is the same as before is passed over."""
        old = self.claims[claim.id]
        changed = self._changed(old, claim)
        for index, before, _ in changed:
            if before is not None:
                index.discard(old, before)
        self._expect_no_more(old)
        self.claims[claim.id] = claim
        for index, _, now in changed:
            if now is not None:
                index.add(claim, now)
        self.expect(claim)
        self._touch(claim)

    def _changed(self, old: Claim, claim: Claim) -> list[tuple[_Index, Any, Any]]:
        """The indexes whose key is another one now, each with the keys of both claims."""
        if replace(claim, expires=old.expires) == old:  # a renewal, without a look at each of them
            return []
        keys = zip(self._indexes, _keys(old), _keys(claim), strict=True)
        return [(index, before, now) for index, before, now in keys if before != now]

    def _touch(self, claim: Claim) -> None:
        """Notes that a claim looks different now, though nothing came or went: readers look again."""
        nodes = self.nodes
        nodes.changes += 1
        if claim.node and (entry := nodes.entries[nodes.positions[claim.node]]) is not None:
            entry.changed = nodes.changes

    def _note_name(self, claim: Claim, full_name: Key) -> None:
        namespace, name = full_name
        names = self._by_name.setdefault(namespace, {})
        others = names.get(name, ())
        names[name] = (*others, claim.id)
        if others:
            self._shared.add(full_name)

    def _forget_name(self, claim: Claim, full_name: Key) -> None:
        namespace, name = full_name
        names = self._by_name[namespace]
        left = tuple(each for each in names[name] if each != claim.id)
        if left:
            names[name] = left
            if len(left) == 1:
                self._shared.discard(full_name)
            return
        del names[name]
        if not names:
            del self._by_name[namespace]

    def _note_pod(self, claim: Claim, uid: PodUid) -> None:
        self.by_pod[uid] = claim.id

    def _forget_pod(self, _: Claim, uid: PodUid) -> None:
        del self.by_pod[uid]

    def _note_waiting(self, claim: Claim, controller: Key) -> None:
        self.by_controller.setdefault(controller, {})[claim.id] = None

    def _forget_waiting(self, claim: Claim, controller: Key) -> None:
        waiting = self.by_controller[controller]
        del waiting[claim.id]
        if not waiting:
            del self.by_controller[controller]

    def _enter(self, claim: Claim, sets: tuple[bool, bool, bool]) -> None:
        is_settled, is_portless, is_lease = sets
        if not is_settled:
            self.unsettled.add(claim.id)
        if is_portless:
            self.portless.add(claim.id)
        if is_lease:
            self.leases[claim.id] = None

    def _exit(self, claim: Claim, _: object) -> None:
        self.unsettled.discard(claim.id)
        self.portless.discard(claim.id)
        self.leases.pop(claim.id, None)

    def _want(self, claim: Claim, _: object) -> None:
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

    def _want_no_more(self, claim: Claim, _: object) -> None:
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

    def _count_shape(self, change: int, claim: Claim, _: object) -> None:
        shape, numbers = claim.shape, tuple([port.host_port for port in claim.ports])
        counts = self.by_shape.setdefault(shape, {})
        counts[numbers] = counts.get(numbers, 0) + change
        if not counts[numbers]:
            del counts[numbers]
            if not counts:
                del self.by_shape[shape]

    def _count(self, change: int, _: Claim, counted: tuple[bool, State, Bounds | None, str, int]) -> None:
        unmanaged, state, bounds, namespace, numbers = counted
        if unmanaged:
            self.unmanaged_ports += change * numbers
            return
        self.states[state] += change
        if state is State.RESERVED or state is State.LEASED:
            sums = self.leased_in if state is State.LEASED else self.reserved_in
            claims, ports = sums.get(namespace, NOTHING)
            if claims + change:
                sums[namespace] = Outstanding(claims + change, ports + change * numbers)
            else:
                del sums[namespace]
        if bounds is not None:
            self.ranges[bounds] += change
            if not self.ranges[bounds]:
                del self.ranges[bounds]

    def _stand(self, claim: Claim, standing: tuple[bool, object]) -> None:
        is_settled, _ = standing
        self.ports.stand(claim, is_settled=is_settled)

    def _leave(self, claim: Claim, standing: tuple[bool, object]) -> None:
        is_settled, _ = standing
        self.ports.leave(claim, is_settled=is_settled)


def _keys(claim: Claim) -> tuple[Any, ...]:
    """By what of a claim each index goes, in the order of `ClaimStore._indexes`. None: the claim is not in it."""
    owner, ports, state, node, constraints = claim.owner, claim.ports, claim.state, claim.node, claim.constraints
    is_settled, is_lease = claim.is_settled, state is State.LEASED
    return (
        owner.full_name,
        claim.pod_uid,
        # The controller whose next Pod a reservation may be.
        (owner.namespace, owner.controller_uid) if state is State.RESERVED and owner.controller_uid else None,
        (is_settled, not ports, is_lease),
        # What those want that stand nowhere.
        (ports, constraints) if node is None and not is_settled else None,
        # The shape of Pods of several ports.
        ports if len(ports) > 1 and owner.is_pod else None,
        (claim.unmanaged, state, claim.range, owner.namespace, count_numbers(ports)),
        # The numbers, where they are or may land, and of which kind the holder is: all that `PortIndex` looks at.
        (is_settled, (ports, node, constraints, is_lease, claim.is_terminating, claim.priority, claim.may_preempt)),
    )


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
        for key in () if claim.unmanaged else _former_keys(claim.owner, claim.constraints):
            self._had.put(key, had, size + sum(map(len, key)))

    def numbers(self, owner: Owner, constraints: Constraints, shape: Shape) -> Numbers:
        """What the Pod had, one number for each port; nothing where it is new or has changed."""
        found = map(self._had.get, _former_keys(owner, constraints))
        return next((had.numbers for had in found if had is not None and had.shape == shape), ())

    def own(self, owner: Owner, constraints: Constraints) -> frozenset[int]:
        """Every number that the owner had, whatever else has changed."""
        found = map(self._had.get, _former_keys(owner, constraints))
        return frozenset(number for had in found if had is not None for number in had.all_numbers())


def _former_keys(owner: Owner, constraints: Constraints) -> Iterator[_FormerKey]:
    """A Pod that was admitted without a name has one when it goes, so that it is remembered by both."""
    if owner.name:
        yield (owner.namespace, owner.name) if owner.kind == POD else ("", owner.kind, owner.namespace, owner.name)
    if owner.controller_uid and constraints.only_node:
        yield owner.namespace, owner.controller_uid, constraints.only_node


REMEMBERED_OWNERS = 10_000
LONG_AGO = float("-inf")


class OwnerHistory:
    """Of which owners a Pod has appeared, and who is held back until one does. An owner is a controller.

    At most `REMEMBERED_OWNERS` of each are kept: the oldest are forgotten, which harms nobody.
    """

    def __init__(self) -> None:
        self._confirmed: OrderedDict[Key, float] = OrderedDict()  # the end of the reservation that was confirmed last
        self._held_back: OrderedDict[Key, None] = OrderedDict()

    def confirm(self, claim: Claim) -> None:
        """Notes that a Pod of a claim's owner has appeared: the owner is not held back any more.

        claim: the reservation as it was before the Pod appeared. One that has no end was confirmed before the start.
        """
        key = _controller_of(claim.owner)
        self._held_back.pop(key, None)
        _keep_newest(self._confirmed, key, LONG_AGO if claim.expires is None else claim.expires)

    def hold_back(self, owner: Owner) -> None:
        """Notes that an owner is granted no more until a Pod of its appears."""
        _keep_newest(self._held_back, _controller_of(owner), None)

    def is_held_back(self, owner: Owner) -> bool:
        return _controller_of(owner) in self._held_back

    def is_known(self, owner: Owner) -> bool:
        """Whether a Pod of an owner has appeared, or the owner is held back."""
        key = _controller_of(owner)
        return key in self._confirmed or key in self._held_back

    def confirmed_until(self, owner: Owner) -> float:
        """When the reservation ends that was confirmed last, in seconds of the ledger's clock; `LONG_AGO`: none was."""
        return self._confirmed.get(_controller_of(owner), LONG_AGO)


def _controller_of(owner: Owner) -> Key:
    return owner.namespace, owner.controller_uid


def _keep_newest(memory: OrderedDict[Key, V], key: Key, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED_OWNERS:
        memory.popitem(last=False)
