"""Where an ask fits: the numbers that its policy left open, and a node where all of its numbers are free together.

Rules:

* A denial is a proof: no candidate can take the numbers, even after moving plans, and for Dynamic no numbers of the
  range are left on any. A search that was cut off is neither yes nor no (`UndecidedError`).
* Every way to an answer ends in the same checks: no number that is leased on any candidate, since the scheduler does
  not know leases and might choose that node; no number under Index or Dynamic that is reserved.
* Holders that will go are no reason to refuse: those that terminate, and those that the Pod may preempt. Where nothing
  is free the Pod is planned behind them, under every policy. (A Pending Pod starts the moment the port is free; a
  refused one after a long back-off.)
* A lease stands at once, so it needs one node: where nobody stands with its numbers, and where no unsettled claim that
  has one of them could land.
* Succession: holders with the namespace and name of the asking Pod do not conflict with it (the predecessor, or the
  Pod itself if this create fails with AlreadyExists).
* No candidate at all: a Pod is admitted without a node, as Kubernetes leaves it Pending.

Nothing here changes anything: a dry run is this module's answer, an allocation is the same answer made to stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from allocator.core import refusals
from allocator.core.asks import Ask, Mistake, Refused, UndecidedError, Warned, WhenFull
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import ClaimId, ClaimPort
from allocator.core.matching import (
    Move,
    Spot,
    Steps,
    World,
    blockers,
    find_moves,
    find_spot,
    find_wait,
    free_nodes,
    key_of,
    open_for_lease,
    rank_of,
    somebody_goes,
)
from allocator.core.policy import Group, number_groups
from allocator.core.ports import PortKey
from allocator.core.search import Demand, Numbers, choices, lowest_free
from allocator.core.together import Stage, Together, anyhow
from hostport.contract import Reason

WAIT_STEPS = 500
"""Steps to look for holders that will go, where the search before has used up all."""

LIKELY_STEPS = 100
"""Steps for each choice of Dynamic that is only likely: the verdict has steps of its own."""


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
        Refused: the ask is wrong in itself, or it is proven that nothing fits.
        UndecidedError: the search was cut off before either was known.

    """
    ask = ask.with_unset_defaults()
    groups = number_groups(ask, world.reserved)
    scope = world.occupancy.scope(context.within)
    if ask.owner.is_pod:
        rank = rank_of(ask.priority, may_preempt=ask.may_preempt)
        wanted = Demand(ask, groups, scope, world, context.exempt, rank)
        return _Pod(wanted, context).placed()
    return _placed_lease(Demand(ask, groups, scope, world))


class _Pod:
    """The way of one Pod's ask. Every way out is `_granted`."""

    def __init__(self, wanted: Demand, context: Context) -> None:
        self._wanted = wanted
        self._context = context
        self._steps = Steps()
        self._has_leases = wanted.world.occupancy.has_leases

    def placed(self) -> Placement:
        wanted = self._wanted
        if self._has_leases:
            self._check_leases(fixed_of(wanted))
        found = self._likely() or self._free() or self._behind() or self._pending()
        if found:
            return found
        if self._steps.are_spent:
            raise UndecidedError(refusals.undecided(wanted))
        raise Refused(*self._denial())

    def _likely(self) -> Placement | None:
        """What is nearly always the answer. Finding nothing here proves nothing."""
        wanted, context = self._wanted, self._context
        scope, world = wanted.scope, wanted.world
        previous = _by_group(context.previous, wanted.groups)
        used = (_by_group(numbers, wanted.groups) for numbers in context.used)
        for numbers in choices(wanted, previous=previous, used=used, steps=self._steps):
            if not scope.nodes:
                return self._granted(numbers, None)
            keys = wanted.keys(numbers)
            if self._has_leases and wanted.is_open and wanted.is_leased(keys):
                continue
            nodes = free_nodes(keys, scope, world, wanted.exempt)
            if nodes:
                return self._granted(numbers, Spot(world.occupancy.pick(nodes)))
            steps = Steps(LIKELY_STEPS) if wanted.is_open else self._steps
            spot = find_moves(wanted.seeker(keys), world, steps)
            if spot:
                return self._granted(numbers, spot)
        return None

    def _free(self) -> Placement | None:
        """Any numbers that are free together on one node, now or once plans are moved."""
        wanted = self._wanted
        for stage in (Stage.FREE, Stage.MOVING) if wanted.is_open and wanted.scope.nodes else ():
            for numbers, nodes in Together(wanted, stage, self._steps).tuples():
                seeker = wanted.seeker(wanted.keys(numbers), nodes)
                spot = find_spot(seeker, wanted.scope, wanted.world, self._steps)
                if spot:
                    return self._granted(numbers, spot)
                if self._steps.are_spent:
                    return None
        return None

    def _behind(self) -> Placement | None:
        """Behind holders that will go: they terminate, or the scheduler may preempt them."""
        wanted = self._wanted
        if not somebody_goes(wanted.seeker(()), wanted.world):
            return None
        # What it looks at has all that was looked at before.
        steps = self._steps = Steps(max(self._steps.left, WAIT_STEPS))
        if not wanted.is_open:
            tries: Iterable[tuple[Numbers, int]] = [(wanted.numbers(()), wanted.scope.nodes)]
        else:
            tries = Together(wanted, Stage.WAITING, steps).tuples()
        for numbers, nodes in tries:
            spot = find_wait(wanted.seeker(wanted.keys(numbers), nodes), wanted.world, steps)
            if spot:
                return self._granted(numbers, spot, *self._before_it(numbers, spot))
            if steps.are_spent:
                return None
        return None

    def _pending(self) -> Placement | None:
        """Without a node, where that is wanted and it is proven that there is none."""
        if self._context.when_full is not WhenFull.PENDING or self._steps.are_spent:
            return None
        numbers = anyhow(self._wanted)
        if not numbers:
            return None
        return self._granted(numbers, None, refusals.full(self._wanted.scope))

    def _granted(self, numbers: Numbers, spot: Spot | None, *more: Warned) -> Placement:
        """The answer, after the checks that every answer passes.

        Raises:
            Refused: a number is leased on a candidate, or reserved.

        """
        wanted = self._wanted
        ask, world = wanted.ask, wanted.world
        if self._has_leases and wanted.is_open:
            self._check_leases(_asked(wanted, numbers))
        if world.reserved and (mistakes := tuple(refusals.reserved(ask, wanted.groups, numbers, world))):
            raise Refused(*mistakes)
        warnings = (*refusals.cautions(ask, wanted.groups, wanted.scope, world), *more)
        node, moves = (spot.node, spot.moves) if spot else (None, ())
        return Placement(_ports(ask, wanted.groups, numbers), node, warnings, moves)

    def _check_leases(self, asked: refusals.Fixed) -> None:
        """Raises Refused where one of the numbers is leased on a candidate."""
        mistakes = tuple(refusals.leased(self._wanted.ask, asked, self._wanted.scope, self._wanted.world))
        if mistakes:
            raise Refused(*mistakes)

    def _before_it(self, numbers: Numbers, spot: Spot) -> Iterable[Warned]:
        """Who will have to go before the Pod can start."""
        wanted = self._wanted
        moved = {claim_id for claim_id, _ in spot.moves}
        in_the_way = blockers(wanted.keys(numbers), spot.node, wanted.world, wanted.exempt | moved)
        return refusals.behind(wanted.ask, in_the_way, wanted.world)

    def _denial(self) -> Iterable[Mistake]:
        """What is proven: that the fixed ports fit nowhere, or that the open ones have no numbers left.

        Raises:
            UndecidedError: not which of the two.

        """
        wanted = self._wanted
        ask, fixed = wanted.ask, fixed_of(wanted)
        if wanted.is_open and self._fits(tuple(key for _, key in fixed)):
            return [refusals.exhausted(ask, wanted.groups, wanted.scope, wanted.world)]
        return refusals.conflicts(ask, fixed, wanted.scope, wanted.world, wanted.exempt)

    def _fits(self, keys: tuple[PortKey, ...]) -> bool:
        """Whether the fixed ports have a node by themselves."""
        if not keys:
            return True
        wanted, steps = self._wanted, Steps()
        spot = find_spot(wanted.seeker(keys), wanted.scope, wanted.world, steps)
        if spot is None and steps.are_spent:
            raise UndecidedError(refusals.undecided(wanted))
        return spot is not None


def _placed_lease(wanted: Demand) -> Placement:
    """A lease stands at once: where nobody has its numbers, and where no unsettled claim could land with them.

    Raises:
        Refused, UndecidedError: as for `place`.

    """
    ask, groups, scope, world = wanted.ask, wanted.groups, wanted.scope, wanted.world
    if not scope.nodes:
        raise Refused(Mistake(Reason.NODE_NOT_FOUND, "constraints", "no known node satisfies the constraints"))
    fixed = fixed_of(wanted)
    nodes = open_for_lease([key for _, key in fixed], scope.nodes, world)
    if not nodes:
        raise Refused(*refusals.conflicts(ask, fixed, scope, world, frozenset()))
    if not wanted.is_open:
        return _leased(wanted, wanted.numbers(()), nodes)
    steps = Steps()
    numbers = lowest_free(wanted, steps)
    if numbers:
        return _leased(wanted, numbers, nodes)
    for numbers, some in Together(wanted, Stage.LEASE, steps).tuples():
        here = open_for_lease(wanted.keys(numbers), some, world)
        if here:
            return _leased(wanted, numbers, here)
    if steps.are_spent:
        raise UndecidedError(refusals.undecided(wanted))
    raise Refused(refusals.exhausted(ask, groups, scope, world))


def _leased(wanted: Demand, numbers: Numbers, nodes: int) -> Placement:
    warnings = refusals.cautions(wanted.ask, wanted.groups, wanted.scope, wanted.world)
    node = wanted.world.occupancy.pick(nodes)
    return Placement(_ports(wanted.ask, wanted.groups, numbers), node, tuple(warnings))


def fixed_of(wanted: Demand) -> refusals.Fixed:
    """The ports whose numbers are not ours to choose."""
    return [
        (wanted.ask.ports[member], key_of(wanted.ask.ports[member], group.number))
        for group in wanted.groups
        if group.number
        for member in group.members
    ]


def _asked(wanted: Demand, numbers: Numbers) -> refusals.Fixed:
    ports = (wanted.ask.ports[member] for group in wanted.groups for member in group.members)
    return list(zip(ports, wanted.keys(numbers), strict=True))


def _by_group(by_port: Numbers, groups: Sequence[Group]) -> Numbers:
    """Numbers of ports as numbers of groups; nothing where the members of a group differ."""
    if not by_port or any(len({by_port[member] for member in group.members}) != 1 for group in groups):
        return ()
    return tuple(by_port[group.members[0]] for group in groups)


def _ports(ask: Ask, groups: Sequence[Group], numbers: Numbers) -> tuple[ClaimPort, ...]:
    number_of = {member: number for group, number in zip(groups, numbers, strict=True) for member in group.members}
    return tuple(
        [
            ClaimPort(
                container=port.container,
                name=port.name,
                protocol=port.protocol,
                container_port=port.container_port,
                host_port=number_of[position],
                host_ip=port.host_ip,
            )
            for position, port in enumerate(ask.ports)
        ]
    )
