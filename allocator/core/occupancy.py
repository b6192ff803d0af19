"""Which port is held where, indexed so that a decision does not look at every node.

Every claim *stands* on at most one node: the one that it is bound to, or the one that it is planned on. Three indexes
follow from that; they change only in `stand`, `leave` and the node methods:

* node → slot → the claims that hold it: the truth, with all of them, so that one of two may leave;
* slot → address → set of nodes, as a bitmap over node positions: on which nodes does an ask conflict? One such map for
  each kind of holder, since they differ in what may be done about them: a plan can be moved, a terminating Pod goes by
  itself, a Pod of lower priority may be preempted, and of a lease the scheduler knows nothing;
* scope → counts of numbers (`scopes`): which numbers are free on *every* candidate?

A *scope* is the candidate set of equal constraints. A claim without a node may land anywhere in its scope, so its
numbers count as taken for every scope that shares a node with it.

Invariants: a scope's `nodes` is the set of nodes that its constraints accept; every map of nodes by slot has exactly
the ports of the claims of its kind.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import Claim, ClaimId, State
from allocator.core.counting import Planes, plus
from allocator.core.node_index import NodeIndex, compiled
from allocator.core.ordered import Ordered
from allocator.core.ports import (
    WILDCARD,
    NumberSet,
    PortKey,
    Protocol,
    Slot,
    lowest,
    normalise_ip,
    number_of,
    protocol_of,
    slot_of,
    slots_of,
)
from allocator.core.scopes import BLOCK, Cover, Scope
from allocator.core.slots import NodesBySlot, bits, conflicting

IDLE_SCOPES = 64
"""How many scopes without floating claims are kept for the next ask with the same constraints."""

LARGEST_IDLE = 32 << 10
"""Bytes of constraints, about. An idle scope with larger ones is forgotten as soon as another scope is asked for."""

NARROW = 64
"""A scope of so many nodes at most is kept with each of them (`_Place.scopes`). Wider ones are in one list, and each
change of a node looks which of them have it."""


MANY_PORTS = 512
"""A node with so many held slots keeps them as sets besides: to go through them for each new scope would be slow."""

FEW_PRIORITIES = 4
"""Priorities whose slots are gone through one after the other."""

MOST_RECOUNTED = 1024
"""Slots that are counted one by one in all scopes that a changed node enters or leaves. The covers of further ones are
forgotten: they are counted anew when they are asked about."""

ANYWHERE_ALONE = (WILDCARD,)
ZERO, ONE = b"01"

MOST_ROUNDS = 8
"""Rounds in which the scopes that plans could be moved to are looked for, each over all that are left."""


Holders = tuple[Claim, ...]
"""The claims that hold a slot of a node, on whatever address, in order of arrival. Nearly always one."""


@dataclass(slots=True)
class _Held:
    """The numbers of one protocol that somebody has on a node, and those that somebody settled has."""

    held: NumberSet = field(default_factory=NumberSet)
    settled: NumberSet = field(default_factory=NumberSet)


@dataclass(slots=True, eq=False)
class _Place:
    """A node by name. It exists as long as a Node object, something that stands there, or a scope names it.

    What a scope alone names is shown to nobody: somebody has asked about it, and may have got nothing.
    """

    node: Node
    known: bool = False
    is_named: bool = False  # among the names that are shown
    stands: int = 0  # claims that stand here, those without ports among them
    changed: int = 0  # the value of `changes` when something last came or went here
    holders: dict[Slot, Holders] = field(default_factory=dict)
    scopes: list[Scope] = field(default_factory=list)  # the narrow ones
    sets: dict[Protocol, _Held] | None = None  # the same as `holders`, where those are many

    @property
    def is_shown(self) -> bool:
        """Whether it is known or holds something."""
        return self.known or self.stands > 0

    def note(self, slot: Slot) -> None:
        """The holders of a slot have changed: so do the sets, where they are kept."""
        if self.sets is None:
            return
        of_protocol, number = self.sets.get(protocol_of(slot)), number_of(slot)
        if of_protocol is None:
            of_protocol = self.sets[protocol_of(slot)] = _Held()
        holders = self.holders.get(slot, ())
        (of_protocol.held.add if holders else of_protocol.held.discard)(number)
        is_settled = any(holder.is_settled for holder in holders)
        (of_protocol.settled.add if is_settled else of_protocol.settled.discard)(number)

    def weigh(self) -> None:
        """Keeps sets where the holders are many, and none where they are few again."""
        if self.sets is None and len(self.holders) >= MANY_PORTS:
            self.sets = {}
            for slot in self.holders:
                self.note(slot)
        elif self.sets is not None and len(self.holders) < MANY_PORTS // 2:
            self.sets = None

    def held(self) -> list[NumberSet]:
        """The numbers that are held, of all protocols together or of each."""
        if self.sets is not None:
            return [of_protocol.held for of_protocol in self.sets.values()]
        held = NumberSet()
        for slot in self.holders:
            held.add(number_of(slot))
        return [held]

    def numbers(self, protocol: Protocol, low: int, high: int) -> tuple[int, int]:
        """The numbers of [low, high] that are held, and those that are settled, less `low`."""
        if self.sets is None:
            found, wanted = _Held(), slots_of(protocol, range(low, high + 1))
            for slot, holders in self.holders.items():
                if slot in wanted:
                    number = number_of(slot) - low
                    found.held.add(number)
                    if any(holder.is_settled for holder in holders):
                        found.settled.add(number)
            return found.held.within(0, high - low), found.settled.within(0, high - low)
        kept = self.sets.get(protocol)
        return (kept.held.within(low, high), kept.settled.within(low, high)) if kept else (0, 0)


class Occupancy:
    """The mutable index. Its caller decides what may stand where; nothing is checked here."""

    def __init__(self) -> None:
        self._places: list[_Place | None] = []  # by position; None: vacant
        self._positions: dict[NodeName, int] = {}
        self._names: Ordered[NodeName] = Ordered()
        self._vacant: list[int] = []
        self._index = NodeIndex()  # of those that are known
        self._planned = NodesBySlot()
        self._leased = NodesBySlot()
        self._leaving = NodesBySlot()
        self._staying = NodesBySlot()
        self._staying_at: dict[int, NodesBySlot] = {}  # the same by priority
        self._fixed = (self._staying, self._leased, self._leaving)  # who is settled
        self._all = (self._planned, *self._fixed)  # and those who are not
        self._scopes: OrderedDict[Constraints, Scope] = OrderedDict()
        self._large: set[Scope] = set()  # idle ones, that are not kept
        self._wide: dict[Scope, None] = {}
        self._floating: set[Scope] = set()  # those with unsettled claims
        self._surprising: set[Scope] = set()  # those of them that may land where they do not stand
        self._ranks: Counter[int] = Counter()  # of unsettled Pods that may preempt
        self._addresses: dict[ClaimId, dict[Slot, set[str]]] = {}  # of claims that stand, where one has any
        self._schedulable = 0
        self.changes = 0  # how often something came or went, for readers that keep what they have counted

    # -- nodes

    def put_node(self, node: Node) -> None:
        """A Node object appeared or changed."""
        self.changes += 1
        position = self._position(node.name)
        place = self._at(position)
        is_as_before = place.known and node.draws_as(place.node)
        place.node, place.known = node, True
        self._show(place)
        bit = 1 << position
        self._schedulable = self._schedulable & ~bit if node.unschedulable else self._schedulable | bit
        if is_as_before:
            return
        self._index.put(position, node)
        self._rescope_all(position)

    def drop_node(self, name: NodeName) -> None:
        """The Node object is gone. What stands there goes on standing there."""
        self.changes += 1
        position = self._positions.get(name)
        if position is None:
            return
        place = self._at(position)
        place.node, place.known = Node(name=name), False
        self._show(place)
        self._schedulable &= ~(1 << position)
        self._index.drop(position)
        self._rescope_all(position)
        self._forget_if_idle(position)

    def names(self) -> list[NodeName]:
        """Every node that is known or holds something, in order."""
        return list(self._names)

    def names_after(self, name: str, most: int) -> list[NodeName]:
        """The first names beyond one, in order; fewer than `most` only at the end."""
        return self._names.after(name, most)

    def is_named(self, name: str) -> bool:
        """Whether a node of this name is known or holds something."""
        position = self._positions.get(NodeName(name))
        return position is not None and self._at(position).is_shown

    def is_known(self, name: NodeName) -> bool:
        position = self._positions.get(name)
        return position is not None and self._at(position).known

    def known_count(self) -> int:
        return sum(1 for place in self._places if place is not None and place.known)

    def contains(self, nodes: int, name: NodeName) -> bool:
        position = self._positions.get(name)
        return position is not None and bool(nodes >> position & 1)

    def only(self, name: NodeName) -> int:
        """The set of that one node; empty where nothing names it."""
        position = self._positions.get(name)
        return 0 if position is None else 1 << position

    def names_of(self, nodes: int) -> Iterator[NodeName]:
        """The names of a set of nodes, in the order of positions."""
        while nodes:
            position = lowest(nodes)
            yield self._at(position).node.name
            nodes &= nodes - 1

    def pick(self, nodes: int) -> NodeName:
        """One node of a set that is not empty: a schedulable one if there is one."""
        return self._at(lowest(nodes & self._schedulable or nodes)).node.name

    def name_at(self, position: int) -> NodeName:
        return self._at(position).node.name

    def held_on(self, name: NodeName) -> Iterator[tuple[int, Claim]]:
        """Every number that is held on a node and by whom, in no order."""
        position = self._positions.get(name)
        if position is not None:
            for slot, holders in self._at(position).holders.items():
                for holder in holders:
                    yield number_of(slot), holder

    def held_within(self, name: NodeName, low: int, high: int) -> Iterator[Claim]:
        """Who holds a number of [low, high] on a node, in no order."""
        for slot, holders in self.held_by_slot(name).items() if low <= high else ():
            if low <= number_of(slot) <= high:
                yield from holders

    def held_by_slot(self, name: NodeName) -> Mapping[Slot, Holders]:
        """Every slot that is held on a node and by whom, in no order."""
        position = self._positions.get(name)
        return {} if position is None else self._at(position).holders

    def changed_on(self, name: NodeName) -> int:
        """The value of `changes` when something last came or went on a node."""
        position = self._positions.get(name)
        return 0 if position is None else self._at(position).changed

    def touch(self, name: NodeName | None) -> None:
        """What stands on a node looks different now, though nothing came or went."""
        self.changes += 1
        if name is not None:
            self._at(self._positions[name]).changed = self.changes

    @property
    def positions(self) -> int:
        """How many positions there are, vacant ones among them."""
        return len(self._places)

    def held_at(self, position: int) -> tuple[NodeName, Sequence[NumberSet], Mapping[Slot, Holders]] | None:
        """A node by its position: its name, sets of numbers that together are those held, and who holds each slot."""
        place = self._places[position]
        if place is None or not place.is_shown:
            return None
        return place.node.name, place.held(), place.holders

    def _position(self, name: NodeName) -> int:
        position = self._positions.get(name)
        if position is None:
            place = _Place(Node(name=name))
            if self._vacant:
                position = self._vacant.pop()
                self._places[position] = place
            else:
                position = len(self._places)
                self._places.append(place)
            self._positions[name] = position
        return position

    def _show(self, place: _Place) -> None:
        """Shows the name of a node that is known or holds something, and no other."""
        if place.is_shown == place.is_named:
            return
        place.is_named = place.is_shown
        (self._names.add if place.is_shown else self._names.discard)(place.node.name)

    def _at(self, position: int) -> _Place:
        place = self._places[position]
        if place is None:
            raise AssertionError(f"no node at position {position}")
        return place

    def _forget_if_idle(self, position: int) -> None:
        place = self._at(position)
        if place.is_shown or place.scopes:
            return
        del self._positions[place.node.name]
        self._places[position] = None
        self._vacant.append(position)

    # -- scopes

    def scope(self, constraints: Constraints) -> Scope:
        """The candidates of some constraints; kept, so that the next ask finds it ready."""
        scope = self._scopes.get(constraints)
        if scope is not None:
            self._scopes.move_to_end(constraints)
            return scope
        if constraints.node_name is not None:
            self._position(constraints.node_name)
        wanted, named = compiled(constraints), constraints.node_name
        nodes = self._index.accepting(wanted) if named is None else self.only(named)
        scope = self._scopes[constraints] = Scope(
            constraints, wanted, nodes, is_large=constraints.weight > LARGEST_IDLE
        )
        self._enrol(scope)
        if scope.is_large:
            self._large.add(scope)
        self._evict_idle_scopes()
        return scope

    def _enrol(self, scope: Scope) -> None:
        """From now on what changes on its nodes is counted in the scope."""
        scope.is_wide = scope.nodes.bit_count() > NARROW
        if scope.is_wide:
            self._wide[scope] = None
            return
        for position in bits(scope.nodes):
            self._at(position).scopes.append(scope)

    def _withdraw(self, scope: Scope) -> None:
        if scope.is_wide:
            del self._wide[scope]
            return
        for position in bits(scope.nodes):
            self._at(position).scopes.remove(scope)

    @property
    def scope_count(self) -> int:
        """How many scopes are kept."""
        return len(self._scopes)

    @property
    def wide_count(self) -> int:
        """How many scopes every change asks whether they have its node."""
        return len(self._wide)

    def _scopes_of(self, place: _Place, node: int) -> list[Scope]:
        """The scopes that have a node; `node`: the same as a set."""
        return [*place.scopes, *[scope for scope in self._wide if scope.nodes & node]]

    def _rescope_all(self, position: int) -> None:
        """Puts a node that changed into the scopes that accept it now, and takes it out of the others."""
        place = self._at(position)
        alone = NodeIndex.of(place.node) if place.known else NodeIndex()
        budget = MOST_RECOUNTED
        for scope in list(self._scopes.values()):
            named = scope.wanted.node_name
            is_in = alone.accepting(scope.wanted) != 0 if named is None else named == place.node.name
            if bool(scope.nodes >> position & 1) == is_in:
                continue
            if scope.covers:
                budget -= len(place.holders)
                if budget < 0:
                    scope.covers.clear()
            self._rescope(scope, position, now=is_in)

    def _rescope(self, scope: Scope, position: int, *, now: bool) -> None:
        """Puts a node into a scope, or takes it out."""
        place = self._at(position)
        self._withdraw(scope)
        scope.nodes ^= 1 << position
        self._enrol(scope)
        for slot, holders in place.holders.items() if scope.covers else ():
            cover, number = scope.covers.get(protocol_of(slot)), number_of(slot)
            if cover is None or not cover.has_built(number):
                continue
            (cover.arrive if now else cover.depart)(number)
            if any(holder.is_settled for holder in holders):
                (cover.settled.add if now else cover.settled.discard)(number)
        self._note_floats(scope)

    def _evict_idle_scopes(self) -> None:
        # The newest stays in any case: its caller is about to use it.
        newest = next(reversed(self._scopes))
        for scope in [each for each in self._large if each.constraints is not newest]:
            self._evict(scope)
        idle = len(self._scopes) - len(self._floating) - IDLE_SCOPES
        if idle <= 0:
            return
        others = (each for each in self._scopes.values() if each not in self._floating)
        for scope in list(islice(others, idle)):
            if scope.constraints is not newest:
                self._evict(scope)

    def _evict(self, scope: Scope) -> None:
        del self._scopes[scope.constraints]
        self._large.discard(scope)
        self._withdraw(scope)
        for position in () if scope.is_wide else bits(scope.nodes):
            self._forget_if_idle(position)

    def _cover(self, scope: Scope, protocol: Protocol, low: int, high: int) -> Cover:
        """The counts of a scope, with all the blocks of [low, high]."""
        cover = scope.covers.get(protocol)
        if cover is None or cover.missing(low, high):
            self.count(scope, protocol, self.missing(scope, protocol, low, high))
            cover = scope.covers[protocol]
        return cover

    def missing(self, scope: Scope, protocol: Protocol, low: int, high: int) -> list[int]:
        """The blocks of [low, high] that have not been counted yet for a scope."""
        cover = scope.covers.get(protocol)
        if cover is None:
            cover = scope.covers[protocol] = Cover()
        blocks = cover.missing(low, high)
        return [low // BLOCK + at for at in bits(blocks)] if blocks else []

    def count(self, scope: Scope, protocol: Protocol, blocks: Sequence[int]) -> None:
        """Counts some blocks, which then are not missing any more."""
        cover = scope.covers[protocol]
        if not blocks:
            return
        if self.goes_through_nodes(scope, len(blocks)):
            self._count_nodes(scope, cover, protocol, blocks)
            return
        few = self._few_slots(protocol)
        for block in blocks:
            slots = slots_of(protocol, range(block * BLOCK, (block + 1) * BLOCK))
            self._build(scope, cover, block, slots if few is None else few.get(block, ()))

    def goes_through_nodes(self, scope: Scope, blocks: int) -> bool:
        """Whether so many blocks are counted by looking at what each node has, as that is less than their numbers."""
        if scope.is_wide:
            return False
        places = (self._at(position) for position in bits(scope.nodes))
        return sum(1 if place.sets is not None else 1 + len(place.holders) for place in places) < blocks * BLOCK

    def _count_nodes(self, scope: Scope, cover: Cover, protocol: Protocol, blocks: Sequence[int]) -> None:
        """Counts blocks for the first time by going through the nodes."""
        low, high = blocks[0] * BLOCK, blocks[-1] * BLOCK + BLOCK - 1
        held: Planes = []
        settled: Planes = []
        for position in bits(scope.nodes):
            here, of_settled = self._at(position).numbers(protocol, low, high)
            if here:
                held = plus(held, [here])
            if of_settled:
                settled = plus(settled, [of_settled])
        for first, last in _runs(blocks):
            at, size = (first - blocks[0]) * BLOCK, (last - first + 1) * BLOCK
            cover.build(first, last, _part(held, at, size), _part(settled, at, size))

    def _few_slots(self, protocol: Protocol) -> dict[int, list[Slot]] | None:
        """All that is held of a protocol anywhere, by block, where that is little; else None."""
        if sum(map(len, self._all)) >= BLOCK:
            return None
        found: dict[int, list[Slot]] = {}
        for slot in {slot for kind in self._all for slot in kind.slots()}:
            if protocol_of(slot) is protocol:
                found.setdefault(number_of(slot) // BLOCK, []).append(slot)
        return found

    def _build(self, scope: Scope, cover: Cover, block: int, slots: Iterable[Slot]) -> None:
        """Counts the numbers of a block for the first time. `slots`: all that may be held of it, and maybe more."""
        nodes, base, size = scope.nodes, block * BLOCK, scope.nodes.bit_count()
        fixed = [index.lookup for index in self._fixed if index]
        planned_at = self._planned.lookup
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

    # -- claims

    def stand(self, claim: Claim) -> None:
        """The claim's ports are held on its node, and wherever it may still land."""
        self.changes += 1
        keys, is_settled = _by_slot(claim), claim.is_settled
        if not is_settled:
            self._float(claim, keys, 1)
        if claim.node is None:
            return
        self._note_addresses(claim, keys)
        position = self._position(claim.node)
        place, kinds = self._at(position), self._kinds_of(claim)
        place.changed = self.changes
        place.stands += 1
        if place.stands == 1:
            self._show(place)
        node = 1 << position
        scopes, alone = self._scopes_of(place, node), (claim,)  # one object for all slots that nobody else holds
        for slot, ip in keys:
            others = place.holders.get(slot, ())
            if not others:
                place.holders[slot] = alone
                _arrive(scopes, slot, is_first=True, is_settled=is_settled)
            elif others[-1] is not claim:  # it may have the slot already, on another address
                place.holders[slot] = (*others, claim)
                is_first_settled = is_settled and not any(holder.is_settled for holder in others)
                _arrive(scopes, slot, is_first=False, is_settled=is_first_settled)
            for nodes in kinds:
                nodes.add(slot, ip, node)
            if place.sets is not None:
                place.note(slot)
        place.weigh()

    def leave(self, claim: Claim) -> None:
        """Undoes `stand` of the very same claim."""
        self.changes += 1
        keys = _by_slot(claim)
        if not claim.is_settled:
            self._float(claim, keys, -1)
        if claim.node is None:
            return
        position = self._positions[claim.node]
        place = self._at(position)
        place.changed = self.changes
        place.stands -= 1
        if not place.stands:
            self._show(place)
        node = 1 << position
        scopes, kinds = self._scopes_of(place, node), self._kinds_of(claim)
        for slot, ip in keys:
            left = self._left(claim, place, slot)
            for nodes in kinds:
                if not left or not self._is_held(slot, ip, left, nodes):
                    nodes.discard(slot, ip, node)
            self._vacate(claim, place, slot, left, scopes)
            if place.sets is not None:
                place.note(slot)
        place.weigh()
        self._addresses.pop(claim.id, None)
        if claim.priority in self._staying_at and not self._staying_at[claim.priority]:
            del self._staying_at[claim.priority]
        self._forget_if_idle(position)

    def exchange(self, old: Claim, new: Claim) -> None:
        """The very same claim stands as another object, which differs in nothing that is counted here."""
        self.changes += 1
        if old.node is None:
            return
        place = self._at(self._positions[old.node])
        place.changed = self.changes
        alone = (new,)
        for slot, _ in _by_slot(old):
            holders = place.holders[slot]
            is_alone = len(holders) == 1
            place.holders[slot] = alone if is_alone else tuple(new if each is old else each for each in holders)

    def _note_addresses(self, claim: Claim, keys: Iterable[tuple[Slot, str]]) -> None:
        """Keeps the addresses of a claim by slot: a look through its ports for each slot would be slow."""
        if {ip for _, ip in keys} <= {WILDCARD}:
            return
        addresses = self._addresses[claim.id] = {}
        for slot, ip in keys:
            addresses.setdefault(slot, set()).add(ip)

    def _ips(self, holder: Claim, slot: Slot) -> Collection[str]:
        """The addresses on which somebody who stands holds a slot."""
        addresses = self._addresses.get(holder.id)
        return addresses[slot] if addresses else ANYWHERE_ALONE

    def _is_held(self, slot: Slot, ip: str, holders: Holders, nodes: NodesBySlot) -> bool:
        """Whether any of some holders that are kept in these nodes has the slot on the address."""
        return any(ip in self._ips(holder, slot) for holder in holders if nodes in self._kinds_of(holder))

    @staticmethod
    def _left(claim: Claim, place: _Place, slot: Slot) -> Holders:
        """The other holders of a slot."""
        holders = place.holders.get(slot, ())
        if len(holders) == 1 and holders[0] is claim:
            return ()
        return tuple(holder for holder in holders if holder is not claim)

    @staticmethod
    def _vacate(claim: Claim, place: _Place, slot: Slot, left: Holders, scopes: Iterable[Scope]) -> None:
        if not left:
            if place.holders.pop(slot, None):
                _depart(scopes, slot, is_last=True, is_settled=claim.is_settled)
        elif len(left) < len(place.holders[slot]):  # else it is gone already, with another address of the claim
            place.holders[slot] = left
            is_last_settled = claim.is_settled and not any(holder.is_settled for holder in left)
            _depart(scopes, slot, is_last=False, is_settled=is_last_settled)

    def _kinds_of(self, claim: Claim) -> tuple[NodesBySlot, ...]:
        """The nodes of the holders of this kind: they can be moved, stay, go by themselves, or may be preempted."""
        if not claim.is_settled:
            return (self._planned,)
        if claim.state is State.LEASED:
            return (self._leased,)
        if claim.is_terminating:
            return (self._leaving,)
        of_priority = self._staying_at.get(claim.priority)
        if of_priority is None:
            of_priority = self._staying_at[claim.priority] = NodesBySlot()
        return self._staying, of_priority

    def _float(self, claim: Claim, keys: Iterable[tuple[Slot, str]], change: int) -> None:
        scope = self.scope(claim.constraints)
        for slot, ip in keys:
            scope.float(slot, ip, change)
        floats, roaming = scope.floats, scope.roaming
        scope.floats += change
        scope.roaming += change if claim.node is None else 0
        if claim.may_preempt:
            self._ranks[claim.priority] += change
            if not self._ranks[claim.priority]:
                del self._ranks[claim.priority]
        if not (floats and scope.floats) or bool(roaming) != bool(scope.roaming):
            self._note_floats(scope)

    def _note_floats(self, scope: Scope) -> None:
        if scope.floats:
            self._floating.add(scope)
            self._large.discard(scope)
        else:
            self._floating.discard(scope)
            if scope.is_large:
                self._large.add(scope)
        (self._surprising.add if scope.can_surprise else self._surprising.discard)(scope)

    # -- questions about numbers

    def taken(self, scope: Scope, protocol: Protocol, low: int, high: int) -> int:
        """The numbers in [low, high] that are not free on every node of the scope, less `low`.

        A number is taken where somebody stands with it, whatever the address, and where an unsettled claim could land.
        """
        numbers = self._cover(scope, protocol, low, high).standing.within(low, high)
        for other in self._surprising:
            if other.meets(scope):
                numbers |= other.floating_numbers(protocol, low, high)
        return numbers

    def loads(self, scope: Scope, protocol: Protocol, low: int, high: int) -> Planes:
        """For each number of [low, high], less `low`: on how many of the scope's nodes somebody is settled with it, and
        how many unsettled claims with it could land in the scope. The rest of the nodes is the number's room.
        """
        return self.loads_and_stuck(scope, protocol, low, high)[0]

    def loads_and_stuck(self, scope: Scope, protocol: Protocol, low: int, high: int) -> tuple[Planes, int]:
        """What `loads` and `stuck` say, with one look at the counts."""
        loads = settled = self._cover(scope, protocol, low, high).settled.within(low, high)
        for other in self._floating:
            if other.meets(scope):
                loads = plus(loads, other.floating_planes(protocol, low, high))
        return loads, scope.on_all(settled, low, high)

    def stuck(self, scope: Scope, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] with which somebody is settled on every node of the scope, less `low`."""
        return scope.on_all(self._cover(scope, protocol, low, high).settled.within(low, high), low, high)

    def full(self, scope: Scope, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that somebody has on every node of the scope, less `low`."""
        return scope.on_all(self._cover(scope, protocol, low, high).held.within(low, high), low, high)

    def reached(self, scope: Scope) -> list[Scope]:
        """The scopes to which plans could be moved, one making room for the next; the scope itself is the first.

        Others may be among them where a chain of scopes is long.
        """
        return [scope, *self._met(scope.nodes, self._surprising - {scope})]

    @staticmethod
    def _met(nodes: int, left: set[Scope]) -> list[Scope]:
        """Those that share a node with some, or with one of them that does, and so on.

        Not more is proven than that nothing else does: after some rounds all that are left are given. Else a chain of
        scopes, each with a node in common with the next one, would take their number squared.
        """
        found: list[Scope] = []
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

    def conflicting(self, key: PortKey) -> int:
        """The nodes on which somebody stands whose port conflicts with the key."""
        return conflicting(self._all, key)

    def planned(self, key: PortKey) -> int:
        """The nodes with a plan whose port conflicts with the key."""
        return self._planned.conflicting(key)

    def settled(self, key: PortKey) -> int:
        """The nodes on which somebody is settled, not planned, whose port conflicts with the key."""
        return conflicting(self._fixed, key)

    def staying(self, key: PortKey, rank: int | None) -> int:
        """The nodes with a conflicting holder that will not go: a lease, or a Pod that neither terminates nor may be
        preempted by a Pod of this rank, its priority. None: it preempts nobody.
        """
        nodes = self._leased.conflicting(key)
        if rank is None:
            return nodes | self._staying.conflicting(key)
        return nodes | conflicting((nodes for priority, nodes in self._staying_at.items() if priority >= rank), key)

    @property
    def priorities(self) -> int:
        """How many priorities those have who stay: `staying` looks at each of them."""
        return len(self._staying_at)

    def leaving_slots(self) -> Iterator[Slot]:
        """The slots that a terminating Pod holds anywhere."""
        return self._leaving.slots()

    def preemptable_slots(self, rank: int) -> Iterator[Slot]:
        """The slots that a Pod holds anywhere which a Pod of this rank may preempt; others, where priorities are many.

        Some come more than once.
        """
        lower = [nodes for priority, nodes in self._staying_at.items() if priority < rank]
        for nodes in lower if len(lower) <= FEW_PRIORITIES else (self._staying,):
            yield from nodes.slots()

    def some_leave(self, rank: int | None) -> bool:
        """Whether anybody at all terminates or may be preempted by a Pod of this rank."""
        if self._leaving:
            return True
        return rank is not None and min(self._staying_at, default=rank) < rank

    def planned_at(self, slot: Slot) -> int:
        """The nodes with a plan that has the slot, on whatever address."""
        return self._planned.of_slot(slot)

    def addressed(self) -> Iterator[Slot]:
        """The slots that an unsettled claim has on one address only."""
        return (slot for scope in self._floating for slot in scope.addressed)

    @property
    def highest_rank(self) -> int | None:
        """The highest priority of an unsettled Pod that may preempt; None where there is none."""
        return max(self._ranks, default=None)

    def reach(self, key: PortKey, nodes: int) -> int:
        """The nodes to which plans that have the key's number could be moved, one making room for the next.

        They are moved out of `nodes`, which are among them. Others may be among them where a chain of scopes is long.
        """
        for other in self._met(nodes, {other for other in self._surprising if _has(other, key)}):
            nodes |= other.nodes
        return nodes

    @property
    def has_leases(self) -> bool:
        """Whether there is any lease."""
        return bool(self._leased)

    def leased(self, key: PortKey) -> int:
        """The nodes with a lease that conflicts with the key."""
        return self._leased.conflicting(key)

    def leased_numbers(self, scope: Scope, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that are leased on every address of any of the scope's nodes, less `low`."""
        slots, within, leased = slots_of(protocol, range(low, high + 1)), scope.nodes, self._leased.anywhere
        if len(slots) <= len(leased):
            at = leased.get
            return int(bytes([ONE if at(slot, 0) & within else ZERO for slot in reversed(slots)]), 2)
        digits = bytearray(b"0") * len(slots)
        for slot, nodes in leased.items():
            if nodes & within and slot in slots:
                digits[high - number_of(slot)] = ONE
        return int(digits, 2)

    def landable(self, key: PortKey) -> int:
        """The nodes on which an unsettled claim with a port that conflicts with the key could land, or stands."""
        nodes = self._planned.conflicting(key)
        for scope in self._surprising:
            if scope.floats_into(key):
                nodes |= scope.nodes
        return nodes

    def holders(self, name: NodeName, key: PortKey) -> Holders:
        """Who stands on the node with a port that conflicts with the key, in order of arrival."""
        position = self._positions.get(name)
        if position is None:
            return ()
        return self.holders_at(position, key)

    def holders_at(self, position: int, key: PortKey) -> Holders:
        """The same, of a node by its position."""
        holders = self._at(position).holders.get(key.slot, ())
        if key.ip == WILDCARD:
            return holders
        return tuple(holder for holder in holders if key.ip in (ips := self._ips(holder, key.slot)) or WILDCARD in ips)

    def holders_of(self, position: int, slot: Slot) -> Holders:
        """Who holds a slot of a node, on whatever address."""
        return self._at(position).holders.get(slot, ())

    def port_map(self, name: NodeName) -> list[tuple[PortKey, Claim]]:
        """Every port of a node and its holder, ordered by protocol, number, address and claim."""
        position = self._positions.get(name)
        if position is None:
            return []
        claims = {holder.id: holder for holders in self._at(position).holders.values() for holder in holders}
        held = [(key, claim) for claim in claims.values() for key in claim.keys]
        return sorted(held, key=lambda entry: (entry[0].protocol.value, entry[0].number, entry[0].ip, entry[1].id))


def _arrive(scopes: Iterable[Scope], slot: Slot, *, is_first: bool, is_settled: bool) -> None:
    """A node of the scopes has a holder more: the first one there, or the first that is settled, or neither."""
    protocol, number = protocol_of(slot), number_of(slot)
    for scope in scopes:
        cover = scope.covers.get(protocol)
        if cover is None or not cover.has_built(number):
            continue
        if is_first:
            cover.arrive(number)
        if is_settled:
            cover.settled.add(number)


def _depart(scopes: Iterable[Scope], slot: Slot, *, is_last: bool, is_settled: bool) -> None:
    """A node of the scopes has a holder less: the last one there, or the last that is settled, or neither."""
    protocol, number = protocol_of(slot), number_of(slot)
    for scope in scopes:
        cover = scope.covers.get(protocol)
        if cover is None or not cover.has_built(number):
            continue
        if is_last:
            cover.depart(number)
        if is_settled:
            cover.settled.discard(number)


def _has(scope: Scope, key: PortKey) -> bool:
    """Whether an unsettled claim of the scope has the key's protocol and number, on whatever address."""
    counts = scope.floating.get(key.protocol)
    return counts is not None and counts.has(key.number)


def _by_slot(claim: Claim) -> list[tuple[Slot, str]]:
    """The slots of a claim, one object for all maps that each goes into, with the address of each.

    Each once: a socket may have two names.
    """
    keys = [(slot_of(port.protocol, port.host_port), normalise_ip(port.host_ip)) for port in claim.ports]
    return keys if len(keys) == 1 else list(dict.fromkeys(keys))


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
