"""The questions to the ledger: what is held, by whom and where. Nothing here can change anything.

Longer than 350 lines because every question to the ledger is here, as every command is in `ledger.py`.

A pending claim is decided and not durable yet. It is left out of every answer that gives claims; ids and counts have it
among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from msgspec.structs import replace

from allocator.core.addresses import NodeAddress
from allocator.core.asks import Ask, Refused
from allocator.core.blocks import first_of, length_of, numbers_of, slots_in
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import TRANSITIONS, Bounds, Claim, ClaimId, LifeEvent, PodUid, State
from allocator.core.foreign import ServiceName
from allocator.core.index.sockets import SocketIndex
from allocator.core.place.policies import number_groups, with_unset_defaults
from allocator.core.place.view import PlacementView, key_of
from allocator.core.ports import (
    LAST_SLOT,
    WILDCARD,
    NumberSet,
    PortKey,
    Protocol,
    Slot,
    number_of,
    protocol_of,
    span,
)
from allocator.core.sockets import Listener
from allocator.core.store import ClaimStore
from allocator.core.watch.node_ports import NodePortConflicts
from allocator.core.watch.rejections import PortRejections
from allocator.core.watch.utilization import MOST_RANGES, UtilizationScan, UtilizationSnapshot
from hostport.contract import Mistake, Reason
from hostport.contract.limits import HIGHEST_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How much there is; claims that are pending among it."""

    states: Mapping[State, int]  # claims that we granted, by state
    unmanaged: int  # Pods that we never granted anything
    unmanaged_ports: int
    unplaceable: int
    known_nodes: int
    rejections: Mapping[tuple[str, bool], int]  # by whom, and whether they are explained
    contradictions: int
    node_port_conflicts: int  # ports that a Service holds as well
    utilization: UtilizationSnapshot


class LastReport(NamedTuple):
    """What the agent of a node said last, in short; `ephemeral` and `reserves` as in `NodeFacts`.

    at: in seconds of the ledger's clock. undeclared: how many slots are open that nobody who is settled there declares.
    """

    at: float
    is_current: bool
    ephemeral: tuple[int, int] | None
    reserves: bool
    undeclared: int


class ClaimsView:
    """The claims: one by its id, all of them in some order, and how many there are."""

    def __init__(
        self,
        store: ClaimStore,
        placing: PlacementView,
        rejections: PortRejections,
        utilization: UtilizationScan,
        node_ports: NodePortConflicts,
    ) -> None:
        self._store = store
        self._claims = store.claims
        self._pending = store.pending
        self._placing = placing
        self._rejections = rejections
        self._utilization = utilization
        self._node_ports = node_ports

    def __iter__(self) -> Iterator[Claim]:
        """Every durable claim, in the order of ids. Nothing may change meanwhile."""
        return (self._claims[claim_id] for claim_id in self._store.ids if claim_id not in self._pending)

    def __len__(self) -> int:
        """How many claims there are, pending ones among them."""
        return len(self._claims)

    def has(self, claim_id: ClaimId) -> bool:
        """Whether there is a claim of this id, pending ones included."""
        return claim_id in self._claims

    def get(self, claim_id: ClaimId) -> Claim | None:
        """The durable claim of this id."""
        return None if claim_id in self._pending else self._claims.get(claim_id)

    def ids_after(self, claim_id: str, most: int) -> list[ClaimId]:
        """The first ids beyond one, in order, fewer than `most` only at the end; `get` says which are durable."""
        return self._store.ids.after(claim_id, most)

    def latest(self, skip: int, most: int) -> list[ClaimId]:
        """Ids, what changed last first; `get` says which are durable."""
        return list(islice(reversed(self._claims), skip, skip + most))

    def in_order_of_change(self) -> list[ClaimId]:
        """All ids, what changed last at the end; `get` says which are durable."""
        return list(self._claims)

    # -- leases and reservations

    def leases(self) -> list[Claim]:
        """Every durable lease, in the order in which they last changed."""
        return [self._claims[claim_id] for claim_id in self._store.leases if claim_id not in self._pending]

    @property
    def has_leases(self) -> bool:
        """Whether anything is leased, pending leases among it."""
        return bool(self._store.leases)

    def lease_ids(self) -> list[ClaimId]:
        """Ids of all leases, pending ones among them."""
        return list(self._store.leases)

    def releasable(self, claim_id: ClaimId) -> Claim | None:
        """The claim to end for a Release; None when it is gone already.

        Raises:
            Refused: its Pod lives.

        """
        claim = self.get(claim_id)
        if claim is not None and claim.pod_uid is not None:
            message = f"allocation {claim_id} is held by {claim.owner}, which lives. Delete the Pod"
            raise Refused(Mistake(Reason.HELD_BY_POD, "id", message))
        return claim

    def renewed(self, claim_id: ClaimId, ttl: float, now: float) -> Claim:
        """The lease with its new end, `ttl` seconds from now. Changes nothing: `Ledger.replace` makes it stand.

        Raises:
            Refused: there is no such lease.

        """
        claim = self.get(claim_id)
        if claim is None or is_over(claim, now):
            message = f"no allocation {claim_id}: it ended or never was. Allocate anew"
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", message))
        if (claim.state, LifeEvent.RENEWED) not in TRANSITIONS:
            message = f"allocation {claim_id} is that of {claim.owner}: it lives as long as its Pod"
            raise Refused(Mistake(Reason.NOT_A_LEASE, "id", message))
        return replace(claim, expires=now + ttl)

    def awaits_proof(self, now: float) -> bool:
        """Whether a reservation would end, were the view of the cluster proven to reach its deadline."""
        return self._store.others_end.has_due(now)

    # -- Pods and where they may run

    def known_pods(self) -> Collection[PodUid]:
        """The Pods that were seen and hold something."""
        return self._store.by_pod.keys()

    def of_pod(self, uid: PodUid) -> Claim | None:
        """The claim of a Pod that was seen; None where it holds nothing."""
        claim_id = self._store.by_pod.get(uid)
        return None if claim_id is None else self._claims[claim_id]

    def candidate_count(self, claim: Claim) -> int:
        """On how many of the nodes of now the owner may run."""
        return self._store.sets.of(claim.constraints).nodes.bit_count()

    def is_unplaceable(self, claim: Claim) -> bool:
        """Whether a claim has candidates and fits on none of them."""
        if claim.is_settled or claim.node is not None:
            return False
        return self._store.sets.of(claim.constraints).nodes != 0

    def pods_in_the_way(self, ask: Ask, limit: int) -> list[Claim]:
        """Pods on the candidates that hold what an ask wants: were they gone, it might be granted.

        limit: at most so many of them, and of the candidates that are looked at.

        Raises:
            Refused: the ask is wrong in itself.

        """
        store, placing = self._store, self._placing
        fixed, low, high = self._wanted(ask)
        exempt = store.named(ask.owner)
        found: dict[ClaimId, Claim] = {}
        for node in islice(store.nodes.names_of(store.sets.of(ask.constraints).nodes), limit):
            held = chain(placing.ports.blockers(fixed, node, exempt), self._held_within(node, low, high))
            pods = (claim for claim in held if claim.pod_uid is not None and claim.id not in self._pending)
            found.update((claim.id, claim) for claim in islice(pods, limit))
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    def processes_in_the_way(self, ask: Ask, limit: int) -> list[NodeName]:
        """The candidates, `limit` at most, on which something is open that an ask wants, as their agents told.

        Raises:
            Refused: the ask is wrong in itself.

        """
        fixed, low, high = self._wanted(ask)
        nodes, among, taken = self._store.nodes, self._store.sets.of(ask.constraints).nodes, 0
        for key in fixed if self._store.ports.sockets.open_at else ():
            taken |= self._store.ports.foreign(key) & among
        for name in islice(nodes.names_of(among), limit) if low <= high else ():
            if nodes.at(nodes.positions[name]).has_foreign(low, high):
                taken |= nodes.only(name)
        return list(islice(nodes.names_of(taken), limit))

    def services_in_the_way(self, ask: Ask, limit: int) -> list[ServiceName]:
        """Services that hold numbers that an ask wants, `limit` at most: were they gone, it might be granted.

        Raises:
            Refused: the ask is wrong in itself.

        """
        fixed, low, high = self._wanted(ask)
        wanted = [(key.protocol, key.number, key.number + key.length - 1) for key in fixed]
        if low <= high:
            wanted += dict.fromkeys((port.protocol, low, high) for port in ask.ports)
        found: dict[ServiceName, None] = {}
        for name in chain.from_iterable(self._placing.services.names_within(*each) for each in wanted):
            found[name] = None
            if len(found) >= limit:
                break
        return list(found)

    def _wanted(self, ask: Ask) -> tuple[list[PortKey], int, int]:
        """The ports of an ask whose numbers are fixed, and the range that is searched for the others."""
        ask = with_unset_defaults(ask)
        fixed = [
            key_of(ask.ports[member], group.number)
            for group in number_groups(ask, self._placing.reserved, is_pod=ask.owner.is_pod)
            if group.number
            for member in group.members
        ]
        return (fixed, ask.low, ask.high) if ask.policy.is_searched else (fixed, 0, -1)

    def _held_within(self, name: NodeName, low: int, high: int) -> Iterator[Claim]:
        """Who holds a number of [low, high] on a node, in no order."""
        for slot, holders in self._store.nodes.held_by_slot(name) if low <= high else ():
            numbers = numbers_of(slot)
            if numbers.start <= high and low < numbers.stop:
                yield from map(self._claims.__getitem__, holders)

    # -- counts

    def ranges(self) -> list[Bounds]:
        """The ranges that most claims come from, the most used one first."""
        return [each for each, _ in self._store.ranges.most_common(MOST_RANGES)]

    def tally(self) -> Tally:
        """How much there is. Reads counters that are kept anyway."""
        store, rejections = self._store, self._rejections
        return Tally(
            states=dict(store.states),
            unmanaged=len(store.claims) - store.states.total(),
            unmanaged_ports=store.unmanaged_ports,
            unplaceable=sum(
                number for constraints, number in store.unplanned_within.items() if store.sets.of(constraints).nodes
            ),
            known_nodes=store.nodes.known_count(),
            rejections={(by.value, explained): n for (by, explained), n in rejections.counts.items()},
            contradictions=rejections.contradictions,
            node_port_conflicts=self._node_ports.count(),
            utilization=self._utilization.snapshot,
        )


class NodesView:
    """The nodes: by name, in order of their names, and who holds what on them."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._claims = store.claims
        self._pending = store.pending
        self.services = store.services  # the numbers that Services hold on every node

    @property
    def sockets(self) -> SocketIndex:
        """What the agents of nodes report: to be asked, and not to be changed."""
        return self._store.ports.sockets

    def names(self) -> list[NodeName]:
        """Every node that a Node object, a Pod or a claim names, in order."""
        return list(self._store.nodes.names)

    def names_after(self, name: str, most: int) -> list[NodeName]:
        """The first names beyond one, in order; fewer than `most` only at the end."""
        return self._store.nodes.names.after(name, most)

    def has(self, name: str) -> bool:
        """Whether a Node object, a Pod or a claim names such a node."""
        return self._store.nodes.is_named(name)

    def address(self, name: str) -> NodeAddress:
        """Where clients dial a node; nowhere, where no Node object says."""
        return self._store.nodes.address(NodeName(name))

    def is_known(self, name: NodeName) -> bool:
        """Whether there is a Node object; what only Pods and claims name is no known node."""
        return self._store.nodes.is_known(name)

    @property
    def candidate_sets(self) -> int:
        """How many candidate sets are kept: each change of a node is held against all of them."""
        return len(self._store.sets)

    @property
    def changes(self) -> int:
        """Grows with whatever this view and the claims show."""
        return self._store.nodes.changes

    def changed_on(self, name: NodeName) -> int:
        """The value of `changes` when a node last looked different."""
        return self._store.nodes.changed_on(name)

    def ids_on(self, name: NodeName) -> set[ClaimId]:
        """The claims whose node this is; `ClaimsView.get` says which are durable."""
        store = self._store
        held = {holder for _, holders in store.nodes.held_by_slot(name) for holder in holders}
        return held | {claim_id for claim_id in store.portless if store.claims[claim_id].node == name}

    def holders(self, name: NodeName, protocol: Protocol, number: int) -> list[Claim]:
        """Who holds a port on a node, on whatever address, pending ones aside, in order of arrival."""
        held = self._store.ports.holders(name, PortKey(WILDCARD, protocol, number))
        return [self._claims[holder] for holder in held if holder not in self._pending]

    def held_on(self, name: NodeName) -> Iterator[tuple[range, Claim]]:
        """The numbers of every port that is held on a node, and its holder, in no order, pending ones aside."""
        claims, pending = self._claims, self._pending
        for slot, holders in self._store.nodes.held_by_slot(name):
            for holder in holders:
                if holder not in pending:
                    yield numbers_of(slot), claims[holder]

    def counts_on(self, name: NodeName) -> tuple[int, int]:
        """How many claims hold something on a node, and how many pairs of protocol and number; pending ones aside."""
        slots, ids, pending = set[Slot](), set[ClaimId](), self._pending
        for slot, holders in self._store.nodes.held_by_slot(name):
            visible = [holder for holder in holders if holder not in pending]
            ids.update(visible)
            slots.update(slots_in(slot) if visible else ())
        return len(ids), len(slots)

    def agents_behind(self, constraints: Constraints, numbers: int, enough: int) -> list[NodeName]:
        """Candidates whose agents are to keep numbers of a set from outgoing connections, and keep too few yet.

        enough: so many, or all where an agent can keep fewer.
        """
        return self.sockets.agents_behind(self._store.sets.of(constraints).nodes, numbers, enough)

    def undeclared(self, name: NodeName, slots: set[Slot]) -> int:
        """How many of some slots nobody who is settled on a node declares."""
        position = self._store.nodes.positions.get(name)
        if position is None:
            return len(slots)
        return len(self._store.nodes.at(position).undeclared(slots))

    def last_report(self, name: NodeName) -> LastReport | None:
        """What the agent of a node said last; None where none ever said anything."""
        said = self.sockets.of(name)
        if said is None or said.reported_at is None:
            return None
        facts, is_current = said.facts, not self.sockets.is_stale(name)
        undeclared = self.undeclared(name, said.all_slots())
        return LastReport(said.reported_at, is_current, facts.ephemeral, facts.reserves, undeclared)

    def given_on(self, name: NodeName) -> int:
        """The set of the numbers that claims have on a node, planned ones among them."""
        numbers = NumberSet()
        for slot, _ in self._store.nodes.held_by_slot(name):
            if slot > LAST_SLOT:
                numbers.add_all(number_of(first_of(slot)), span(0, length_of(slot) - 1))
            else:
                numbers.add(number_of(slot))
        return numbers.within(0, HIGHEST_PORT)

    def foreign_on(self, name: NodeName) -> list[tuple[PortKey, Listener, float]]:
        """Every socket of a node that nobody who is settled there declares, in order, and since when, in seconds."""
        entry = self.sockets.entries.get(name)
        if entry is None or entry.sockets is None:
            return []
        found = list[tuple[PortKey, Listener, float]]()
        for slot in entry.foreign():
            since = entry.sockets.since(slot) or 0.0
            for socket in entry.undeclared_at(slot):
                found.append((PortKey(socket.ip, protocol_of(slot), number_of(slot)), socket, since))
        return sorted(found, key=lambda each: (each[0].protocol.value, each[0].number, each[0].ip))

    def port_map(self, name: NodeName) -> list[tuple[PortKey, Claim]]:
        """Every port that is held on a node, with its holder, pending ones aside."""
        held = self._store.ports.port_map(name)
        return [(key, claim) for key, claim in held if claim.id not in self._pending]


def is_over(claim: Claim, now: float) -> bool:
    """Whether a lease has run out, though its end is not made durable yet. A reservation ends only when that is."""
    return claim.state is State.LEASED and claim.expires is not None and claim.expires <= now
