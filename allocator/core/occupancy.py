"""Which port is held where, indexed so that a decision does not look at every node.

Every claim *stands* on at most one node: the one that it is bound to, or the one that it is planned on. Three indexes
follow from that; they change only in `stand`, `leave` and the node methods:

* node → slot → the claims that hold it: the truth, with all of them, so that one of two may leave;
* slot → address → set of nodes, as a bitmap over node positions: on which nodes does an ask conflict?
  One union answers for all nodes at once. There are two more, of those who are settled and of leases alone, since plans
  can be moved and the scheduler does not know leases;
* scope → protocol → set of numbers that stand on any of its nodes: which numbers are free on *every* candidate?

A *scope* is the candidate set of equal constraints. A claim without a node may land anywhere in its scope, so its
numbers count as taken for every scope that shares a node with it (`floating`).

Invariants: a scope's `nodes` is the set of nodes that its constraints accept; its `standing` holds exactly the numbers
that some claim has on those nodes; `floating` counts exactly the unsettled claims of that scope.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import Claim, State
from allocator.core.ordered import Ordered
from allocator.core.ports import WILDCARD, NumberSet, PortKey, Protocol, Slot, lowest, number_of, protocol_of, slot_of
from allocator.core.slots import CountedNodesBySlot, NodesBySlot, bits

IDLE_SCOPES = 64
"""How many scopes without floating claims are kept for the next ask with the same constraints."""


Holders = tuple[Claim, ...]
"""The claims that hold a slot of a node, on whatever address, in order of arrival. Nearly always one."""


def _number_sets() -> dict[Protocol, NumberSet]:
    return {protocol: NumberSet() for protocol in Protocol}


@dataclass(slots=True, eq=False)
class Scope:
    """The candidate nodes of equal constraints, as a bitmap over node positions, and what is taken there."""

    constraints: Constraints
    nodes: int = 0
    standing: dict[Protocol, NumberSet] = field(default_factory=_number_sets)
    settled: dict[Slot, int] = field(default_factory=dict)  # on how many of its nodes somebody is settled with it
    floating: dict[Slot, int] = field(default_factory=dict)
    floating_numbers: dict[Protocol, NumberSet] = field(default_factory=_number_sets)

    def meets(self, other: Scope) -> bool:
        """Whether a claim of one may land where a claim of the other may. A scope always meets itself."""
        return self is other or self.nodes & other.nodes != 0

    def is_single(self) -> bool:
        return self.nodes & (self.nodes - 1) == 0 and self.nodes != 0


@dataclass(slots=True, eq=False)
class _Place:
    """A node by name. It exists as long as a Node object, or something that stands there, names it."""

    node: Node
    known: bool = False
    changed: int = 0  # the value of `changes` when something last came or went here
    holders: dict[Slot, Holders] = field(default_factory=dict)
    scopes: list[Scope] = field(default_factory=list)


class Occupancy:
    """The mutable index. Its caller decides what may stand where; nothing is checked here."""

    def __init__(self) -> None:
        self._places: list[_Place | None] = []  # by position; None: vacant
        self._positions: dict[NodeName, int] = {}
        self._names: Ordered[NodeName] = Ordered()
        self._vacant: list[int] = []
        self._standing = NodesBySlot()
        self._settled = NodesBySlot()
        self._leased = CountedNodesBySlot()
        self._leaving = CountedNodesBySlot()
        self._priorities: Counter[int] = Counter()  # of settled Pods
        self._scopes: OrderedDict[Constraints, Scope] = OrderedDict()
        self._floating: set[Scope] = set()
        self._schedulable = 0
        self.changes = 0  # how often something came or went, for readers that keep what they have counted

    # -- nodes

    def put_node(self, node: Node) -> None:
        """A Node object appeared or changed."""
        self.changes += 1
        position = self._position(node.name)
        place = self._at(position)
        place.node, place.known = node, True
        bit = 1 << position
        self._schedulable = self._schedulable & ~bit if node.unschedulable else self._schedulable | bit
        for scope in list(self._scopes.values()):
            self._rescope(scope, position)

    def drop_node(self, name: NodeName) -> None:
        """The Node object is gone. What stands there goes on standing there."""
        self.changes += 1
        position = self._positions.get(name)
        if position is None:
            return
        place = self._at(position)
        place.node, place.known = Node(name=name), False
        self._schedulable &= ~(1 << position)
        for scope in list(self._scopes.values()):
            self._rescope(scope, position)
        self._forget_if_idle(position)

    def names(self) -> list[NodeName]:
        """Every node that is known or holds something, in order."""
        return list(self._names)

    def names_after(self, name: str, most: int) -> list[NodeName]:
        """The first names beyond one, in order; fewer than `most` only at the end."""
        return self._names.after(name, most)

    def is_named(self, name: str) -> bool:
        """Whether a node of this name is known or holds something."""
        return name in self._positions

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

    def held_on(self, name: NodeName) -> Iterator[tuple[int, Claim]]:
        """Every number that is held on a node and by whom, in no order."""
        position = self._positions.get(name)
        if position is not None:
            for slot, holders in self._at(position).holders.items():
                for holder in holders:
                    yield number_of(slot), holder

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

    def held_at(self, position: int) -> tuple[NodeName, set[int], Mapping[Slot, Holders]] | None:
        """A node by its position: its name, the numbers that are held, and who holds each slot."""
        place = self._places[position]
        if place is None:
            return None
        return place.node.name, {number_of(slot) for slot in place.holders}, place.holders

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
            self._names.add(name)
        return position

    def _at(self, position: int) -> _Place:
        place = self._places[position]
        if place is None:
            raise AssertionError(f"no node at position {position}")
        return place

    def _forget_if_idle(self, position: int) -> None:
        place = self._at(position)
        if place.known or place.holders or place.scopes:
            return
        del self._positions[place.node.name]
        self._names.discard(place.node.name)
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
        scope = self._scopes[constraints] = Scope(constraints)
        for position, place in enumerate(self._places):
            if place is not None and self._accepts(scope, place):
                scope.nodes |= 1 << position
                place.scopes.append(scope)
        for slot in self._slots(scope):
            scope.standing[protocol_of(slot)].add(number_of(slot))
            settled = (self._settled.of_slot(slot) & scope.nodes).bit_count()
            if settled:
                scope.settled[slot] = settled
        self._evict_idle_scopes()
        return scope

    def _slots(self, scope: Scope) -> Iterable[Slot]:
        """The slots that are held on a scope's nodes."""
        if scope.is_single():
            return self._at(lowest(scope.nodes)).holders
        return self._standing.slots_on(scope.nodes)

    @staticmethod
    def _accepts(scope: Scope, place: _Place) -> bool:
        return (place.known or scope.constraints.node_name is not None) and scope.constraints.accepts(place.node)

    def _rescope(self, scope: Scope, position: int) -> None:
        """Puts a node into a scope or takes it out, as the constraints say."""
        place, bit = self._at(position), 1 << position
        was, now = bool(scope.nodes & bit), self._accepts(scope, place)
        if now and not was:
            scope.nodes |= bit
            place.scopes.append(scope)
            for slot in place.holders:
                scope.standing[protocol_of(slot)].add(number_of(slot))
                self._refresh_settled(scope, slot)
        elif was and not now:
            scope.nodes &= ~bit
            place.scopes.remove(scope)
            for slot in place.holders:
                self._refresh(scope, slot)
                self._refresh_settled(scope, slot)

    def _refresh_settled(self, scope: Scope, slot: Slot) -> None:
        """Counts anew on how many nodes of the scope somebody is settled with the slot."""
        count = (self._settled.of_slot(slot) & scope.nodes).bit_count()
        if count:
            scope.settled[slot] = count
        else:
            scope.settled.pop(slot, None)

    def _refresh(self, scope: Scope, slot: Slot) -> None:
        """Clears a number that nobody on the scope's nodes has any more."""
        if not self._standing.of_slot(slot) & scope.nodes:
            scope.standing[protocol_of(slot)].discard(number_of(slot))

    def _evict_idle_scopes(self) -> None:
        idle = len(self._scopes) - len(self._floating) - IDLE_SCOPES
        if idle <= 0:
            return
        for constraints, scope in list(self._scopes.items()):
            # The newest stays in any case: its caller is about to use it.
            if idle <= 0 or scope is next(reversed(self._scopes.values())):
                return
            if scope not in self._floating:
                del self._scopes[constraints]
                for position in bits(scope.nodes):
                    self._at(position).scopes.remove(scope)
                    self._forget_if_idle(position)
                idle -= 1

    # -- claims

    def stand(self, claim: Claim) -> None:
        """The claim's ports are held on its node, and wherever it may still land."""
        self.changes += 1
        keys, is_settled = _by_slot(claim), claim.is_settled
        if not is_settled:
            self._float(self.scope(claim.constraints), keys, 1)
        if claim.node is None:
            return
        position = self._position(claim.node)
        place = self._at(position)
        place.changed = self.changes
        alone = (claim,)  # one object for all slots that nobody else holds
        for slot, key in keys:
            others = place.holders.get(slot, ())
            if is_settled:
                self._settle(claim, place, position, slot, key.ip, others)
            if not others:
                place.holders[slot] = alone
            elif others[-1] is not claim:  # it may have the slot already, on another address
                place.holders[slot] = (*others, claim)
            self._standing.add(slot, key.ip, position)
            for scope in place.scopes:
                scope.standing[key.protocol].add(key.number)
        if is_settled:
            self._count_priority(claim, 1)

    def leave(self, claim: Claim) -> None:
        """Undoes `stand` of the very same claim."""
        self.changes += 1
        keys = _by_slot(claim)
        if not claim.is_settled:
            self._float(self.scope(claim.constraints), keys, -1)
        if claim.node is None:
            return
        position = self._positions[claim.node]
        place = self._at(position)
        place.changed = self.changes
        for slot, key in keys:
            self._vacate(claim, place, position, slot, key)
        if claim.is_settled:
            for slot, key in keys:
                self._unsettle(claim, place, position, slot, key)
            self._count_priority(claim, -1)
        self._forget_if_idle(position)

    def _settle(self, claim: Claim, place: _Place, position: int, slot: Slot, ip: str, earlier: Holders) -> None:
        self._settled.add(slot, ip, position)
        if claim.state is State.LEASED:
            self._leased.add(slot, ip, position)
        if claim.is_terminating:
            self._leaving.add(slot, ip, position)
        if not any(holder.is_settled for holder in earlier):
            for scope in place.scopes:
                scope.settled[slot] = scope.settled.get(slot, 0) + 1

    def _unsettle(self, claim: Claim, place: _Place, position: int, slot: Slot, key: PortKey) -> None:
        left = [holder for holder in place.holders.get(slot, ()) if holder.is_settled]
        if not any(key in holder.keys for holder in left):
            self._settled.discard(slot, key.ip, position)
        if claim.state is State.LEASED:
            self._leased.discard(slot, key.ip, position)
        if claim.is_terminating:
            self._leaving.discard(slot, key.ip, position)
        if not left:
            for scope in place.scopes:
                self._refresh_settled(scope, slot)

    def _count_priority(self, claim: Claim, change: int) -> None:
        if claim.owner.is_pod:
            self._priorities[claim.priority] += change
            if not self._priorities[claim.priority]:
                del self._priorities[claim.priority]

    def _vacate(self, claim: Claim, place: _Place, position: int, slot: Slot, key: PortKey) -> None:
        left = tuple(holder for holder in place.holders.get(slot, ()) if holder is not claim)
        if not any(key in holder.keys for holder in left):
            self._standing.discard(slot, key.ip, position)
        if left:
            place.holders[slot] = left
            return
        place.holders.pop(slot, None)  # it may be gone already, with another address of the claim
        for scope in place.scopes:
            self._refresh(scope, slot)

    def _float(self, scope: Scope, keys: Iterable[tuple[Slot, PortKey]], change: int) -> None:
        for slot, key in keys:
            count = scope.floating.get(slot, 0) + change
            if count:
                scope.floating[slot] = count
                scope.floating_numbers[key.protocol].add(key.number)
            else:
                del scope.floating[slot]
                scope.floating_numbers[key.protocol].discard(key.number)
        if scope.floating:
            self._floating.add(scope)
        else:
            self._floating.discard(scope)

    # -- questions

    def taken(self, scope: Scope, protocol: Protocol, low: int, high: int) -> int:
        """The numbers in [low, high] that are not free on every node of the scope, less `low`.

        A number is taken where somebody stands with it, whatever the address, and where an unsettled claim could land.
        """
        numbers = scope.standing[protocol].within(low, high)
        for other in self._floating:
            if other.meets(scope):
                numbers |= other.floating_numbers[protocol].within(low, high)
        return numbers

    def gap(self, scope: Scope, protocol: Protocol, low: int, reserved: int) -> int:
        """The lowest number from `low` on that is not reserved and with which nobody stands on the scope's nodes."""
        return scope.standing[protocol].gap(low, reserved)

    def taken_on(self, name: NodeName, protocol: Protocol, low: int, high: int) -> int:
        """What `taken` says, of one node, without keeping a scope for it."""
        position = self._positions.get(name)
        numbers = 0
        if position is None:
            return numbers
        for slot in self._at(position).holders:
            number = number_of(slot)
            if protocol_of(slot) is protocol and low <= number <= high:
                numbers |= 1 << (number - low)
        for scope in self._floating:
            if scope.nodes >> position & 1:
                numbers |= scope.floating_numbers[protocol].within(low, high)
        return numbers

    def conflicting(self, key: PortKey) -> int:
        """The nodes on which somebody stands whose port conflicts with the key."""
        return self._standing.conflicting(key)

    def settled(self, key: PortKey) -> int:
        """The nodes on which somebody is settled, not planned, whose port conflicts with the key."""
        return self._settled.conflicting(key)

    def rooms(self, scope: Scope, protocol: Protocol, numbers: Sequence[int]) -> list[int]:
        """How many more claims could land in the scope with each number, as far as counting tells.

        Free candidates, less the unsettled claims that could land on them.
        """
        size, settled = scope.nodes.bit_count(), scope.settled.get
        slots = [slot_of(protocol, number) for number in numbers]
        rooms = [size - settled(slot, 0) for slot in slots]
        for other in self._floating:
            if other.meets(scope):
                floating = other.floating.get
                rooms = [room - floating(slot, 0) for room, slot in zip(rooms, slots, strict=True)]
        return rooms

    def leaving(self, key: PortKey) -> int:
        """The nodes on which a terminating Pod holds a port that conflicts with the key."""
        return self._leaving.conflicting(key)

    def lowest_priority(self) -> int:
        """Of all Pods that are settled; 0 where there are none."""
        return min(self._priorities, default=0)

    def reach(self, key: PortKey, scope: Scope) -> int:
        """The nodes to which plans that have the key's number could be moved, one making room for the next."""
        slot = key.slot
        left = {other for other in self._floating if slot in other.floating}
        nodes = scope.nodes
        while met := {other for other in left if other.nodes & nodes}:
            left -= met
            for other in met:
                nodes |= other.nodes
        return nodes

    def leased(self, key: PortKey) -> int:
        """The nodes with a lease that conflicts with the key."""
        return self._leased.conflicting(key)

    def landable(self, key: PortKey) -> int:
        """The nodes on which an unsettled claim with this protocol and number, on any address, could land."""
        nodes, slot = 0, key.slot
        for scope in self._floating:
            if slot in scope.floating:
                nodes |= scope.nodes
        return nodes

    def holders(self, name: NodeName, key: PortKey) -> Holders:
        """Who stands on the node with a port that conflicts with the key, in order of arrival."""
        position = self._positions.get(name)
        if position is None:
            return ()
        holders = self._at(position).holders.get(key.slot, ())
        if key.ip == WILDCARD:
            return holders
        return tuple(holder for holder in holders if any(key.conflicts_with(other) for other in holder.keys))

    def port_map(self, name: NodeName) -> list[tuple[PortKey, Claim]]:
        """Every port of a node and its holder, ordered by protocol, number, address and claim."""
        position = self._positions.get(name)
        if position is None:
            return []
        claims = {holder.id: holder for holders in self._at(position).holders.values() for holder in holders}
        held = [(key, claim) for claim in claims.values() for key in claim.keys]
        return sorted(held, key=lambda entry: (entry[0].protocol.value, entry[0].number, entry[0].ip, entry[1].id))


def _by_slot(claim: Claim) -> list[tuple[Slot, PortKey]]:
    """The keys of a claim, each with its slot: one object for all maps that it goes into."""
    return [(key.slot, key) for key in claim.keys]
