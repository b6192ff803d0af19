"""What is said of an ask that does not fit, or that fits with a catch: which port, where, held by whom, what to do.

A holder of another namespace is not named, unless the operator allows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from allocator.core.asks import Ask, Mistake, Policy, PortAsk, Warned
from allocator.core.claims import Claim, ClaimId, Owner
from allocator.core.matching import World, free_nodes, open_for_lease
from allocator.core.policy import Group
from allocator.core.ports import PortKey, format_numbers, span
from allocator.core.scopes import Scope
from allocator.core.search import Demand, Numbers, usable
from hostport.contract import Notice, Reason

SHOWN_HOLDERS = 3

Fixed = Sequence[tuple[PortAsk, PortKey]]
"""Ports whose numbers are not ours to choose."""


def leased(ask: Ask, fixed: Fixed, scope: Scope, world: World) -> Iterator[Mistake]:
    """A sentence for each number that is leased on a candidate."""
    for port, key in fixed:
        nodes = world.occupancy.leased(key) & scope.nodes
        if nodes:
            where = _held_on(ask, key, nodes, world, frozenset())
            message = f"{port}: {key} is leased: {where}. Choose another number, or keep the Pod off that node"
            yield Mistake(Reason.HELD_BY_LEASE, "ports", message)


def reserved(ask: Ask, groups: Sequence[Group], numbers: Numbers, world: World) -> Iterator[Mistake]:
    """A sentence for each reserved number that a policy chose."""
    if not ask.policy.is_ranged:
        return
    for group, number in zip(groups, numbers, strict=True):
        if not group.is_users and world.reserved >> number & 1:
            yield Mistake(Reason.PORT_RESERVED, "range", f"{number} is reserved in this cluster. Choose another range")


def undecided(wanted: Demand) -> str:
    """What is said when the search was cut off."""
    what = f"{len(wanted.ask.ports)} ports" if len(wanted.ask.ports) > 1 else "a port"
    return (
        f"the search for {what} on {_count(wanted.scope.nodes)} was cut off before it was known whether there is room."
        " Retry. Fewer ports in one Pod, or fewer Pods that wait for a node, make the search shorter"
    )


def conflicts(ask: Ask, fixed: Fixed, scope: Scope, world: World, exempt: frozenset[ClaimId]) -> list[Mistake]:
    """A sentence for each number that no candidate has free; one for all where only their combination fails."""
    mistakes = []
    for port, key in fixed:
        if ask.owner.is_pod and free_nodes([key], scope, world, exempt):
            continue
        if not ask.owner.is_pod and open_for_lease([key], scope.nodes, world):
            continue
        held = world.occupancy.conflicting(key) & scope.nodes
        where = _held_on(ask, key, held, world, exempt) if held else "a Pod that has no node yet may land there"
        remedy = _of_rollout(ask, key, held, world, exempt) or "Choose another number or free it"
        message = f"{port}: {key} is taken {_on_all(scope.nodes)}: {where}. {remedy}"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, "ports", message))
    if not mistakes:
        numbers = ", ".join(str(key) for _, key in fixed)
        message = f"{numbers} are each free somewhere, but not together on one of {_count(scope.nodes)}"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, "ports", message))
    return mistakes


def exhausted(ask: Ask, groups: Sequence[Group], scope: Scope, world: World) -> Mistake:
    wanted = sum(1 for group in groups if not group.number)
    reserved = span(ask.low, ask.high) & world.reserved
    aside = f", {format_numbers(reserved)} reserved" if reserved else ""
    left = "no number" if wanted == 1 else f"no {wanted} numbers"
    message = (
        f"range {ask.low}-{ask.high} ({usable(ask, world).bit_count()} numbers{aside}) has {left} left"
        f" {_on_any(scope.nodes)}. Widen it with {ask.setting('min-port')} and {ask.setting('max-port')}, or free ports"
    )
    return Mistake(Reason.RANGE_EXHAUSTED, "range", message)


def behind(ask: Ask, in_the_way: Sequence[Claim], world: World) -> Iterator[Warned]:
    """Holders that will go: the Pod is planned behind them."""
    for claim in in_the_way:
        who = _holder(ask, claim, world)
        if claim.is_terminating:
            message = f"{who} on node {claim.node} is terminating: the Pod waits until it is gone"
            yield Warned(Notice.BEHIND_TERMINATING, message)
        else:
            message = f"{who} on node {claim.node} has a lower priority: the scheduler may preempt it"
            yield Warned(Notice.BEHIND_PREEMPTED, message)


def full(scope: Scope) -> Warned:
    message = f"every one of {_count(scope.nodes)} is full: the Pod stays Pending until there is room or another node"
    return Warned(Notice.ALL_FULL, message)


def cautions(ask: Ask, groups: Iterable[Group], scope: Scope, world: World) -> Iterator[Warned]:
    """What may surprise people although the ask is granted."""
    named = 0
    for group in groups if world.reserved else ():
        if group.number and (group.is_users or ask.policy in {Policy.PASSTHROUGH, Policy.STATIC}):
            named |= world.reserved & 1 << group.number
    if named:
        message = f"{format_numbers(named)} is reserved in this cluster (the node's own services use it)"
        yield Warned(Notice.RESERVED_PORT, message)
    if not scope.nodes:
        message = "no node satisfies nodeSelector, node affinity and taints: the Pod stays Pending until one does"
        yield Warned(Notice.NO_CANDIDATE, message)


def _held_on(ask: Ask, key: PortKey, nodes: int, world: World, exempt: frozenset[ClaimId]) -> str:
    parts = []
    for name in islice(world.occupancy.names_of(nodes), SHOWN_HOLDERS):
        holders = [claim for claim in world.occupancy.holders(name, key) if claim.id not in exempt]
        parts.append(f"{name} by {', '.join(_holder(ask, claim, world) for claim in holders[:SHOWN_HOLDERS])}")
    more = nodes.bit_count() - SHOWN_HOLDERS
    return ", ".join(parts) + (f", and on {more} more" if more > 0 else "")


def _of_rollout(ask: Ask, key: PortKey, nodes: int, world: World, exempt: frozenset[ClaimId]) -> str:
    """What to do where the Pod's own workload holds the number on some node: it makes new Pods before old ones go."""
    for name in islice(world.occupancy.names_of(nodes), SHOWN_HOLDERS):
        for claim in world.occupancy.holders(name, key):
            if claim.id not in exempt and is_of_one_workload(claim.owner, ask.owner):
                return (
                    "Pods of the same workload hold it: with a rolling update set maxSurge 0 (and maxUnavailable 1) or"
                    " strategy Recreate, run at most one replica for each node, or use policy Dynamic"
                )
    return ""


def is_of_one_workload(one: Owner, other: Owner) -> bool:
    """Whether two Pods were made for one workload: by one controller, or by two ReplicaSets of one Deployment."""
    if not (one.is_pod and other.is_pod and one.namespace == other.namespace):
        return False
    if one.controller_uid and one.controller_uid == other.controller_uid:
        return True
    stems = {_stem(each.generate_name) for each in (one, other) if each.controller_uid}
    return len(stems) == 1 and "" not in stems and bool(one.controller_uid and other.controller_uid)


def _stem(generate_name: str) -> str:
    """`web` of a ReplicaSet's `web-5c86cff746-`; empty for names that no Deployment gives."""
    named = re.fullmatch(r"(.+)-[bcdfghjklmnpqrstvwxz2456789]{5,10}-", generate_name)
    return named[1] if named else ""


def _holder(ask: Ask, claim: Claim, world: World) -> str:
    owner = claim.owner
    if world.discloses_holders or not owner.namespace or owner.namespace == ask.owner.namespace:
        return f"{owner}" if owner.is_pod else f"lease {claim.id} of {owner}"
    return "a Pod of another namespace" if owner.is_pod else "a lease of another namespace"


def _on_all(nodes: int) -> str:
    return "on the only candidate node" if nodes.bit_count() == 1 else f"on all {_count(nodes)}"


def _on_any(nodes: int) -> str:
    return "on the only candidate node" if nodes.bit_count() == 1 else f"on any of {_count(nodes)}"


def _count(nodes: int) -> str:
    return f"{nodes.bit_count()} candidate nodes"
