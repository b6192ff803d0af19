"""Which port is held on which node, indexed so that a decision does not look at every node.

Longer than 350 lines because it is one relation, kept from both sides: node → slot → holders, and slot → nodes.

A set of nodes is an `int` whose bit n says that the node at position n is in the set. A node has its position as long
as a Node object, something that stands there, a number that cools there, or a candidate set names it. Then the position
is vacant, and given to the next node.

Kept are for a node the holders of each slot (`NodeEntry.holders`, the truth, with all
of them, so that one of two may leave), and for a slot the nodes where it is held (`NodesBySlot`). Holders are named by
their ids, so that a claim of which nothing but the end is new changes nothing here.

Every claim *stands* on at most one node: the one that it is bound to, or the one that it is planned on. There is one
map from slots to nodes for each kind of holder, since kinds differ in what may be done about them: a plan can be moved,
a terminating Pod goes by itself, a Pod of lower priority may be preempted, and of a lease the scheduler knows nothing.

The nodes, the candidate sets and these maps follow the claims in `PortIndex.stand` and `leave`, and the Node objects in
`CandidateSets.put_node` and `drop_node`. Nothing is checked here: the caller decides what may stand where.

Invariant: every map of nodes by slot has exactly the ports of the claims of its kind.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, islice
from operator import or_
from typing import Generic, TypeVar

from allocator.core.addresses import NOWHERE, NodeAddress
from allocator.core.blocks import BlockMap, block_of, first_of, length_of, numbers_of, slots_in, within
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import Claim, ClaimId, State
from allocator.core.index import blocks
from allocator.core.index.candidate_sets import (
    MANY_KEYS,
    CandidateSet,
    CandidateSets,
    Counted,
    HeldNumbers,
    arrive,
    depart,
    pass_on,
)
from allocator.core.index.nodes_by_block import NodesByBlock, NodesOnAddresses
from allocator.core.index.sockets import SocketIndex
from allocator.core.ports import (
    LAST_SLOT,
    WILDCARD,
    NumberSet,
    PortKey,
    Protocol,
    Slot,
    canonical_ip,
    lowest,
    number_of,
    protocol_of,
    slot_of,
    slots_and_addresses,
    slots_of,
    span,
)
from allocator.core.sockets import ELSEWHERE, Listener, NodeSockets, shared_address

S = TypeVar("S", bound=str)

MOST_OPEN = 512
"""Sockets of a node that are looked at to tell whether a process is in the way: a denial asks so of several nodes."""

LONGEST_RUN = 1024
"""A run that grows beyond is cut in two."""


class OrderedKeys(Generic[S]):
    """A set of strings that stay in order as they come and go, so that nobody sorts them to show a page.

    They lie in runs of bounded length, one after the other: to add or take one moves a part of one run, whatever the
    number of keys.
    """

    def __init__(self) -> None:
        self._runs: list[list[S]] = []
        self._lasts: list[S] = []  # the last key of each run

    def __iter__(self) -> Iterator[S]:
        """All of them. Nothing may come or go meanwhile."""
        for run in self._runs:
            yield from run

    def add(self, key: S) -> None:
        """A key that is not there."""
        if not self._runs:
            self._runs.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._runs) - 1)
        run = self._runs[at]
        insort(run, key)
        if len(run) > LONGEST_RUN:
            half = len(run) // 2
            self._runs[at : at + 1] = [run[:half], run[half:]]
            self._lasts[at : at + 1] = [run[half - 1], run[-1]]
        else:
            self._lasts[at] = run[-1]

    def discard(self, key: S) -> None:
        """A key that may be there."""
        at = bisect_left(self._lasts, key)
        if at == len(self._runs):
            return
        run = self._runs[at]
        place = bisect_left(run, key)
        if run[place] != key:
            return
        del run[place]
        if run:
            self._lasts[at] = run[-1]
        else:
            del self._runs[at], self._lasts[at]

    def after(self, key: str, most: int) -> list[S]:
        """The first keys beyond one, which need not be there; fewer than `most` only where the end is reached."""
        found: list[S] = []
        at = bisect_right(self._lasts, key)
        while len(found) < most and at < len(self._runs):
            run = self._runs[at]
            begin = 0 if found else bisect_right(run, key)
            found += run[begin : begin + most - len(found)]
            at += 1
        return found


MANY_PORTS = 512
"""A node with so many held slots keeps them as sets besides: to go through them for each new set would be slow."""

ANYWHERE_ALONE = (WILDCARD,)

Holders = tuple[ClaimId, ...]
"""The claims that hold a slot of a node, on whatever address, in order of arrival. Nearly always one."""


class NodesBySlot:
    """Slot → address → set of nodes. The wildcard, which nearly all ports have, has a map of its own.

    A block is one entry of `blocks`, by address, and none of the others. `is_plain`: nothing is in the other maps.
    """

    __slots__ = ("_on_some", "anywhere", "blocks", "by_ip", "is_plain", "on_addresses")

    def __init__(self) -> None:
        self.anywhere: dict[Slot, int] = {}
        self.by_ip: dict[Slot, dict[str, int]] = {}
        self._on_some: dict[Slot, int] = {}  # the nodes of all addresses, of slots that were asked about since a change
        self.blocks: dict[str, NodesByBlock] = {}
        self.on_addresses = NodesOnAddresses()
        self.is_plain = True

    def __bool__(self) -> bool:
        """Whether any slot or block has a node."""
        return bool(self.anywhere or self.by_ip or self.blocks)

    def __len__(self) -> int:
        """How many slots and blocks have any node, on the wildcard and on addresses."""
        return len(self.anywhere) + len(self.by_ip) + sum(map(len, self.blocks.values()))

    def add(self, slot: Slot, ip: str, node: int) -> None:
        """Adds a node, as a set. Slot and node are the caller's objects: one for all indexes."""
        if ip == WILDCARD:
            self.anywhere[slot] = self.anywhere.get(slot, 0) | node
            return
        by_ip = self.by_ip.setdefault(slot, {})
        by_ip[ip] = by_ip.get(ip, 0) | node
        if slot in self._on_some:
            self._on_some[slot] |= node
        self.is_plain = False

    def discard(self, slot: Slot, ip: str, node: int) -> None:
        """Takes out a node, as a set, that may be there."""
        if ip == WILDCARD:
            _discard(self.anywhere, slot, node)
            return
        by_ip = self.by_ip.get(slot, {})
        _discard(by_ip, ip, node)
        self._on_some.pop(slot, None)
        if not by_ip:
            self.by_ip.pop(slot, None)
            self.note_whether_plain()

    def note_whether_plain(self) -> None:
        """Follows what has gone from `by_ip` or `blocks`."""
        self.is_plain = not (self.by_ip or self.blocks)

    def conflicting(self, key: PortKey) -> int:
        """The nodes with a port that conflicts with the key."""
        return conflicting((self,), key)

    def of_slot(self, slot: Slot) -> int:
        """The nodes with this protocol and number, or with any number of a block, on any address."""
        if slot > LAST_SLOT:
            return blocks.conflicting((self,), slot, WILDCARD)
        return self.of_single(slot) | blocks.in_blocks(self, slot, WILDCARD) if self.blocks else self.of_single(slot)

    def of_single(self, slot: Slot) -> int:
        """The same of a slot, less the nodes where a block has it."""
        nodes = self.anywhere.get(slot, 0)
        if self.by_ip and slot in self.by_ip:  # hardly ever
            on_some = self._on_some.get(slot)
            if on_some is None:  # there may be thousands of addresses
                on_some = self._on_some[slot] = reduce(or_, self.by_ip[slot].values())
            nodes |= on_some
        return nodes

    def on_address(self, slot: Slot, ip: str) -> int:
        """The nodes with a slot on this very address; there is some with it on an address."""
        return self.by_ip[slot].get(ip, 0)

    def lookup(self, slots: Iterable[Slot], whole: Slot) -> Callable[[Slot, int], int]:
        """`of_slot` for many slots in a row, all of a block, while nothing changes; its second argument is 0."""
        if self.blocks:
            return blocks.lookup(self, slots, whole)
        return (lambda slot, _: self.of_single(slot)) if self.by_ip else self.anywhere.get

    def slots(self) -> Iterator[Slot]:
        """The slots, and blocks, with any node."""
        slots = iter(self.anywhere.keys() | self.by_ip.keys() if self.by_ip else self.anywhere)
        return chain(slots, *(each.values for each in self.blocks.values())) if self.blocks else slots


def conflicting(indexes: Iterable[NodesBySlot], key: PortKey) -> int:
    """The nodes that have a port, in any of the indexes, that conflicts with the key."""
    ip, slot, nodes = key.ip, key.slot, 0
    if slot > LAST_SLOT:
        return blocks.conflicting(indexes, slot, ip)
    for index in indexes:
        if slot in index.anywhere:
            here = index.anywhere[slot]
            nodes = nodes | here if nodes else here  # to unite a large set with nothing would copy it
        if not index.is_plain:
            if slot in index.by_ip:
                nodes |= index.of_single(slot) if ip == WILDCARD else index.on_address(slot, ip)
            nodes |= blocks.in_blocks(index, slot, ip)
    return nodes


K = TypeVar("K")


def _discard(sets: dict[K, int], key: K, node: int) -> None:
    """Takes a node out of one of some sets; an empty one is forgotten."""
    nodes = sets.get(key, 0) & ~node
    if nodes:
        sets[key] = nodes
    else:
        sets.pop(key, None)


@dataclass(slots=True)
class _Held:
    """The numbers of one protocol that somebody has on a node, and those that somebody settled has."""

    held: NumberSet = field(default_factory=NumberSet)
    settled: NumberSet = field(default_factory=NumberSet)


@dataclass(slots=True, eq=False)
class NodeEntry:
    """A node by name. What a candidate set alone names is shown to nobody: somebody asked, and may have got nothing."""

    node: Node
    claims: Mapping[ClaimId, Claim]  # all that there are: the holders by id
    addresses: Mapping[ClaimId, Mapping[Slot, Collection[str]]]  # of holders that hold some slot on an address
    alone: int  # the set of this node
    known: bool = False  # whether there is a Node object
    is_named: bool = False  # among the names that are shown
    stands: int = 0  # claims that stand here, those without ports among them
    in_sets: int = 0  # the narrow candidate sets that have it
    cooling: int = 0  # ports that were given up here lately
    changed: int = 0  # the value of `changes` when something last came or went here
    holders: dict[Slot, Holders] = field(default_factory=dict)
    sets: dict[Protocol, _Held] | None = None  # the same as `holders` and `blocks`, where those are many
    blocks: BlockMap[Holders] | None = None  # likewise, of ports with several numbers; None: there are none
    sockets: NodeSockets | None = None  # what its agent reports; None: nothing

    @property
    def is_shown(self) -> bool:
        """Whether it is known or holds something."""
        return self.known or self.stands > 0

    def is_settled(self, holders: Holders) -> bool:
        """Whether any of some holders is settled."""
        claims = self.claims
        for holder in holders:  # noqa: SIM110 - in the way of every change, and a generator takes twice as long
            if claims[holder].is_settled:
                return True
        return False

    def holders_of(self, slot: Slot) -> Holders:
        """Who holds a slot, or any number of a block, on whatever address."""
        if slot > LAST_SLOT or self.blocks:
            return blocks.holders(self, slot)
        return self.holders.get(slot, ())

    def by_slot(self) -> Iterator[tuple[Slot, Holders]]:
        """Each slot and each block that is held, with who holds just that, in no order."""
        return chain(self.holders.items(), self.blocks.values.items() if self.blocks else ())

    def size(self) -> int:
        """How many slots and blocks are held."""
        return len(self.holders) + (len(self.blocks) if self.blocks else 0)

    def note(self, slot: Slot) -> None:
        """Follows in the sets, where they are kept, what has changed in the holders of a slot or block."""
        if self.sets is None:
            return
        if slot > LAST_SLOT:
            self.note_numbers(slot, *self.look(slot))
            return
        of_protocol, number = self._kept(slot), number_of(slot)
        is_settled = self.is_held_for_good(slot)
        (of_protocol.held.add if is_settled or self.holders_of(slot) else of_protocol.held.discard)(number)
        (of_protocol.settled.add if is_settled else of_protocol.settled.discard)(number)

    def note_numbers(self, block: Slot, held: int, settled: int) -> None:
        """The same where it is known what is held of a block. The sets are kept."""
        of_protocol, first, length = self._kept(block), number_of(first_of(block)), length_of(block)
        of_protocol.held.assign(first, held, length)
        of_protocol.settled.assign(first, settled, length)

    def _kept(self, slot: Slot) -> _Held:
        """The sets of the protocol of a slot or block."""
        sets, protocol = self.sets, protocol_of(slot)
        if sets is None:
            raise AssertionError(f"no sets of {self.node.name}")
        if protocol not in sets:
            sets[protocol] = _Held()
        return sets[protocol]

    def is_held_for_good(self, slot: Slot) -> bool:
        """Whether somebody settled has a slot, or a socket of it is open."""
        if self.sockets is not None and self.sockets.has(slot):
            return True
        return self.is_settled(self.holders_of(slot))

    def weigh(self) -> None:
        """Keeps sets where the holders are many, and none where they are few again."""
        size = len(self.holders) if self.blocks is None else self.size()
        if self.sets is None and size >= MANY_PORTS:
            self.sets = {}
            for slot in self.slots() if self.sockets is not None else [slot for slot, _ in self.by_slot()]:
                self.note(slot)
        elif self.sets is not None and size < MANY_PORTS // 2:
            self.sets = None

    def slots(self) -> Collection[Slot]:
        """The slots that are held, by claims or by sockets."""
        slots: Collection[Slot] = self.holders.keys()
        if self.blocks:
            slots = set(slots).union(*map(slots_in, self.blocks.values))
        if self.sockets is not None:
            slots = self.sockets.all_slots().union(slots)
        return slots

    def foreign(self) -> set[Slot]:
        """The slots that processes have: sockets that nobody who is settled here declares."""
        return self.undeclared(self.sockets.all_slots()) if self.sockets is not None else set()

    def undeclared(self, slots: set[Slot]) -> set[Slot]:
        """Those of some slots that nobody who is settled here declares, or on another address alone."""
        held = set(self.holders).union(*map(slots_in, self.blocks.values)) if self.blocks else self.holders.keys()
        beside = slots & self.sockets.beside.keys() if self.sockets is not None else set()
        return slots - {slot for slot in held & slots if self.is_settled(self.holders_of(slot))} | beside

    def has_foreign(self, low: int, high: int) -> bool:
        """Whether one of the first `MOST_OPEN` sockets of [low, high] is a process's."""
        sockets = self.sockets
        if sockets is None:
            return False
        opened = islice(sockets.slots(low, high), MOST_OPEN)
        return any(slot in sockets.beside or not self.is_settled(self.holders_of(slot)) for slot in opened)

    def addresses_of(self, holder: ClaimId, slot: Slot) -> Collection[str]:
        """The addresses on which somebody who holds a slot here has it."""
        addresses = self.addresses.get(holder)
        return ANYWHERE_ALONE if addresses is None else addresses[slot]

    def declared_at(self, slot: Slot) -> set[str] | None:
        """The addresses (canonical) on which those who are settled here declare a slot; None: every address."""
        declared = set[str]()
        for holder in self.holders_of(slot):
            if self.claims[holder].is_settled:
                addresses = self.addresses_of(holder, slot)
                if WILDCARD in addresses:
                    return None
                declared.update(map(canonical_ip, addresses))
        return declared

    def undeclared_at(self, slot: Slot, ip: str = WILDCARD) -> list[Listener]:
        """The open sockets of a slot that are processes', and conflict with it on an address.

        A socket is of whoever is settled here and declares its slot on its address. Every address is any of them.
        """
        key = PortKey(ip, protocol_of(slot), number_of(slot))
        opened = self.sockets.conflicting(key) if self.sockets is not None else []
        declared = self.declared_at(slot) if opened else set[str]()
        if declared is None:
            return []
        return [each for each in opened if each.ip != WILDCARD and each.ip not in declared] if declared else opened

    def held(self) -> list[NumberSet]:
        """The numbers that are held, of all protocols together or of each."""
        if self.sets is not None:
            return [of_protocol.held for of_protocol in self.sets.values()]
        held = NumberSet()
        for slot in self.holders:
            held.add(number_of(slot))
        for slot in self.sockets.all_slots() if self.sockets is not None else ():
            held.add(number_of(slot))
        for block in self.blocks.values if self.blocks else ():
            numbers = numbers_of(block)
            held.add_all(numbers.start, span(0, len(numbers) - 1))
        return [held]

    def numbers(self, protocol: Protocol, low: int, high: int) -> tuple[int, int]:
        """The numbers of [low, high] that are held, and those that are settled, less `low`."""
        if self.sets is None:
            return self.look(block_of(slot_of(protocol, low), high - low + 1))
        kept = self.sets.get(protocol)
        return (kept.held.within(low, high), kept.settled.within(low, high)) if kept else (0, 0)

    def look(self, wanted: Slot) -> tuple[int, int]:
        """What `numbers` says of a block, from the holders themselves."""
        if not self.holders and not self.blocks and self.sockets is None:
            return 0, 0
        slots, low, held, numbers, settled = slots_in(wanted), number_of(first_of(wanted)), self.holders, 0, 0
        if held:
            found, some = _Held(), held if len(held) <= len(slots) else [slot for slot in slots if slot in held]
            for slot in some:
                if slot in slots:
                    number = number_of(slot) - low
                    found.held.add(number)
                    if self.is_settled(held[slot]):
                        found.settled.add(number)
            numbers, settled = found.held.within(0, len(slots) - 1), found.settled.within(0, len(slots) - 1)
        for block in self.blocks.meeting(wanted) if self.blocks else ():
            of_block = within(block, low, low + len(slots) - 1)
            numbers |= of_block
            settled |= of_block if self.is_settled(self.blocks.values[block]) else 0  # type: ignore[union-attr]
        opened = self.sockets.numbers(protocol_of(wanted), low, low + len(slots) - 1) if self.sockets else 0
        return numbers | opened, settled | opened


class NodeTable:
    """The nodes by name and by position."""

    def __init__(
        self, claims: Mapping[ClaimId, Claim], addresses: Mapping[ClaimId, Mapping[Slot, Collection[str]]]
    ) -> None:
        """claims: all that there are, by id; the holders are among them. addresses: see `NodeEntry`."""
        self._claims = claims
        self._addresses = addresses
        self.entries: list[NodeEntry | None] = []  # by position; None: vacant
        self.positions: dict[NodeName, int] = {}
        self.names: OrderedKeys[NodeName] = OrderedKeys()  # of those that are known or hold something
        self._vacant: list[int] = []
        self._schedulable = 0
        self.changes = 0  # how often something came or went, for readers that keep what they have counted

    # -- one node

    def position(self, name: NodeName) -> int:
        """The position of a node, which is given one if nothing named it so far."""
        position = self.positions.get(name)
        if position is None:
            if self._vacant:
                position = self._vacant.pop()
            else:
                position = len(self.entries)
                self.entries.append(None)
            self.entries[position] = NodeEntry(Node(name=name), self._claims, self._addresses, 1 << position)
            self.positions[name] = position
        return position

    def at(self, position: int) -> NodeEntry:
        """The node at a position that is not vacant."""
        entry = self.entries[position]
        if entry is None:
            raise AssertionError(f"no node at position {position}")
        return entry

    def name_at(self, position: int) -> NodeName:
        """The name of the node at a position that is not vacant."""
        return self.at(position).node.name

    def held_by_slot(self, name: NodeName) -> Iterator[tuple[Slot, Holders]]:
        """Every slot, and every block, that is held on a node and by whom, in no order."""
        position = self.positions.get(name)
        return iter(()) if position is None else self.at(position).by_slot()

    def is_named(self, name: str) -> bool:
        """Whether a node of this name is known or holds something."""
        position = self.positions.get(NodeName(name))
        return position is not None and self.at(position).is_shown

    def is_known(self, name: NodeName) -> bool:
        """Whether there is a Node object of this name."""
        position = self.positions.get(name)
        return position is not None and self.at(position).known

    def address(self, name: NodeName) -> NodeAddress:
        """Where clients dial a node; nowhere, where no Node object says."""
        position = self.positions.get(name)
        return NOWHERE if position is None else self.at(position).node.address

    def known_count(self) -> int:
        """How many Node objects there are."""
        return sum(1 for entry in self.entries if entry is not None and entry.known)

    # -- sets of nodes

    def contains(self, nodes: int, name: NodeName) -> bool:
        """Whether a node is in a set."""
        position = self.positions.get(name)
        return position is not None and bool(nodes >> position & 1)

    def only(self, name: NodeName) -> int:
        """The set of that one node; empty where nothing names it."""
        position = self.positions.get(name)
        return 0 if position is None else 1 << position

    def names_of(self, nodes: int) -> Iterator[NodeName]:
        """The names of a set of nodes, in the order of positions."""
        while nodes:
            yield self.name_at(lowest(nodes))
            nodes &= nodes - 1

    def pick(self, nodes: int) -> NodeName:
        """One node of a set that is not empty: a schedulable one if there is one."""
        here = nodes & self._schedulable or nodes
        return self.name_at((here & -here).bit_length() - 1)

    # -- changes

    def put(self, node: Node) -> tuple[int, bool]:
        """Takes a Node object; gives its position, and whether constraints may accept it that did not before."""
        position = self.position(node.name)
        entry = self.at(position)
        is_other = not entry.known or not node.draws_as(entry.node)
        entry.node, entry.known = node, True
        self.show(entry)
        bit = 1 << position
        self._schedulable = self._schedulable & ~bit if node.unschedulable else self._schedulable | bit
        return position, is_other

    def drop(self, position: int) -> None:
        """Forgets the Node object at a position. What stands there goes on standing there."""
        entry = self.at(position)
        entry.node, entry.known = Node(name=entry.node.name), False
        self.show(entry)
        self._schedulable &= ~(1 << position)

    def show(self, entry: NodeEntry) -> None:
        """Shows the name of a node that is known or holds something, and no other."""
        if entry.is_shown == entry.is_named:
            return
        entry.is_named = entry.is_shown
        (self.names.add if entry.is_shown else self.names.discard)(entry.node.name)

    def forget_if_idle(self, position: int) -> None:
        """Makes a position vacant whose node nothing names any more."""
        entry = self.at(position)
        if entry.is_shown or entry.in_sets or entry.cooling:
            return
        del self.positions[entry.node.name]
        self.entries[position] = None
        self._vacant.append(position)

    def changed_on(self, name: NodeName) -> int:
        """The value of `changes` when something last came or went on a node."""
        position = self.positions.get(name)
        return 0 if position is None else self.at(position).changed


class OpenNodes(NodesBySlot):
    """Where sockets are open.

    The nodes with a slot on addresses that few nodes have are one set, `ELSEWHERE`: each may have an address of its
    own, and to unite as many sets as there are nodes is slow. Which of them has a certain address is kept beside it.
    """

    __slots__ = ("_elsewhere",)

    def __init__(self) -> None:
        super().__init__()
        self._elsewhere: dict[Slot, dict[str, int]] = {}

    def open(self, slot: Slot, ip: str, node: int) -> None:
        """Adds a node, as a set: the one object that there is of it, of which most entries are."""
        address = shared_address(ip)
        self.add(slot, address, node)
        if address is ELSEWHERE:
            by_ip = self._elsewhere.setdefault(slot, {})
            by_ip[ip] = by_ip[ip] | node if ip in by_ip else node

    def close(self, slot: Slot, ip: str, node: int, *, is_elsewhere: bool) -> None:
        """Takes out a node, as a set. is_elsewhere: whether it has the slot on another address that few nodes have."""
        address = shared_address(ip)
        if address is not ELSEWHERE or not is_elsewhere:
            self.discard(slot, address, node)
        if address is ELSEWHERE:
            by_ip = self._elsewhere[slot]
            _discard(by_ip, ip, node)
            if not by_ip:
                del self._elsewhere[slot]

    def on_address(self, slot: Slot, ip: str) -> int:
        """As for any `NodesBySlot`, however the address is spelled."""
        ip = canonical_ip(ip)
        if ip == WILDCARD:
            return self.of_single(slot)
        return super().on_address(slot, ip) | self._elsewhere.get(slot, {}).get(ip, 0)


FEW_PRIORITIES = 4
"""Priorities whose slots are gone through one after the other."""

ZERO, ONE = b"01"


class PortIndex:
    """Slot → address → nodes, for each kind of holder; with the nodes and the candidate sets that follow."""

    def __init__(self, claims: Mapping[ClaimId, Claim]) -> None:
        """claims: all that there are, by id; those that stand are among them before they do, and until they leave."""
        self._claims = claims
        self._planned = NodesBySlot()
        self._leased = NodesBySlot()
        self.has_leases = False  # whether any lease stands
        self._leaving = NodesBySlot()
        self._staying = NodesBySlot()
        self._staying_at: dict[int, NodesBySlot] = {}  # the same by priority
        self._addresses: dict[ClaimId, dict[Slot, set[str]]] = {}  # of claims that stand, where one has any
        self._keys: dict[ClaimId, dict[Slot, set[str]]] = {}  # the same less the numbers of blocks, where it has blocks
        self.nodes = NodeTable(claims, self._addresses)
        self._open = OpenNodes()  # sockets, those that claims declare among them
        self._declared = (self._staying, self._leased, self._leaving)
        self._fixed = (*self._declared, self._open)  # who is settled
        self._all = (self._planned, *self._fixed)  # and those who are not
        self.sets = CandidateSets(self.nodes, self._planned)
        self.sockets = SocketIndex(self.nodes, self.sets, self._open, OpenNodes())
        self.numbers = HeldNumbers(self.nodes, self.sets.floating, self.sets.surprising, self._planned, self._fixed)

    # -- changes

    def stand(self, claim: Claim, *, is_settled: bool) -> None:
        """The claim's ports are held on its node, and wherever it may still land. is_settled: whether the claim is."""
        nodes = self.nodes
        nodes.changes += 1
        keys = slots_and_addresses(claim.ports)
        if not is_settled:
            self.sets.float(claim, keys, 1)
        if claim.node is None:
            return
        self._note_addresses(claim, keys)
        position = nodes.position(claim.node)
        entry, kinds = nodes.at(position), self._kinds_of(claim, is_settled=is_settled)
        entry.changed = nodes.changes
        entry.stands += 1
        if entry.stands == 1:
            nodes.show(entry)
        node, held = 1 << position, entry.holders
        sets = self.sets.having(position, node, len(keys))
        alone = (claim.id,)  # one object for all slots that nobody else holds
        sockets, counting = entry.sockets, sets
        for slot, ip in keys:
            if slot > LAST_SLOT:
                blocks.stand(entry, claim.id, slot, sets, is_settled=is_settled)
                for kind in kinds:
                    blocks.add(kind, slot, ip, node)
                continue
            others = held.get(slot, ())
            if sockets is not None:  # an open socket is counted as settled already
                counting = [] if sockets.has(slot) else sets
            if entry.blocks:
                _arrive_beside(entry, claim, slot, counting, is_settled=is_settled)
            elif not others:
                held[slot] = alone
                arrive(counting, slot, is_first=True, is_settled=is_settled)
            elif others[-1] != claim.id:  # it may have the slot already, on another address
                held[slot] = (*others, claim.id)
                arrive(counting, slot, is_first=False, is_settled=is_settled and not entry.is_settled(others))
            for kind in kinds:
                kind.add(slot, ip, node)
            if entry.sets is not None:
                entry.note(slot)
        if len(keys) >= MANY_KEYS:
            pass_on(sets, 1)
        entry.weigh()
        if sockets is not None and (sockets.beside or claim.id in self._addresses):
            self.sockets.note_declared(entry, keys)

    def leave(self, claim: Claim, *, is_settled: bool) -> None:
        """Undoes `stand` of the very same claim, which is still among all claims."""
        nodes = self.nodes
        nodes.changes += 1
        keys = slots_and_addresses(claim.ports)
        if not is_settled:
            self.sets.float(claim, keys, -1)
        if claim.node is None:
            return
        position = nodes.positions[claim.node]
        entry = nodes.at(position)
        entry.changed = nodes.changes
        entry.stands -= 1
        if not entry.stands:
            nodes.show(entry)
        node = 1 << position
        sets, kinds = self.sets.having(position, node, len(keys)), self._kinds_of(claim, is_settled=is_settled)
        for slot, ip in keys:
            if slot > LAST_SLOT:
                left = blocks.leave(entry, claim.id, slot, sets)
                for kind in kinds:
                    if not left or not self._is_held(slot, ip, left, kind):
                        blocks.discard(kind, slot, ip, node)
                continue
            left = _left(claim, entry, slot)
            for kind in kinds:
                if not left or not self._is_held(slot, ip, left, kind):
                    kind.discard(slot, ip, node)
            counting = [] if entry.sockets is not None and entry.sockets.has(slot) else sets
            _vacate(entry, slot, left, counting, is_settled=is_settled)
            if entry.sets is not None:
                entry.note(slot)
        if len(keys) >= MANY_KEYS:
            pass_on(sets, -1)
        entry.weigh()
        had_address = self._addresses.pop(claim.id, None) is not None
        self._keys.pop(claim.id, None)
        if entry.sockets is not None and (entry.sockets.beside or had_address):
            self.sockets.note_declared(entry, keys)
        if self.has_leases:
            self.has_leases = bool(self._leased)
        if claim.priority in self._staying_at and not self._staying_at[claim.priority]:
            del self._staying_at[claim.priority]
        nodes.forget_if_idle(position)

    def _note_addresses(self, claim: Claim, keys: Iterable[tuple[Slot, str]]) -> None:
        """Keeps the addresses of a claim by slot and block: a look through its ports for each slot would be slow."""
        for _, ip in keys:
            if ip != WILDCARD:
                break
        else:
            return
        addresses = self._addresses[claim.id] = dict[Slot, set[str]]()
        for slot, ip in keys:
            addresses.setdefault(slot, set()).add(ip)
        of_blocks = [slot for slot in addresses if slot > LAST_SLOT]
        if of_blocks:
            self._keys[claim.id] = {slot: set(ips) for slot, ips in addresses.items()}
        for block in of_blocks:
            for slot in slots_in(block):
                addresses.setdefault(slot, set()).update(addresses[block])

    def _ips(self, holder: ClaimId, slot: Slot) -> Collection[str]:
        """The addresses on which somebody who stands holds just this slot or block."""
        addresses = self._keys.get(holder) or self._addresses.get(holder)
        return addresses[slot] if addresses else ANYWHERE_ALONE

    def _is_held(self, slot: Slot, ip: str, holders: Holders, nodes: NodesBySlot) -> bool:
        """Whether any of some holders that are kept in these nodes has the slot on the address."""
        for holder in holders:
            claim = self._claims[holder]
            if nodes in self._kinds_of(claim, is_settled=claim.is_settled) and ip in self._ips(holder, slot):
                return True
        return False

    def _kinds_of(self, claim: Claim, *, is_settled: bool) -> tuple[NodesBySlot, ...]:
        """The nodes of the holders of this kind: they can be moved, stay, go by themselves, or may be preempted."""
        if not is_settled:
            return (self._planned,)
        if claim.state is State.LEASED:
            self.has_leases = True
            return (self._leased,)
        if claim.is_terminating:
            return (self._leaving,)
        of_priority = self._staying_at.get(claim.priority)
        if of_priority is None:
            of_priority = self._staying_at[claim.priority] = NodesBySlot()
        return self._staying, of_priority

    # -- the nodes where a port is held

    def conflicting(self, key: PortKey) -> int:
        """The nodes on which somebody stands whose port conflicts with the key."""
        return conflicting(self._all, key)

    def free(self, keys: Iterable[PortKey], nodes: int) -> int:
        """Those of some nodes where nobody stands whose port conflicts with any of the keys."""
        for key in keys:
            held = conflicting(self._all, key)
            if held:  # to take nothing out of a large set would copy it
                nodes ^= held & nodes
        return nodes

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
        if self._open:
            nodes |= self.foreign(key)
        if rank is None:
            return nodes | self._staying.conflicting(key)
        return nodes | conflicting((nodes for priority, nodes in self._staying_at.items() if priority >= rank), key)

    def foreign(self, key: PortKey) -> int:
        """The nodes where a socket that conflicts with the key is a process's, see `NodeEntry.undeclared_at`."""
        nodes = self._open.conflicting(key) if self._open else 0
        if nodes and key.length > 1:
            return reduce(or_, (self.foreign(PortKey(key.ip, key.protocol, number)) for number in key.numbers))
        if nodes:
            for kind in self._declared:
                nodes &= ~kind.of_slot(key.slot)
            if self.sockets.beside:
                nodes |= self.sockets.beside.conflicting(key)
        return nodes

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

    def leased(self, key: PortKey) -> int:
        """The nodes with a lease that conflicts with the key."""
        return self._leased.conflicting(key)

    def is_leased(self, keys: Iterable[PortKey], nodes: int) -> bool:
        """Whether a lease on any of some nodes conflicts with any of the keys."""
        for key in keys:  # noqa: SIM110 - in the way of every decision, and a generator takes twice as long
            if self._leased.conflicting(key) & nodes:
                return True
        return False

    def leased_numbers(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that are leased on every address of any of the set's nodes, less `low`."""
        slots, nodes, leased = slots_of(protocol, range(low, high + 1)), candidates.nodes, self._leased.anywhere
        if len(slots) <= len(leased):
            at = leased.get
            numbers = int(bytes([ONE if at(slot, 0) & nodes else ZERO for slot in reversed(slots)]), 2)
        else:
            digits = bytearray(b"0") * len(slots)
            for slot, there in leased.items():
                if there & nodes and slot in slots:
                    digits[high - number_of(slot)] = ONE
            numbers = int(digits, 2)
        of_blocks = self._leased.blocks.get(WILDCARD)
        for block, there in of_blocks.values.items() if of_blocks else ():
            if there & nodes and protocol_of(block) is protocol:
                numbers |= within(block, low, high)
        return numbers

    def holders(self, name: NodeName, key: PortKey) -> Holders:
        """Who stands on the node with a port that conflicts with the key, in order of arrival."""
        position = self.nodes.positions.get(name)
        if position is None:
            return ()
        return self.holders_at(position, key)

    def blockers(self, keys: Iterable[PortKey], name: NodeName, exempt: frozenset[ClaimId]) -> list[Claim]:
        """Who stands in the way of the keys on a node, each once, whoever is exempt aside."""
        found = {holder: None for key in keys for holder in self.holders(name, key)}
        return [self._claims[holder] for holder in found if holder not in exempt]

    def holders_at(self, position: int, key: PortKey) -> Holders:
        """The same, of a node by its position."""
        entry, slot = self.nodes.at(position), key.slot
        plain = entry.blocks is None and slot <= LAST_SLOT
        holders = entry.holders.get(slot, ()) if plain else entry.holders_of(slot)
        if key.ip == WILDCARD:
            return holders
        return tuple(holder for holder in holders if self._has_conflict(holder, key))

    def _has_conflict(self, holder: ClaimId, key: PortKey) -> bool:
        """Whether somebody who holds a number of a key has it on an address that conflicts."""
        addresses = self._addresses.get(holder)
        if not addresses:
            return True  # every port of it is on all addresses
        for slot in slots_in(key.slot) if key.length > 1 else (key.slot,):
            ips = addresses.get(slot, ())
            if key.ip in ips or WILDCARD in ips:
                return True
        return False

    def has_unlike_plans(self, key: PortKey) -> bool:
        """Whether a plan has some of the key's numbers, and not exactly those."""
        return bool(self._planned.blocks or key.length > 1) and blocks.unlike(self._planned, key)

    def port_map(self, name: NodeName) -> list[tuple[PortKey, Claim]]:
        """Every port of a node and its holder, ordered by protocol, number, address and claim."""
        position = self.nodes.positions.get(name)
        if position is None:
            return []
        ids = {holder: None for _, holders in self.nodes.at(position).by_slot() for holder in holders}
        held = [(key, claim) for claim in map(self._claims.__getitem__, ids) for key in claim.keys]
        return sorted(held, key=lambda entry: (entry[0].protocol.value, entry[0].number, entry[0].ip, entry[1].id))


def _left(claim: Claim, entry: NodeEntry, slot: Slot) -> Holders:
    """The other holders of a slot."""
    holders = entry.holders.get(slot, ())
    if len(holders) == 1 and holders[0] == claim.id:
        return ()
    return tuple([holder for holder in holders if holder != claim.id])


def _vacate(entry: NodeEntry, slot: Slot, left: Holders, sets: Iterable[Counted], *, is_settled: bool) -> None:
    """Leaves a slot to the other holders."""
    if entry.blocks:
        _depart_beside(entry, slot, left, sets, is_settled=is_settled)
    elif not left:
        if entry.holders.pop(slot, None):
            depart(sets, slot, is_last=True, is_settled=is_settled)
    elif len(left) < len(entry.holders[slot]):  # else it is gone already, with another address of the claim
        entry.holders[slot] = left
        depart(sets, slot, is_last=False, is_settled=is_settled and not entry.is_settled(left))


def _arrive_beside(entry: NodeEntry, claim: Claim, slot: Slot, sets: Iterable[Counted], *, is_settled: bool) -> None:
    """A claim holds a slot of a node from now on, where a block may have its number."""
    before, others = entry.holders_of(slot), entry.holders.get(slot, ())
    if claim.id in others:  # on another address
        return
    entry.holders[slot] = (*others, claim.id)
    arrive(sets, slot, is_first=not before, is_settled=is_settled and not entry.is_settled(before))


def _depart_beside(entry: NodeEntry, slot: Slot, left: Holders, sets: Iterable[Counted], *, is_settled: bool) -> None:
    """Leaves a slot to the other holders, and to the blocks that may have its number."""
    if len(left) == len(entry.holders.get(slot, ())):
        return  # it is gone already, with another address of the claim
    if left:
        entry.holders[slot] = left
    else:
        del entry.holders[slot]
    after = entry.holders_of(slot)
    depart(sets, slot, is_last=not after, is_settled=is_settled and not entry.is_settled(after))
