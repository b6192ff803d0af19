"""Where claims fit, and how to make room by moving plans.

A plan is only where we think a Pod will land: it may be moved to any candidate of its claim that is free for it. An ask
that finds no free node may still fit after moving one plan, which may need another one moved, and so on: an augmenting
path, as in bipartite matching. For claims of one port each this finds a place whenever there is one. Claims of several
ports make the problem hard in general, so that the search is bounded.

Where nothing is free, a plan may *wait*: stand on a node behind holders that will go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, Owner
from allocator.core.occupancy import Occupancy, Scope
from allocator.core.ports import PortKey

MOST_VISITS = 512
"""Nodes that one search may look at: well under a millisecond for the usual chain."""

MOST_WAITS = 256
"""Nodes that are looked at for holders that will go."""


@dataclass(frozen=True, slots=True)
class World:
    """What a plan is made against."""

    occupancy: Occupancy
    claims: Mapping[ClaimId, Claim]
    named: Callable[[Owner], frozenset[ClaimId]]  # the claims of Pods with this namespace and name
    reserved: int = 0  # numbers that Dynamic and Index never hand out
    discloses_holders: bool = False  # name holders of other namespaces in messages


Move = tuple[ClaimId, NodeName]
"""A plan and the node where it is to stand."""


class Spot(msgspec.Struct, frozen=True, gc=False):
    """A node to stand on, free after some moves, which are to be made in order."""

    node: NodeName
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seeker:
    """Who needs a node: the ask, or the plan `claim` in the way of `parent`. `waits`: also behind terminating Pods."""

    keys: tuple[PortKey, ...]
    scope: Scope
    exempt: frozenset[ClaimId]
    waits: bool = False
    claim: Claim | None = None
    parent: _Seeker | None = None


def find_spot(keys: tuple[PortKey, ...], scope: Scope, world: World, exempt: frozenset[ClaimId]) -> Spot | None:
    """A node of the scope for all the keys, moving plans if need be; None where there is none."""
    nodes = free_nodes(keys, scope, world, exempt)
    if nodes:
        return Spot(world.occupancy.pick(nodes))
    return _make_room(_Seeker(keys, scope, exempt), world)


def find_wait(
    keys: tuple[PortKey, ...],
    scope: Scope,
    world: World,
    exempt: frozenset[ClaimId],
    *,
    priority: int,
    may_preempt: bool,
) -> Spot | None:
    """A node of the scope where all who are in the way will go: by themselves, moving plans if need be, or because the
    scheduler may preempt them for a Pod of this priority.
    """
    leaving = _leaving(keys, scope, world)
    if leaving:
        seeker = _Seeker(keys, scope, exempt | leaving, waits=True)
        nodes = free_nodes(keys, scope, world, seeker.exempt)
        spot = Spot(world.occupancy.pick(nodes)) if nodes else _make_room(seeker, world)
        if spot:
            return spot
    if not may_preempt or world.occupancy.lowest_priority() >= priority:
        return None
    for node in islice(world.occupancy.names_of(scope.nodes), MOST_WAITS):
        in_the_way = blockers(keys, node, world, exempt)
        if all(gives_way(claim, priority, may_preempt=True) for claim in in_the_way):
            return Spot(node)
    return None


def gives_way(holder: Claim, priority: int, *, may_preempt: bool) -> bool:
    """Whether a holder will go before a Pod of some priority: it terminates, or the scheduler may preempt it."""
    if not holder.is_settled or not holder.owner.is_pod:
        return False
    return holder.is_terminating or (may_preempt and holder.priority < priority)


def _leaving(keys: Iterable[PortKey], scope: Scope, world: World) -> frozenset[ClaimId]:
    """The terminating Pods that hold one of the keys on a scope's nodes."""
    occupancy = world.occupancy
    return frozenset(
        claim.id
        for key in keys
        for node in islice(occupancy.names_of(occupancy.leaving(key) & scope.nodes), MOST_WAITS)
        for claim in blockers([key], node, world, frozenset())
        if claim.is_settled and claim.is_terminating
    )


def free_nodes(keys: Iterable[PortKey], scope: Scope, world: World, exempt: frozenset[ClaimId]) -> int:
    """The nodes of a scope on which all the keys are free together, whoever is exempt aside."""
    nodes = scope.nodes
    for key in keys:
        nodes &= ~_blocked(key, nodes, world, exempt)
    return nodes


def blockers(keys: Iterable[PortKey], node: NodeName, world: World, exempt: frozenset[ClaimId]) -> list[Claim]:
    """Who stands in the way of the keys on a node, each once."""
    found = {holder.id: holder for key in keys for holder in world.occupancy.holders(node, key)}
    return [holder for holder in found.values() if holder.id not in exempt]


def _blocked(key: PortKey, nodes: int, world: World, exempt: frozenset[ClaimId]) -> int:
    """Those of the nodes where anybody conflicts with the key who is not exempt."""
    blocked = world.occupancy.conflicting(key) & nodes
    for node in _nodes_of(exempt, world) if blocked else ():
        if all(holder.id in exempt for holder in world.occupancy.holders(node, key)):
            blocked &= ~world.occupancy.only(node)
    return blocked


def _settled(key: PortKey, nodes: int, world: World, exempt: frozenset[ClaimId]) -> int:
    """Those of the nodes where anybody who is settled conflicts with the key and is not exempt."""
    settled = world.occupancy.settled(key) & nodes
    for node in _nodes_of(exempt, world) if settled else ():
        if not any(claim.is_settled for claim in blockers([key], node, world, exempt)):
            settled &= ~world.occupancy.only(node)
    return settled


def _nodes_of(claims: Iterable[ClaimId], world: World) -> Iterator[NodeName]:
    return (node for claim_id in claims if (node := world.claims[claim_id].node) is not None)


def _make_room(root: _Seeker, world: World) -> Spot | None:
    """Breadth first over the nodes where one plan alone is in the way, so that as few as possible are moved."""
    occupancy = world.occupancy
    if not _may_have_room(root, world):
        return None
    visited, visits = 0, 0
    seekers = deque([root])
    while seekers and visits < MOST_VISITS:
        seeker = seekers.popleft()
        free = free_nodes(seeker.keys, seeker.scope, world, seeker.exempt) & ~visited
        if free:
            return _unwound(seeker, occupancy.pick(free))
        reachable = seeker.scope.nodes & ~visited
        for key in seeker.keys:
            reachable &= ~_settled(key, reachable, world, seeker.exempt)
        visited |= reachable
        for node in occupancy.names_of(reachable):
            visits += 1
            if visits >= MOST_VISITS:
                break
            in_the_way = blockers(seeker.keys, node, world, seeker.exempt)
            if len(in_the_way) == 1 and not in_the_way[0].is_settled:
                seekers.append(_displaced(in_the_way[0], seeker, world))
    return None


def _may_have_room(root: _Seeker, world: World) -> bool:
    """Whether each key is free on any node that a chain of moves could reach: a look at few sets before many nodes."""
    reaches = ((key, world.occupancy.reach(key, root.scope)) for key in root.keys)
    return all(nodes & ~_blocked(key, nodes, world, root.exempt) for key, nodes in reaches)


def _displaced(claim: Claim, by: _Seeker, world: World) -> _Seeker:
    keys, scope = tuple(claim.keys), world.occupancy.scope(claim.constraints)
    exempt = world.named(claim.owner) | {claim.id}
    if by.waits:
        exempt |= _leaving(keys, scope, world)
    return _Seeker(keys, scope, exempt, by.waits, claim, by)


def _unwound(seeker: _Seeker, node: NodeName) -> Spot:
    """The moves of a path, the last one first, so that each finds its node free."""
    moves: list[Move] = []
    while seeker.claim is not None and seeker.parent is not None:
        claim = seeker.claim
        if claim.node is None:
            raise AssertionError(f"claim {claim.id} stands nowhere")
        moves.append((claim.id, node))
        seeker, node = seeker.parent, claim.node
    return Spot(node, tuple(moves))
