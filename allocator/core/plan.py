"""Where an ask fits: the numbers that its policy left open, and a node where all of its numbers are free together.

Rules:

* Fixed numbers are refused only when no candidate can take them all, even after moving plans. A number that is leased
  on any candidate is refused: the scheduler does not know leases and might choose that node.
* No conflict for admission are holders that will go: those that terminate, and those that the Pod may preempt. The Pod
  is planned behind them. (A Pending Pod starts the moment the port is free; a refused one after a long back-off.)
* A lease stands at once, so it needs one node: where nobody stands with its numbers, and where no unsettled claim that
  has one of them could land.
* Succession: holders with the namespace and name of the asking Pod do not conflict with it (the predecessor, or the
  Pod itself if this create fails with AlreadyExists).
* No candidate at all: a Pod is admitted without a node, as Kubernetes leaves it Pending.

Nothing here changes anything: a dry run is this module's answer, an allocation is the same answer made to stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from allocator.core import refusals
from allocator.core.asks import Ask, Mistake, Refused, Warned, WhenFull
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import ClaimId, ClaimPort
from allocator.core.occupancy import Scope
from allocator.core.policy import Group, number_groups
from allocator.core.ports import PortKey, normalise_ip
from allocator.core.room import Move, World, blockers, find_spot, find_wait, free_nodes, gives_way
from allocator.core.search import Numbers, choices, lowest_free
from hostport.contract import Reason


class Placement(msgspec.Struct, frozen=True, gc=False):
    """The answer to an ask: its ports in the order of the ask, the node to stand on, and the plans to move first."""

    ports: tuple[ClaimPort, ...]
    node: NodeName | None
    warnings: tuple[Warned, ...] = ()
    moves: tuple[Move, ...] = ()


class Context(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the ledger knows of the asking owner.

    within: where it may run; what it asks for, unless the operator knows better.
    exempt: claims that do not conflict with it: its predecessors, and itself where it stands already.
    previous: the numbers that it had, one for each port, or nothing.
    used: the numbers of live claims of the same shape, one for each port.
    when_full: what becomes of a Pod that fits nowhere.
    """

    within: Constraints
    exempt: frozenset[ClaimId] = frozenset()
    previous: Numbers = ()
    used: Iterable[Numbers] = ()
    when_full: WhenFull = WhenFull.DENY


def place(ask: Ask, world: World, context: Context) -> Placement:
    """Numbers and a node for an ask.

    Raises:
        Refused: the ask is wrong in itself, or nothing fits.

    """
    ask = ask.with_unset_defaults()
    groups = number_groups(ask, world.reserved)
    scope = world.occupancy.scope(context.within)
    if ask.owner.is_pod:
        return _place_pod(ask, groups, scope, world, context)
    return _place_lease(ask, groups, scope, world)


def _place_pod(ask: Ask, groups: Sequence[Group], scope: Scope, world: World, context: Context) -> Placement:
    fixed = _fixed(ask, groups)
    mistakes = tuple(refusals.leased(ask, fixed, scope, world)) if fixed else ()
    if mistakes:
        raise Refused(*mistakes)
    warnings = tuple(refusals.cautions(ask, groups, scope, world))
    previous = _by_group(context.previous, groups)
    used = (_by_group(numbers, groups) for numbers in context.used)
    for numbers in choices(ask, groups, scope, world, previous=previous, used=used):
        keys = tuple(_keys(ask, groups, numbers))
        if not scope.nodes:
            return Placement(_ports(ask, groups, numbers), None, warnings)
        if len(fixed) < len(keys) and any(world.occupancy.leased(key) & scope.nodes for key in keys):
            continue
        spot = find_spot(keys, scope, world, context.exempt)
        if spot:
            return Placement(_ports(ask, groups, numbers), spot.node, warnings, spot.moves)
    return _place_later(ask, groups, scope, world, context, warnings)


def _place_later(
    ask: Ask, groups: Sequence[Group], scope: Scope, world: World, context: Context, warnings: tuple[Warned, ...]
) -> Placement:
    """Nothing is free now: behind holders that will go, Pending where that is wanted, else refused.

    Raises:
        Refused: nothing of that.

    """
    fixed = _fixed(ask, groups)
    is_fixed = all(group.number for group in groups)
    numbers = tuple(group.number for group in groups)
    if is_fixed:
        keys = tuple(key for _, key in fixed)
        rank, may_preempt = ask.priority, ask.may_preempt
        spot = find_wait(keys, scope, world, context.exempt, priority=rank, may_preempt=may_preempt)
        if spot:
            in_the_way = blockers(keys, spot.node, world, context.exempt)
            going = [claim for claim in in_the_way if gives_way(claim, rank, may_preempt=may_preempt)]
            told = refusals.behind(ask, going, world)
            return Placement(_ports(ask, groups, numbers), spot.node, (*warnings, *told), spot.moves)
    if context.when_full is WhenFull.PENDING:
        if not is_fixed:
            numbers = lowest_free(ask, groups, world, lambda *_: 0)
        if numbers:
            return Placement(_ports(ask, groups, numbers), None, (*warnings, refusals.full(scope)))
    if is_fixed or (fixed and not find_spot(tuple(key for _, key in fixed), scope, world, context.exempt)):
        raise Refused(*refusals.conflicts(ask, fixed, scope, world, context.exempt))
    raise Refused(refusals.exhausted(ask, groups, scope, world))


def _place_lease(ask: Ask, groups: Sequence[Group], scope: Scope, world: World) -> Placement:
    if not scope.nodes:
        raise Refused(Mistake(Reason.NODE_NOT_FOUND, "constraints", "no known node satisfies the constraints"))
    occupancy = world.occupancy
    fixed = _fixed(ask, groups)
    nodes = free_nodes([key for _, key in fixed], scope, world, frozenset())
    for _, key in fixed:
        nodes &= ~occupancy.landable(key)
    if not nodes:
        raise Refused(*refusals.conflicts(ask, fixed, scope, world, frozenset()))
    warnings = tuple(refusals.cautions(ask, groups, scope, world))
    if len(fixed) == len(ask.ports):
        numbers = tuple(group.number for group in groups)
        return Placement(_ports(ask, groups, numbers), occupancy.pick(nodes), warnings)
    numbers = lowest_free(ask, groups, world, partial(occupancy.taken, scope))
    if numbers:
        return Placement(_ports(ask, groups, numbers), occupancy.pick(nodes), warnings)
    for name in occupancy.names_of(nodes):
        numbers = lowest_free(ask, groups, world, partial(occupancy.taken_on, name))
        if numbers:
            return Placement(_ports(ask, groups, numbers), name, warnings)
    raise Refused(refusals.exhausted(ask, groups, scope, world))


def _fixed(ask: Ask, groups: Iterable[Group]) -> refusals.Fixed:
    return [(ask.ports[m], _key(ask, m, group.number)) for group in groups if group.number for m in group.members]


def _keys(ask: Ask, groups: Iterable[Group], numbers: Numbers) -> Iterable[PortKey]:
    return (
        _key(ask, member, number) for group, number in zip(groups, numbers, strict=True) for member in group.members
    )


def _key(ask: Ask, member: int, number: int) -> PortKey:
    port = ask.ports[member]
    return PortKey(normalise_ip(port.host_ip), port.protocol, number)


def _by_group(by_port: Numbers, groups: Sequence[Group]) -> Numbers:
    """Numbers of ports as numbers of groups; nothing where the members of a group differ."""
    if not by_port or any(len({by_port[member] for member in group.members}) != 1 for group in groups):
        return ()
    return tuple(by_port[group.members[0]] for group in groups)


def _ports(ask: Ask, groups: Sequence[Group], numbers: Numbers) -> tuple[ClaimPort, ...]:
    number_of = {member: number for group, number in zip(groups, numbers, strict=True) for member in group.members}
    return tuple(
        ClaimPort(
            container=port.container,
            name=port.name,
            protocol=port.protocol,
            container_port=port.container_port,
            host_port=number_of[position],
            host_ip=port.host_ip,
        )
        for position, port in enumerate(ask.ports)
    )
