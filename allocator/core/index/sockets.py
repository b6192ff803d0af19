"""Which sockets are open on which node, as the agents report it, and how that changes what is held.

An open socket holds its number on its node, as a settled claim does: it is counted in the candidate sets, once with the
claims there, whoever opened it. So nothing has to be counted anew when a Pod that declares it comes or goes.

Invariants:

* `open_at` has exactly the sockets that are open on the nodes.
* `beside` has exactly those of them whose number somebody settled on the node declares, on other addresses alone.
* A node has sockets only while there is a Node object of its name.

Longer than 350 lines because one report tells all of this, and what it changes in one place is read with the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from allocator.core.blocks import slots_in
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim
from allocator.core.index.candidate_sets import CandidateSets, Counted, arrive, depart, pass_on
from allocator.core.ports import (
    WILDCARD,
    PortKey,
    Protocol,
    Slot,
    bits,
    number_of,
    protocol_of,
    runs_of,
    slot_of,
    slots_and_addresses,
    slots_of,
    span,
)
from allocator.core.sockets import (
    SETTLING_SECONDS,
    STALE_SECONDS,
    Listener,
    NodeFacts,
    NodeSockets,
    SocketChange,
    has_elsewhere,
)

if TYPE_CHECKING:
    from allocator.core.index.ports import NodeEntry, NodeTable, OpenNodes

MOST_FACTS = 64
"""Different things that candidates say of outgoing connections and that are looked at. In a cluster there are a few;
where agents keep numbers, one for each node where connections have some of them still."""

USUAL_EPHEMERAL = (32768, 60999)
"""What Linux does unless it is told otherwise."""

MOST_RANGES = 32


class SocketIndex:
    """See the module."""

    def __init__(self, nodes: NodeTable, sets: CandidateSets, open_at: OpenNodes, beside: OpenNodes) -> None:
        """open_at, beside: slot → address → nodes, which this class alone changes."""
        self._nodes = nodes
        self._sets = sets
        self.open_at = open_at
        self.beside = beside
        self.outgoing: dict[NodeFacts, int] = {}  # what nodes say of outgoing connections → those nodes
        self._reserving = Counter[tuple[int, int]]()  # ephemeral ranges of nodes whose agents keep numbers from them
        self._reserved_from = 0  # the numbers of those
        self.entries: dict[NodeName, NodeEntry] = {}  # the nodes whose agents have said something; changed here alone
        self._presuming: dict[NodeName, None] = {}  # of those the ones that may have sockets that are presumed closed
        self.now = 0.0  # when the last change was told, or the last tick was, in seconds

    # -- changes

    def take(self, change: SocketChange, now: float) -> tuple[list[Slot], list[Slot]]:
        """Takes a part of a report of a node that is known; gives the slots of what has opened, and of what has closed.

        now: in seconds.
        """
        entry, node = self._entry(change.node)
        sockets = entry.sockets
        if sockets is None:
            sockets = entry.sockets = NodeSockets()
            self.entries[change.node] = entry
        is_news = bool(change.closed or change.opened) or sockets.reported_at is None
        opened, closed = list[Slot](), list[Slot]()
        sets = self._sets.having(node.bit_length() - 1, node, len(change.closed) + len(change.opened))
        for slot, ip in change.closed:
            sockets.presumed.pop((slot, ip), None)
            closed += self._close(entry, node, sets, slot, ip)
        pass_on(sets, -1)
        for slot, socket in change.opened:
            sockets.presumed.pop((slot, socket.ip), None)
            opened += self._open(entry, node, sets, slot, socket, now)
        if change.facts is not None:
            opened += self._settle(entry, node, sets, now)
            is_news |= bool(opened) or change.facts != sockets.facts
            self._note_facts(sockets, node, change.facts)
            sockets.reported_at = now
        pass_on(sets, 1)
        if is_news:
            self._touch(entry)
        return opened, closed

    def forget(self, name: NodeName) -> None:
        """The Node is gone, and what its agent said with it."""
        if name not in self.entries:
            return
        entry, node = self._entry(name)
        sockets = entry.sockets
        if sockets is None:
            return
        sets = self._sets.having(node.bit_length() - 1, node, len(sockets))
        for slot, socket in list(sockets):
            self._close(entry, node, sets, slot, socket.ip)
        pass_on(sets, -1)
        self._note_facts(sockets, node, NodeFacts())
        entry.sockets = None
        del self.entries[name]
        self._touch(entry)

    def presume_closed(self, claim: Claim) -> None:
        """A claim of a Pod that stood on its node has ended: so have its sockets, until the agent has looked again.

        What was merely planned had none, and neither has a Pod with a network of its own. The process of a lease need
        not end with it.
        """
        entry = self.entries.get(claim.node) if claim.node is not None and claim.is_settled else None
        if entry is None or entry.sockets is None or claim.pod_uid is None or claim.own_network:
            return
        _, node = self._entry(entry.node.name)
        slots = {(one, ip) for each, ip in slots_and_addresses(claim.ports) for one in slots_in(each)}
        sets = self._sets.having(node.bit_length() - 1, node, len(slots))
        for slot, ip in slots:
            # What somebody else there declares is none of a process.
            for socket in self.processes(entry.node.name, PortKey(ip, protocol_of(slot), number_of(slot))):
                self._close(entry, node, sets, slot, socket.ip)
                entry.sockets.presumed[slot, socket.ip] = socket, self.now
                self._presuming[entry.node.name] = None
        pass_on(sets, -1)

    def note_declared(self, entry: NodeEntry, keys: Iterable[tuple[Slot, str]]) -> None:
        """Whoever declares some slots or blocks of a node has changed: `beside` follows."""
        sockets = entry.sockets
        if sockets is None:
            return
        for slot in filter(sockets.has, {one for each, _ in keys for one in slots_in(each)}):
            before, is_declared = sockets.beside.get(slot, set()), entry.is_settled(entry.holders_of(slot))
            now = {socket.ip for socket in entry.undeclared_at(slot)} if is_declared else set[str]()
            for ip in before - now:
                self._take_beside(entry, sockets, slot, ip)
            for ip in now - before:
                self._put_beside(entry, sockets, slot, ip)

    def _put_beside(self, entry: NodeEntry, sockets: NodeSockets, slot: Slot, ip: str) -> None:
        """One socket alone: its number may be open on thousands of addresses."""
        sockets.beside.setdefault(slot, set()).add(ip)
        self.beside.open(slot, ip, entry.alone)

    def _take_beside(self, entry: NodeEntry, sockets: NodeSockets, slot: Slot, ip: str) -> None:
        left = sockets.beside[slot]
        left.remove(ip)
        self.beside.close(slot, ip, entry.alone, is_elsewhere=has_elsewhere(left))
        if not left:
            del sockets.beside[slot]

    def unsettled(self, now: float) -> list[NodeName]:
        """The nodes that have sockets which were presumed to be closed some time ago: their agents should look.

        An agent that sees them open as before has nothing to tell by itself. now: in seconds.
        """
        found = list[NodeName]()
        for name in list(self._presuming):
            sockets = self.of(name)
            if sockets is None or not sockets.presumed:
                del self._presuming[name]
            elif any(now - since >= SETTLING_SECONDS for _, since in sockets.presumed.values()):
                found.append(name)
        return found

    def _settle(self, entry: NodeEntry, node: int, sets: Sequence[Counted], now: float) -> list[Slot]:
        """What was presumed to be closed some time ago, and the agent that has looked since has not told, is open."""
        opened, sockets = list[Slot](), entry.sockets
        if sockets is None or not sockets.presumed:
            return opened
        for (slot, ip), (socket, since) in list(sockets.presumed.items()):
            if now - since >= SETTLING_SECONDS:
                del sockets.presumed[slot, ip]
                opened += self._open(entry, node, sets, slot, socket, now)
        return opened

    def _open(
        self, entry: NodeEntry, node: int, sets: Sequence[Counted], slot: Slot, socket: Listener, now: float
    ) -> list[Slot]:
        """Opens a socket; gives its slot where it was not open on that address."""
        sockets = entry.sockets
        if sockets is None:
            return []
        was_open = sockets.has(slot)
        if not sockets.put(slot, socket, now):
            return []
        self.open_at.open(slot, socket.ip, node)
        holders = entry.holders_of(slot)
        if holders and socket.ip != WILDCARD:
            declared = entry.declared_at(slot)
            if declared and socket.ip not in declared:
                self._put_beside(entry, sockets, slot, socket.ip)
        if was_open:
            return [slot]
        arrive(sets, slot, is_first=not holders, is_settled=not entry.is_settled(holders))
        entry.note(slot)
        return [slot]

    def _close(self, entry: NodeEntry, node: int, sets: Sequence[Counted], slot: Slot, ip: str) -> list[Slot]:
        """Closes a socket that may be open; gives its slot where it was."""
        sockets = entry.sockets
        if sockets is None or sockets.take(slot, ip) is None:
            return []
        self.open_at.close(slot, ip, node, is_elsewhere=sockets.is_elsewhere(slot))
        if ip in sockets.beside.get(slot, ()):
            self._take_beside(entry, sockets, slot, ip)
        if sockets.has(slot):
            return [slot]
        holders = entry.holders_of(slot)
        depart(sets, slot, is_last=not holders, is_settled=not entry.is_settled(holders))
        entry.note(slot)
        return [slot]

    def _note_facts(self, sockets: NodeSockets, node: int, facts: NodeFacts) -> None:
        if facts == sockets.facts:
            return
        if sockets.facts.ephemeral is not None:
            left = self.outgoing[sockets.facts] & ~node
            if left:
                self.outgoing[sockets.facts] = left
            else:
                del self.outgoing[sockets.facts]
        if facts.ephemeral is not None:
            self.outgoing[facts] = self.outgoing.get(facts, 0) | node
        self._note_reserving(_reserved_from(sockets.facts), _reserved_from(facts))
        sockets.facts = facts

    def _note_reserving(self, before: tuple[int, int] | None, now: tuple[int, int] | None) -> None:
        """A node's agent keeps numbers from another ephemeral range; None: from none."""
        if before == now:
            return  # as a rule: an agent says often what it keeps, and hardly ever from which range
        if now is not None:
            self._reserving[now] += 1
        if before is not None:
            self._reserving[before] -= 1
            if not self._reserving[before]:
                del self._reserving[before]
        self._reserved_from = 0
        for low, high in islice(self._reserving, MOST_FACTS):
            self._reserved_from |= span(low, high)

    def _entry(self, name: NodeName) -> tuple[NodeEntry, int]:
        """A node that something names, and the set of that one node."""
        entry = self._nodes.at(self._nodes.positions[name])
        return entry, entry.alone

    def _touch(self, entry: NodeEntry) -> None:
        self._nodes.changes += 1
        entry.changed = self._nodes.changes

    # -- questions

    def of(self, name: NodeName) -> NodeSockets | None:
        """What the agent of a node has said; None: nothing."""
        entry = self.entries.get(name)
        return None if entry is None else entry.sockets

    def addresses(self, name: NodeName, protocol: Protocol, number: int) -> list[str] | None:
        """The addresses on which a number is open on a node, whoever opened it; None: its agent has said nothing.

        `ports.WILDCARD` is every address.
        """
        sockets = self.of(name)
        if sockets is None or sockets.reported_at is None:
            return None
        return [socket.ip for socket in sockets.of(slot_of(protocol, number))]

    def is_open(self, name: NodeName, protocol: Protocol, number: int) -> bool | None:
        """Whether a number is open on a node, on whatever address; None: its agent has said nothing."""
        addresses = self.addresses(name, protocol, number)
        return None if addresses is None else bool(addresses)

    def reported_at(self, name: NodeName) -> float | None:
        """When the last whole report of a node came, in seconds; None: none has."""
        sockets = self.of(name)
        return None if sockets is None else sockets.reported_at

    def may_be_of_a_client(self, name: NodeName, key: PortKey) -> bool:
        """Whether a socket on a port is told only when it is a minute old: UDP, among the numbers of clients."""
        sockets = self.of(name)
        if sockets is None or sockets.facts.ephemeral is None or key.protocol is not Protocol.UDP:
            return False
        low, high = sockets.facts.ephemeral
        return key.number <= high and key.number + key.length > low

    def reporting(self) -> Collection[NodeName]:
        """The nodes whose agents have said something."""
        return self.entries.keys()

    def age(self, name: NodeName) -> float:
        """Seconds since the last whole report of a node; infinite where there was none."""
        at = self.reported_at(name)
        return inf if at is None else self.now - at

    def oldest(self) -> float:
        """The age of the oldest report that counts, in seconds; 0 where there is none."""
        return max((age for age in map(self.age, self.entries) if age < inf), default=0.0)

    def is_stale(self, name: NodeName) -> bool:
        """Whether the last report of a node is so old that people are told."""
        return self.age(name) > STALE_SECONDS

    def listeners(self, name: NodeName, key: PortKey) -> list[Listener]:
        """The open sockets of a node that conflict with a port, whoever opened them."""
        sockets = self.of(name)
        return [] if sockets is None else sockets.conflicting(key)

    def processes(self, name: NodeName, key: PortKey) -> list[Listener]:
        """The sockets of processes on a node that conflict with a port."""
        entry = self.entries.get(name)
        found = list[Listener]()
        if entry is None or entry.sockets is None:
            return found
        for slot in filter(entry.sockets.has, slots_of(key.protocol, key.numbers)):
            found += entry.undeclared_at(slot, key.ip)
        return found

    def ephemeral(self, nodes: int) -> int:
        """The numbers that outgoing connections may take on any of some nodes, as far as those say it."""
        numbers = 0
        for facts, _ in self._facts(nodes) if self.outgoing else ():
            numbers |= _outgoing_numbers(facts)
        return numbers

    def _facts(self, nodes: int) -> Iterator[tuple[NodeFacts, int]]:
        """What some nodes say, and who does, each thing once where they are many; the first `MOST_FACTS`."""
        if nodes.bit_count() > MOST_FACTS:
            return islice(
                ((facts, there & nodes) for facts, there in self.outgoing.items() if there & nodes), MOST_FACTS
            )
        found = (self._nodes.at(position) for position in bits(nodes))
        return ((entry.sockets.facts, entry.alone) for entry in found if entry.sockets is not None)

    def reserving(self) -> int:
        """The numbers that outgoing connections take on any node whose agent keeps some from them.

        Of the first `MOST_FACTS` ranges: in a cluster there are a few.
        """
        return self._reserved_from

    def agents_behind(self, nodes: int, numbers: int, enough: int) -> list[NodeName]:
        """Those of some nodes whose agents keep numbers from outgoing connections, and too few of these yet.

        enough: so many, or all where an agent can keep fewer. At most `MOST_FACTS` nodes, of as many different things
        that nodes say: in a large cluster those of every node may differ.
        """
        found = list[NodeName]()
        for facts, there in self._facts(nodes):
            if facts.reserves and facts.ephemeral is not None:
                wanted = numbers & span(*facts.ephemeral)
                if (wanted & facts.kept).bit_count() < min(enough, wanted.bit_count()):
                    found += (self._nodes.at(at).node.name for at in islice(bits(there), MOST_FACTS - len(found)))
        return found

    def ephemeral_ranges(self, nodes: int) -> tuple[tuple[int, int], ...] | None:
        """What outgoing connections may take in spite of agents, as ranges, `MOST_RANGES` at most; None: nobody knows.

        An agent that reserves keeps what is given from them. Of nodes that say nothing it is what Linux does.
        """
        known = kept = 0
        for facts, there in self.outgoing.items():
            known |= there & nodes
            kept |= there if facts.reserves else 0
        if not known:
            return None
        return _bounded_runs(self.ephemeral(nodes & ~kept) | (span(*USUAL_EPHEMERAL) if nodes & ~known else 0))


def _reserved_from(facts: NodeFacts) -> tuple[int, int] | None:
    """The ephemeral range that an agent keeps numbers from; None: it keeps none."""
    return facts.ephemeral if facts.reserves else None


@lru_cache(maxsize=4 * MOST_FACTS)
def _outgoing_numbers(facts: NodeFacts) -> int:
    """The numbers that outgoing connections of a node take."""
    return span(*facts.ephemeral) & ~facts.kept if facts.ephemeral is not None else 0


@lru_cache(maxsize=64)
def _bounded_runs(numbers: int) -> tuple[tuple[int, int], ...]:
    """The runs of a set; where they are too many, one in place of the last ones."""
    found = tuple(runs_of(numbers))
    return (
        found if len(found) <= MOST_RANGES else (*found[: MOST_RANGES - 1], (found[MOST_RANGES - 1][0], found[-1][1]))
    )
