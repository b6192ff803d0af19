"""The candidate sets: the nodes of equal constraints, who may still land there, and which numbers are held there.

Longer than 350 lines because a set and what is counted for it are one index: whatever puts a node into a set, or takes
it out, changes the counts with it.

A claim without a node may land anywhere in its candidate set. So its numbers count as taken for every set that shares a
node with it: the claim *floats*.

What is held is counted in blocks of numbers, each when it is first asked about: a set that was never seen costs nothing
for numbers that nobody asks for. From then on the counts of a built block are kept right as claims come and go.

Invariants:

* the `nodes` of a set are those that its constraints accept;
* `floating` has the sets with unsettled claims; `surprising` those of them whose claims may land where they do not
  stand;
* of every block that is built, `standing` has exactly the numbers that somebody has on the nodes of the set; `held` and
  `settled` count the nodes on which anybody, or somebody settled, has a number;
* the `floating` of a set counts its unsettled claims, wherever they are planned.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from allocator.core.blocks import block_of, first_of, length_of, slots_in
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import Claim
from allocator.core.index.labels import LabelIndex, Wanted, compiled
from allocator.core.ports import (
    BLOCK,
    LAST_SLOT,
    WILDCARD,
    CountedNumbers,
    GatheredCounts,
    HeldCounts,
    Planes,
    PortKey,
    Protocol,
    Slot,
    bits,
    count_of,
    equal,
    number_of,
    plus,
    protocol_of,
    slot_of,
    slots_of,
    span,
)
from hostport.contract.limits import HIGHEST_PORT

if TYPE_CHECKING:
    from allocator.core.index.ports import NodeEntry, NodesBySlot, NodeTable


@dataclass(slots=True, eq=False)
class CandidateSet:
    """The candidate nodes of equal constraints, as a bitmap over node positions."""

    constraints: Constraints
    wanted: Wanted
    nodes: int = 0
    is_large: bool = False  # its constraints take many bytes
    is_wide: bool = False  # found by its nodes; a narrow one is kept with each of its nodes
    covers: dict[Protocol, HeldCounts] = field(default_factory=dict)  # of protocols that were asked about
    floating: dict[Protocol, CountedNumbers] = field(default_factory=dict)
    floats: int = 0  # unsettled claims of the set
    roaming: int = 0  # those of them that stand nowhere
    addressed: dict[Slot, Counter[str]] = field(default_factory=dict)  # ports of floating claims on one address

    def meets(self, other: CandidateSet) -> bool:
        """Whether a claim of one may land where a claim of the other may. A set always meets itself."""
        return self is other or self.nodes & other.nodes != 0

    def is_single(self) -> bool:
        """Whether there is one candidate. A wide set is not looked at: that takes two copies of its nodes."""
        return not self.is_wide and self.nodes & (self.nodes - 1) == 0 and self.nodes != 0

    @property
    def can_surprise(self) -> bool:
        """Whether a claim of the set may land on a node where it does not stand."""
        return self.floats > 0 and (self.roaming > 0 or not self.is_single())

    def float(self, slot: Slot, ip: str, change: int) -> None:
        """An unsettled claim of the set has a port, or a block, more, or less, on an address."""
        counts = self.floating.get(protocol_of(slot))
        if counts is None:
            counts = self.floating[protocol_of(slot)] = CountedNumbers()
        if slot > LAST_SLOT:
            whole = (1 << length_of(slot)) - 1
            (counts.add_all if change > 0 else counts.discard_all)(number_of(first_of(slot)), whole)
        else:
            (counts.add if change > 0 else counts.discard)(number_of(slot))
        for one in slots_in(slot) if ip != WILDCARD else ():
            addresses = self.addressed.setdefault(one, Counter())
            addresses[ip] += change
            if not addresses[ip]:
                del addresses[ip]
                if not addresses:
                    del self.addressed[one]

    def floats_into(self, key: PortKey) -> bool:
        """Whether an unsettled claim of the set has a port that conflicts with the key."""
        if key.length > 1:
            numbers = self.floating_numbers(key.protocol, key.number, key.number + key.length - 1)
            return numbers != 0 and any(
                self.floats_into(PortKey(key.ip, key.protocol, key.number + at)) for at in bits(numbers)
            )
        counts = self.floating.get(key.protocol)
        if counts is None or not counts.has(key.number):
            return False
        addresses = self.addressed.get(key.slot)
        if addresses is None or key.ip == WILDCARD or key.ip in addresses:
            return True
        return count_of(counts.within(key.number, key.number), 0) > addresses.total()  # one of them has the wildcard

    def floating_planes(self, protocol: Protocol, low: int, high: int) -> Planes:
        """How many unsettled claims have each number of [low, high], less `low`."""
        counts = self.floating.get(protocol)
        return counts.within(low, high) if counts else []

    def floating_numbers(self, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that an unsettled claim has, less `low`."""
        counts = self.floating.get(protocol)
        return counts.members(low, high) if counts else 0

    def on_all(self, planes: Planes, low: int, high: int) -> int:
        """The numbers of [low, high] whose count is that of the set's nodes, less `low`."""
        return equal(planes, self.nodes.bit_count(), span(0, high - low))


IDLE_SETS = 64
"""How many sets without floating claims are kept for the next ask with the same constraints."""

LARGEST_IDLE = 32 << 10
"""Bytes of constraints, about. An idle set with larger ones is forgotten as soon as another set is asked for."""

NARROW = 64
"""A set of so many nodes at most is kept with each of them. Wider ones are in one list, and each change of a node looks
which of them have it."""

MOST_RECOUNTED = 1024
"""Slots that are counted one by one in all sets that a changed node enters or leaves. The counts of further ones are
forgotten: they are made anew when they are asked about."""

MOST_ROUNDS = 8
"""Rounds in which the sets that plans could be moved to are looked for, each over all that are left."""


class CandidateSets:
    """The candidate sets by constraints. They change with the nodes, and with the claims that stand or float there."""

    def __init__(self, nodes: NodeTable, planned: NodesBySlot) -> None:
        """planned: where unsettled claims hold which slots."""
        self._nodes = nodes
        self._planned = planned
        self._known = LabelIndex()  # the Node objects, by what constraints ask of them
        self._sets: OrderedDict[Constraints, CandidateSet] = OrderedDict()
        self._large: set[CandidateSet] = set()  # idle ones, that are not kept
        self._narrow: dict[int, list[CandidateSet]] = {}  # by the position of each of their nodes
        self._wide: dict[CandidateSet, None] = {}
        self.floating: set[CandidateSet] = set()  # those with unsettled claims
        self.surprising: set[CandidateSet] = set()  # those of them that may land where they do not stand
        self._ranks: Counter[int] = Counter()  # of unsettled Pods that may preempt

    # -- nodes

    def put_node(self, node: Node) -> None:
        """Takes a Node object that appeared or changed, and puts it into the sets that accept it."""
        self._nodes.changes += 1
        position, is_other = self._nodes.put(node)
        if is_other:
            self._known.put(position, node)
            self._reconsider_all(position)

    def drop_node(self, name: NodeName) -> None:
        """Forgets a Node object. What stands there goes on standing there."""
        self._nodes.changes += 1
        position = self._nodes.positions.get(name)
        if position is None:
            return
        self._nodes.drop(position)
        self._known.drop(position)
        self._reconsider_all(position)
        self._nodes.forget_if_idle(position)

    # -- sets

    def of(self, constraints: Constraints) -> CandidateSet:
        """The candidates of some constraints; kept, so that the next ask finds it ready."""
        candidates = self._sets.get(constraints)
        if candidates is not None:
            self._sets.move_to_end(constraints)
            return candidates
        if constraints.node_name is not None:
            self._nodes.position(constraints.node_name)
        wanted, named = compiled(constraints), constraints.node_name
        nodes = self._known.accepting(wanted) if named is None else self._nodes.only(named)
        candidates = self._sets[constraints] = CandidateSet(
            constraints, wanted, nodes, is_large=constraints.weight > LARGEST_IDLE
        )
        self._enrol(candidates)
        if candidates.is_large:
            self._large.add(candidates)
        self._evict_idle()
        return candidates

    def _enrol(self, candidates: CandidateSet) -> None:
        """From now on what changes on its nodes is counted in the set."""
        candidates.is_wide = candidates.nodes.bit_count() > NARROW
        if candidates.is_wide:
            self._wide[candidates] = None
            return
        for position in bits(candidates.nodes):
            self._narrow.setdefault(position, []).append(candidates)
            self._nodes.at(position).in_sets += 1

    def _withdraw(self, candidates: CandidateSet) -> None:
        if candidates.is_wide:
            del self._wide[candidates]
            return
        for position in bits(candidates.nodes):
            self._narrow[position].remove(candidates)
            self._nodes.at(position).in_sets -= 1

    def __len__(self) -> int:
        """How many sets are kept."""
        return len(self._sets)

    @property
    def wide_count(self) -> int:
        """How many sets every change asks whether they have its node."""
        return len(self._wide)

    def having(self, position: int, node: int, ports: int) -> Sequence[Counted]:
        """What so many ports that come to a node, or go, are counted in: the sets that have it, or all of them as one.

        node: the same as a set of nodes. `pass_on` is called after the last port, where they are `MANY_KEYS` or more.
        """
        wide = [candidates for candidates in self._wide if candidates.nodes & node]
        found = [*self._narrow.get(position, ()), *wide]
        return [ManySets(found)] if ports >= MANY_KEYS else found

    def _reconsider_all(self, position: int) -> None:
        """Puts a node that changed into the sets that accept it now, and takes it out of the others."""
        entry = self._nodes.at(position)
        alone = LabelIndex.of(entry.node) if entry.known else LabelIndex()
        budget = MOST_RECOUNTED
        for candidates in list(self._sets.values()):
            named = candidates.wanted.node_name
            is_in = alone.accepting(candidates.wanted) != 0 if named is None else named == entry.node.name
            if bool(candidates.nodes >> position & 1) == is_in:
                continue
            if candidates.covers:
                budget -= entry.size() + (len(entry.sockets) if entry.sockets else 0)
                if budget < 0:
                    candidates.covers.clear()
            self._switch(candidates, position, now=is_in)

    def _switch(self, candidates: CandidateSet, position: int, *, now: bool) -> None:
        """Puts a node into a set, or takes it out."""
        entry = self._nodes.at(position)
        self._withdraw(candidates)
        candidates.nodes ^= 1 << position
        self._enrol(candidates)
        if entry.blocks:
            _switch_numbers(candidates, entry, 1 if now else -1)
            self._note_floats(candidates)
            return
        for slot in entry.slots() if candidates.covers else ():
            cover, number = candidates.covers.get(protocol_of(slot)), number_of(slot)
            if cover is None or not cover.has_built(number):
                continue
            is_settled = entry.is_held_for_good(slot)
            if now:
                cover.arrive(number, is_first=True, is_settled=is_settled)
            else:
                cover.depart(number, is_last=True, is_settled=is_settled)
        self._note_floats(candidates)

    def _evict_idle(self) -> None:
        # The newest stays in any case: its caller is about to use it.
        newest = next(reversed(self._sets))
        for candidates in [each for each in self._large if each.constraints is not newest]:
            self._evict(candidates)
        idle = len(self._sets) - len(self.floating) - IDLE_SETS
        if idle <= 0:
            return
        others = (each for each in self._sets.values() if each not in self.floating)
        for candidates in list(islice(others, idle)):
            if candidates.constraints is not newest:
                self._evict(candidates)

    def _evict(self, candidates: CandidateSet) -> None:
        del self._sets[candidates.constraints]
        self._large.discard(candidates)
        self._withdraw(candidates)
        for position in () if candidates.is_wide else bits(candidates.nodes):
            self._nodes.forget_if_idle(position)

    # -- claims

    def float(self, claim: Claim, keys: Iterable[tuple[Slot, str]], change: int) -> None:
        """An unsettled claim comes (1) to its set, or goes (-1). `keys`: its slots, each with its address."""
        candidates = self.of(claim.constraints)
        for slot, ip in keys:
            candidates.float(slot, ip, change)
        floats, roaming = candidates.floats, candidates.roaming
        candidates.floats += change
        candidates.roaming += change if claim.node is None else 0
        if claim.may_preempt:
            self._ranks[claim.priority] += change
            if not self._ranks[claim.priority]:
                del self._ranks[claim.priority]
        if not (floats and candidates.floats) or bool(roaming) != bool(candidates.roaming):
            self._note_floats(candidates)

    def _note_floats(self, candidates: CandidateSet) -> None:
        if candidates.floats:
            self.floating.add(candidates)
            self._large.discard(candidates)
        else:
            self.floating.discard(candidates)
            if candidates.is_large:
                self._large.add(candidates)
        (self.surprising.add if candidates.can_surprise else self.surprising.discard)(candidates)

    def reached(self, candidates: CandidateSet) -> list[CandidateSet]:
        """The sets to which plans could be moved, one making room for the next; the set itself is the first.

        Others may be among them where a chain of sets is long.
        """
        return [candidates, *self._met(candidates.nodes, self.surprising - {candidates})]

    @staticmethod
    def _met(nodes: int, left: set[CandidateSet]) -> list[CandidateSet]:
        """Those that share a node with some, or with one of them that does, and so on.

        Not more is proven than that nothing else does: after some rounds all that are left are given. Else a chain of
        sets, each with a node in common with the next one, would take their number squared.
        """
        found: list[CandidateSet] = []
        for _ in range(MOST_ROUNDS):
            met = [other for other in left if other.nodes & nodes]
            if not met:
                return found
            left = left.difference(met)
            found += met
            for other in met:
                nodes |= other.nodes
        return [*found, *left]

    # -- questions about nodes

    def addressed(self) -> Iterator[Slot]:
        """The slots that an unsettled claim has on one address only."""
        return (slot for candidates in self.floating for slot in candidates.addressed)

    @property
    def highest_rank(self) -> int | None:
        """The highest priority of an unsettled Pod that may preempt; None where there is none."""
        return max(self._ranks, default=None)

    def reach(self, key: PortKey, nodes: int) -> int:
        """The nodes to which plans that have the key's number could be moved, one making room for the next.

        They are moved out of `nodes`, which are among them. Others may be among them where a chain of sets is long.
        """
        for other in self._met(nodes, {other for other in self.surprising if _has(other, key)}):
            nodes |= other.nodes
        return nodes

    def landable(self, key: PortKey) -> int:
        """The nodes on which an unsettled claim with a port that conflicts with the key could land, or stands."""
        nodes = self._planned.conflicting(key) if self._planned else 0
        for candidates in self.surprising:
            if candidates.floats_into(key):
                nodes |= candidates.nodes
        return nodes


def _has(candidates: CandidateSet, key: PortKey) -> bool:
    """Whether an unsettled claim of the set has the key's protocol and any of its numbers, on whatever address."""
    if key.length > 1:
        return candidates.floating_numbers(key.protocol, key.number, key.number + key.length - 1) != 0
    counts = candidates.floating.get(key.protocol)
    return counts is not None and counts.has(key.number)


def _switch_numbers(candidates: CandidateSet, entry: NodeEntry, change: int) -> None:
    """Counts all that stands on a node with blocks, which comes (1) to a set or goes (-1)."""
    for protocol, cover in candidates.covers.items():
        held, settled = entry.numbers(protocol, 0, HIGHEST_PORT)
        cover.count(0, HIGHEST_PORT + 1, held=held, settled=settled, change=change)


class HeldNumbers:
    """Questions about the numbers of a range, on the nodes of a candidate set."""

    def __init__(
        self,
        nodes: NodeTable,
        floating: Collection[CandidateSet],
        surprising: Collection[CandidateSet],
        planned: NodesBySlot,
        fixed: tuple[NodesBySlot, ...],
    ) -> None:
        """See the attributes of the same names of `CandidateSets` and of `PortIndex`."""
        self._nodes = nodes
        self._floating = floating
        self._surprising = surprising
        self._planned = planned
        self._fixed = fixed
        self._all = (planned, *fixed)

    def taken(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """The numbers in [low, high] that are not free on every node of the set, less `low`.

        A number is taken where somebody stands with it, whatever the address, and where an unsettled claim could land.
        """
        numbers = self.counted(candidates, protocol, low, high)
        if numbers is None:
            self.count(candidates, protocol, self.missing(candidates, protocol, low, high))
            numbers = self.counted(candidates, protocol, low, high)
        return numbers or 0

    def counted(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int | None:
        """The same, where all blocks of [low, high] have been counted for the set; else None."""
        landing = [other.floating.get(protocol) for other in self._surprising if other.meets(candidates)]
        cover = candidates.covers.get(protocol)
        if cover is None or cover.missing(low, high):
            return None
        numbers = cover.standing.within(low, high)
        for counts in landing:
            numbers |= counts.members(low, high) if counts else 0
        return numbers

    def filled(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """How many numbers from `low` on are not free on every node of the set, at least, without a gap."""
        cover = candidates.covers.get(protocol)
        return 0 if cover is None else cover.standing.filled(low, high)

    def loads_and_stuck(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> tuple[Planes, int]:
        """What `loads` and `stuck` say, with one look at the counts."""
        loads = settled = self._cover(candidates, protocol, low, high).settled.within(low, high)
        for other in self._floating:
            if other.meets(candidates):
                loads = plus(loads, other.floating_planes(protocol, low, high))
        return loads, candidates.on_all(settled, low, high)

    def stuck(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] with which somebody is settled on every node of the set, less `low`."""
        return candidates.on_all(self._cover(candidates, protocol, low, high).settled.within(low, high), low, high)

    def full(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that somebody has on every node of the set, less `low`."""
        return candidates.on_all(self._cover(candidates, protocol, low, high).held.within(low, high), low, high)

    # -- counting for the first time

    def _cover(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> HeldCounts:
        """The counts of a candidate set, with all the blocks of [low, high]."""
        cover = candidates.covers.get(protocol)
        if cover is None or cover.missing(low, high):
            self.count(candidates, protocol, self.missing(candidates, protocol, low, high))
            cover = candidates.covers[protocol]
        return cover

    def missing(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> list[int]:
        """The blocks of [low, high] that have not been counted yet for a set."""
        cover = candidates.covers.get(protocol)
        if cover is None:
            cover = candidates.covers[protocol] = HeldCounts()
        blocks = cover.missing(low, high)
        return [low // BLOCK + at for at in bits(blocks)] if blocks else []

    def count(self, candidates: CandidateSet, protocol: Protocol, blocks: Sequence[int]) -> None:
        """Counts some blocks, which then are not missing any more."""
        cover = candidates.covers[protocol]
        if not blocks:
            return
        if self.goes_through_nodes(candidates, len(blocks)):
            self._count_nodes(candidates, cover, protocol, blocks)
            return
        few = self._few_slots(protocol)
        for block in blocks:
            slots = slots_of(protocol, range(block * BLOCK, (block + 1) * BLOCK))
            self._build(candidates, cover, protocol, block, slots if few is None else few.get(block, ()))

    def count_blocks(self) -> int:
        """How many blocks are held anywhere, one that many nodes have once."""
        return sum([len(blocks) for kind in self._all for blocks in kind.blocks.values()])

    def goes_through_nodes(self, candidates: CandidateSet, blocks: int) -> bool:
        """Whether so many blocks are counted by looking at what each node has, as that is less than their numbers."""
        if candidates.is_wide:
            return False
        entries = (self._nodes.at(position) for position in bits(candidates.nodes))
        return sum(1 if entry.sets is not None else 1 + entry.size() for entry in entries) < blocks * BLOCK

    def _count_nodes(
        self, candidates: CandidateSet, cover: HeldCounts, protocol: Protocol, blocks: Sequence[int]
    ) -> None:
        """Counts blocks for the first time by going through the nodes."""
        low, high = blocks[0] * BLOCK, blocks[-1] * BLOCK + BLOCK - 1
        held: Planes = []
        settled: Planes = []
        for position in bits(candidates.nodes):
            here, of_settled = self._nodes.at(position).numbers(protocol, low, high)
            if here:
                held = plus(held, [here])
            if of_settled:
                settled = plus(settled, [of_settled])
        for first, last in _runs(blocks):
            at, size = (first - blocks[0]) * BLOCK, (last - first + 1) * BLOCK
            cover.build(first, last, _part(held, at, size), _part(settled, at, size))

    def _few_slots(self, protocol: Protocol) -> dict[int, list[Slot]] | None:
        """All that is held of a protocol anywhere, by block, where that is little; else None."""
        if sum(map(len, self._all)) >= BLOCK or any(kind.blocks for kind in self._all):
            return None
        found: dict[int, list[Slot]] = {}
        for slot in {slot for kind in self._all for slot in kind.slots()}:
            if protocol_of(slot) is protocol:
                found.setdefault(number_of(slot) // BLOCK, []).append(slot)
        return found

    def _build(
        self, candidates: CandidateSet, cover: HeldCounts, protocol: Protocol, block: int, slots: Iterable[Slot]
    ) -> None:
        """Counts the numbers of a block for the first time. `slots`: all that may be held of it, and maybe more."""
        nodes, base, size = candidates.nodes, block * BLOCK, candidates.nodes.bit_count()
        whole = block_of(slot_of(protocol, base), BLOCK)
        fixed = [index.lookup(slots, whole) for index in self._fixed if index]
        planned_at = self._planned.lookup(slots, whole)
        held: dict[int, int] = {}
        settled: dict[int, int] = {}
        for slot in slots:
            there, planned = 0, planned_at(slot, 0)
            for nodes_at in fixed:
                there |= nodes_at(slot, 0)
            if not there and not planned:
                continue
            there &= nodes
            # Nearly all counts are none or all, and to compare is faster than to count.
            count = size if there == nodes else there.bit_count()
            bit = 1 << number_of(slot) - base
            if count:
                settled[count] = settled.get(count, 0) | bit
            if planned:
                count = ((there | planned) & nodes).bit_count()
            if count:
                held[count] = held.get(count, 0) | bit
        cover.build(block, block, held, settled)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of blocks that follow one another, of blocks in order."""
    first = last = blocks[0]
    for block in blocks[1:]:
        if block != last + 1:
            yield first, last
            first = block
        last = block
    yield first, last


def _part(planes: Planes, at: int, size: int) -> dict[int, int]:
    """Some of the numbers of counts, as sets by the power of two that they count for."""
    mask = (1 << size) - 1
    return {1 << order: part for order, plane in enumerate(planes) if (part := plane >> at & mask)}


class Counted(Interface):
    """What holders are counted in: a candidate set, or `ManySets`."""

    @property
    def covers(self) -> Mapping[Protocol, HeldCounts | GatheredCounts]:
        """The counts of each protocol."""


MANY_KEYS = 16
"""Ports of a claim from which on the sets of its node are counted as one."""


class ManySets:
    """The sets of a node as one, while somebody with many ports comes or goes: not every set is asked for each port."""

    __slots__ = ("_sets", "covers")

    def __init__(self, sets: Sequence[CandidateSet]) -> None:
        self._sets = sets
        self.covers = {protocol: GatheredCounts() for protocol in Protocol}

    def pass_on(self, change: int) -> None:
        """Counts in each set what was told. `change`: 1, it has come; -1, it has gone."""
        for protocol, gathered in self.covers.items():
            gathered.pass_on([each.covers[protocol] for each in self._sets if protocol in each.covers], change)
        self.covers = {protocol: GatheredCounts() for protocol in Protocol}


def pass_on(sets: Sequence[Counted], change: int) -> None:
    """Ends a step in which all ports came (1) or went (-1); see `CandidateSets.having`."""
    for each in sets:
        if isinstance(each, ManySets):
            each.pass_on(change)


def arrive(sets: Iterable[Counted], slot: Slot, *, is_first: bool, is_settled: bool) -> None:
    """A node of the sets has a holder more: the first one there, or the first that is settled, or neither."""
    protocol, number = protocol_of(slot), number_of(slot)
    block = 1 << number // BLOCK
    for candidates in sets:
        cover = candidates.covers.get(protocol)
        if cover is not None and cover.built & block:  # no call: of many sets, few have it
            cover.arrive(number, is_first=is_first, is_settled=is_settled)


def depart(sets: Iterable[Counted], slot: Slot, *, is_last: bool, is_settled: bool) -> None:
    """A node of the sets has a holder less: the last one there, or the last that is settled, or neither."""
    protocol, number = protocol_of(slot), number_of(slot)
    block = 1 << number // BLOCK
    for candidates in sets:
        cover = candidates.covers.get(protocol)
        if cover is not None and cover.built & block:  # no call: of many sets, few have it
            cover.depart(number, is_last=is_last, is_settled=is_settled)
