"""Where an ask fits: the numbers that its policy left open, and a node where all of its numbers are free together.

Rules:

* A denial is a proof: no candidate can take the numbers, even after moving plans, and for Dynamic no numbers of the
  range are left on any. A search that was cut off is neither yes nor no (`UndecidedError`).
* Every way to an answer ends in the same checks: no number that is leased on any candidate, since the scheduler does
  not know leases and might choose that node; none that a Service holds, which is taken on every node; no number under
  Index or Dynamic that is reserved. A Pod is kept off the candidates where its fixed number is leased, or a
  process has its number, if whoever asks can do so (`steering`).
* Holders that will go are no reason to refuse: those that terminate, and those that the Pod may preempt. Where nothing
  is free the Pod is planned behind them, under every policy. (A Pending Pod starts the moment the port is free; a
  refused one after a long back-off.)
* A lease stands at once, so it needs one node: where nobody stands with its numbers, and where no unsettled claim that
  has one of them could land.
* What was given up lately cools down (`index/cooling.py`): it is given where nothing else is free, but to who had it.
* Succession: holders with the namespace and name of the asking Pod do not conflict with it (the predecessor, or the
  Pod itself if this create fails with AlreadyExists).
* No candidate at all: a Pod is admitted without a node, as Kubernetes leaves it Pending.

Nothing here changes anything: a dry run is this module's answer, an allocation is the same answer made to stand.

Longer than 350 lines because every way to an answer, and the checks in which all of them end, are read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from allocator.core.asks import Ask, PortGroup, Refused, UndecidedError, WhenFull
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import ClaimId, ClaimPort
from allocator.core.index.cooling import CoolDown
from allocator.core.place import denials, steering
from allocator.core.place.assignment import MOST_COMPARED, roomiest, without_node
from allocator.core.place.cool import cool_choices, cool_places
from allocator.core.place.joint import JointSearch, Stage
from allocator.core.place.matching import find_moves, find_node, find_wait, somebody_goes
from allocator.core.place.policies import is_named, number_groups, with_unset_defaults
from allocator.core.place.view import (
    Demand,
    Move,
    NodeChoice,
    Numbers,
    Pick,
    PlacementView,
    Steps,
    free_nodes,
    open_for_lease,
)
from allocator.core.ports import PortKey
from hostport.contract import Mistake, Notice, PodWarning, Reason

WAIT_STEPS = 500
"""Steps to look for holders that will go, where the search before has used up all."""

LIKELY_STEPS = 100
"""Steps for each choice of numbers that is only likely: the proof (`joint`) has steps of its own."""


class Placement(msgspec.Struct, frozen=True, gc=False):
    """The answer to an ask: its ports in the order of the ask, the node to stand on, and the plans to move first.

    within: where the owner may run, where that is less than it asked for; None: all of it.
    """

    ports: tuple[ClaimPort, ...]
    node: NodeName | None
    warnings: tuple[PodWarning, ...] = ()
    moves: tuple[Move, ...] = ()
    within: Constraints | None = None


class OwnerContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the ledger knows of the asking owner.

    is_pod: whether it is a Pod, or else leases.
    within: where it may run; what it asks for, unless the operator knows better.
    exempt: claims that do not conflict with it: its predecessors, and itself where it stands already.
    previous: the numbers that it had, one for each port, or nothing.
    used: the numbers of live claims of the same shape, one for each port.
    cooling: what cools for it. pick: see `Demand`.
    when_full: what becomes of a Pod that fits nowhere.
    """

    is_pod: bool
    within: Constraints
    exempt: frozenset[ClaimId] = frozenset()
    previous: Numbers = ()
    used: Iterable[Numbers] = ()
    when_full: WhenFull = WhenFull.DENY
    cooling: CoolDown | None = None
    pick: Pick | None = None


def place(ask: Ask, view: PlacementView, context: OwnerContext) -> Placement:
    """Numbers and a node for an ask.

    Raises:
        Refused: the ask is wrong in itself, or it is proven that nothing fits.
        UndecidedError: the search was cut off before either was known.

    """
    ask = with_unset_defaults(ask)
    groups = number_groups(ask, view.reserved, is_pod=context.is_pod)
    candidates = view.sets.of(context.within)
    cooling = context.cooling
    if cooling is not None:
        cooling = cooling.unless(number for group in groups if group.number for number in group.numbers)
    if not context.is_pod:
        return _placed_lease(Demand(ask, groups, candidates, view, cooling=cooling, pick=context.pick))
    demand = Demand(ask, groups, candidates, view, context.exempt, cooling, context.pick)
    if demand.has_services:
        _check_services(demand)
    if demand.has_sockets or (demand.has_leases and demand.is_fixed_leased()):
        return _steered(demand, context)
    return _PodPlacement(demand, context, demand).placed()


def _steered(demand: Demand, context: OwnerContext) -> Placement:
    """The placement of a Pod that is kept off leases and processes. Raises as `place` does."""
    within = steering.off_leases(demand, context.within)
    rest = demand if within is context.within else demand.among(demand.view.sets.of(within))
    placement = _PodPlacement(rest, context, demand)
    found = placement.unplaced() if steering.waits_for_processes(rest) else placement.placed()
    away = steering.off_processes(demand, within, found.ports, waits=found.node is None)
    if away.within is context.within and not away.warnings:
        return found
    return replace(found, warnings=(*away.warnings, *found.warnings), within=away.within)


class _PodPlacement:
    """The way of one Pod's ask. Every way out is `_granted`."""

    def __init__(self, demand: Demand, context: OwnerContext, asked: Demand) -> None:
        """asked: the demand with all of its candidates, those that the Pod is kept off among them."""
        self._demand = demand
        self._context = context
        self._asked = asked
        self._steps = Steps()
        self._unleased: tuple[PortKey, ...] = ()  # the ports that were last found to be leased on no candidate

    def placed(self) -> Placement:
        """The answer.

        Raises:
            Refused, UndecidedError: as for `place`.

        """
        demand = self._demand
        found = self._likely() or self._free() or self._waiting() or self._pending()
        if found:
            return found
        if self._steps.are_spent:  # nothing is proven
            raise UndecidedError(denials.undecided(demand))
        raise Refused(*self._denial())

    def unplaced(self) -> Placement:
        """The answer without a node, to an ask whose fixed numbers processes have. The others are free.

        Raises:
            Refused, UndecidedError: as for `place`.

        """
        demand = self._demand
        fixed = {key for _, key in demand.fixed}
        for numbers in self._choices():
            keys = demand.keys(numbers)
            if free_nodes([key for key in keys if key not in fixed], demand.candidates, demand.view, demand.exempt):
                return self._granted(numbers, keys, None)
        if self._steps.are_spent:
            raise UndecidedError(denials.undecided(demand))
        raise Refused(denials.exhausted(demand))

    def _likely(self) -> Placement | None:
        """What is nearly always the answer. Finding nothing here proves nothing."""
        demand = self._demand
        candidates, view = demand.candidates, demand.view
        for numbers in self._choices():
            keys = demand.keys(numbers)
            if not candidates.nodes:  # no candidate at all: the Pod stays Pending
                return self._granted(numbers, keys, None)
            nodes = free_nodes(keys, candidates, view, demand.exempt)
            if nodes != candidates.nodes and demand.is_leased(keys):  # who leases is on none of these nodes
                continue
            self._unleased = keys
            if nodes:
                if demand.cooling is not None:
                    nodes = demand.unless_cooling(nodes, keys) or nodes
                return self._granted(numbers, keys, NodeChoice(view.nodes.pick(nodes)))
            steps = Steps(LIKELY_STEPS) if demand.is_open else self._steps
            choice = find_moves(demand.seeker(keys), view, steps)
            if choice:
                return self._granted(numbers, keys, choice)
        return None

    def _choices(self) -> Iterable[Numbers]:
        """A few likely numbers for each group, the best first; the only ones where the policy fixes all of them."""
        if not self._demand.is_open:
            return (self._demand.numbers(()),)
        return self._open_choices()

    def _open_choices(self) -> Iterator[Numbers]:
        """Those that the Pod had, where its clients look for it; those free on every candidate; else the roomiest.

        What cools comes behind everything that does not.
        """
        demand, context = self._demand, self._context
        previous = _by_group(context.previous, demand.groups)
        if previous and demand.allows(previous):
            yield previous
        used: Iterable[Numbers] = context.used
        if demand.cooling is not None:
            used = list(islice(used, MOST_COMPARED))
            kept = [_by_group(numbers, demand.groups) for numbers in used]
            yield from cool_choices(demand, demand.cooling, kept, self._steps)
        found = demand.ask.policy.free_numbers(demand, self._steps)
        if found:
            yield found
        elif demand.candidates.nodes and not self._steps.are_spent:
            yield from roomiest(demand, (_by_group(numbers, demand.groups) for numbers in used))

    def _free(self) -> Placement | None:
        """Any numbers that are free together on one node, now or once plans are moved."""
        demand = self._demand
        for stage in (Stage.FREE, Stage.MOVING) if demand.is_open and demand.candidates.nodes else ():
            for numbers, nodes in JointSearch(demand, stage, self._steps).tuples():
                seeker = demand.seeker(demand.keys(numbers), nodes)
                choice = find_node(seeker, demand.candidates, demand.view, self._steps)
                if choice:
                    return self._granted(numbers, seeker.keys, choice)
                if self._steps.are_spent:
                    return None
        return None

    def _waiting(self) -> Placement | None:
        """Behind holders that will go: they terminate, or the scheduler may preempt them."""
        demand = self._demand
        if not somebody_goes(demand.seeker(()), demand.view):
            return None
        # What it looks at has all that was looked at before.
        steps = self._steps = Steps(max(self._steps.left, WAIT_STEPS))
        if not demand.is_open:
            tries: Iterable[tuple[Numbers, int]] = [(demand.numbers(()), demand.candidates.nodes)]
        else:
            tries = JointSearch(demand, Stage.WAITING, steps).tuples()
        for numbers, nodes in tries:
            seeker = demand.seeker(demand.keys(numbers), nodes)
            choice = find_wait(seeker, demand.view, steps)
            if choice:
                return self._granted(numbers, seeker.keys, choice, *self._before_it(seeker.keys, choice))
            if steps.are_spent:
                return None
        return None

    def _pending(self) -> Placement | None:
        """Without a node, where that is wished for and it is proven that there is none."""
        if self._context.when_full is not WhenFull.PENDING or self._steps.are_spent:
            return None
        numbers = without_node(self._demand)
        if not numbers:
            return None
        return self._granted(numbers, self._demand.keys(numbers), None, denials.full(self._demand))

    def _granted(
        self, numbers: Numbers, keys: tuple[PortKey, ...], choice: NodeChoice | None, *more: PodWarning
    ) -> Placement:
        """The answer, after the checks that every answer passes.

        Raises:
            Refused: a number is leased on a candidate, a Service's, or reserved.

        """
        demand = self._demand
        if keys is not self._unleased and demand.is_leased(keys):
            raise Refused(*denials.leased(demand, _as_held(demand, keys)))
        if demand.has_services and demand.is_of_service(numbers):
            raise Refused(*denials.of_services(demand, _as_held(demand, keys)))
        if demand.view.reserved.numbers and demand.ask.policy.is_ranged:
            self._check_reserved(numbers)
        node, moves = (choice.node, choice.moves) if choice else (None, ())
        return Placement(_claim_ports(demand, numbers), node, (*_cautions(demand), *more), moves)

    def _check_reserved(self, numbers: Numbers) -> None:
        """Raises Refused where a policy chose a reserved number."""
        chosen = zip(self._demand.groups, numbers, strict=True)
        reserved = self._demand.view.reserved.numbers
        taken = [n for group, n in chosen if not group.is_users and reserved >> n & ((1 << group.count) - 1)]
        if taken:
            raise Refused(*denials.reserved(taken, self._demand.view.reserved))

    def _before_it(self, keys: tuple[PortKey, ...], choice: NodeChoice) -> Iterable[PodWarning]:
        """Who will have to go before the Pod can start."""
        demand = self._demand
        moved = {claim_id for claim_id, _ in choice.moves}
        in_the_way = demand.view.ports.blockers(keys, choice.node, demand.exempt | moved)
        return denials.behind(demand, in_the_way)

    def _denial(self) -> Iterable[Mistake]:
        """What is proven: that the fixed ports fit nowhere, or that the open ones have no numbers left.

        Raises:
            UndecidedError: not which of the two.

        """
        if self._demand.is_open and self._fixed_fit():
            return [denials.exhausted(self._demand)]
        return denials.conflicts(self._asked)

    def _fixed_fit(self) -> bool:
        """Whether the fixed ports have a node by themselves."""
        demand, steps = self._demand, Steps()
        keys = tuple(key for _, key in demand.fixed)
        if not keys:
            return True
        choice = find_node(demand.seeker(keys), demand.candidates, demand.view, steps)
        if choice is None and steps.are_spent:
            raise UndecidedError(denials.undecided(demand))
        return choice is not None


def _check_services(demand: Demand) -> None:
    """Raises Refused where a Service holds a fixed number: no node and no wait would help."""
    if mistakes := list(denials.of_services(demand, demand.fixed)):
        raise Refused(*mistakes)


def _as_held(demand: Demand, keys: tuple[PortKey, ...]) -> denials.Ports:
    """The ports of an ask, each with what it would be held as. keys: in the order of groups."""
    ports = (demand.ask.ports[member] for group in demand.groups for member in group.members)
    return list(zip(ports, keys, strict=True))


def _placed_lease(demand: Demand) -> Placement:
    """A lease stands at once: where nobody has its numbers, and where no unsettled claim could land with them.

    Raises:
        Refused, UndecidedError: as for `place`.

    """
    candidates, view = demand.candidates, demand.view
    if not candidates.nodes:
        raise Refused(Mistake(Reason.NODE_NOT_FOUND, "constraints", "no known node satisfies the constraints"))
    if demand.has_services:
        _check_services(demand)
    nodes = open_for_lease([key for _, key in demand.fixed], candidates.nodes, view)
    if not nodes:
        raise Refused(*denials.conflicts(demand))
    if not demand.is_open:
        return _leased(demand, demand.numbers(()), nodes)
    for numbers, here in cool_places(demand, demand.cooling, nodes) if demand.cooling else ():
        return _leased(demand, numbers, here)
    steps = Steps()
    numbers = demand.ask.policy.free_numbers(demand, steps)
    if numbers:
        return _leased(demand, numbers, nodes)
    for numbers, some in JointSearch(demand, Stage.LEASE, steps).tuples():
        here = open_for_lease(demand.keys(numbers), some, view)
        if here:
            return _leased(demand, numbers, here)
    if steps.are_spent:
        raise UndecidedError(denials.undecided(demand))
    raise Refused(denials.exhausted(demand))


def _leased(demand: Demand, numbers: Numbers, nodes: int) -> Placement:
    if demand.is_of_service(numbers):
        raise Refused(*denials.of_services(demand, _as_held(demand, demand.keys(numbers))))
    return Placement(_claim_ports(demand, numbers), demand.view.nodes.pick(nodes), tuple(_cautions(demand)))


def _cautions(demand: Demand) -> Iterator[PodWarning]:
    """What may surprise people although the ask is granted."""
    named, reserved = 0, demand.view.reserved.numbers
    for group in demand.groups if reserved else ():
        if is_named(demand.ask, group):
            named |= reserved & ((1 << group.count) - 1) << group.number
    if named:
        yield PodWarning(Notice.RESERVED_PORT, demand.view.reserved.words(named))
    if not demand.candidates.nodes:
        message = "no node satisfies nodeSelector, node affinity and taints: the Pod stays Pending until one does"
        yield PodWarning(Notice.NO_CANDIDATE, message)


def _by_group(by_port: Numbers, groups: Sequence[PortGroup]) -> Numbers:
    """Numbers of ports as numbers of groups; nothing where the members of a group differ."""
    if not by_port or any(len({by_port[member] for member in group.members}) != 1 for group in groups):
        return ()
    return tuple(by_port[group.members[0]] for group in groups)


def _claim_ports(demand: Demand, numbers: Numbers) -> tuple[ClaimPort, ...]:
    """The ports of the ask, in its order, with the numbers of their groups."""
    groups = zip(demand.groups, numbers, strict=True)
    number_of = {member: number for group, number in groups for member in group.members}
    return tuple(
        [
            ClaimPort(
                container=port.container,
                name=port.name,
                protocol=port.protocol,
                container_port=port.container_port,
                host_port=number_of[position],
                host_ip=port.host_ip,
                count=port.count,
            )
            for position, port in enumerate(demand.ask.ports)
        ]
    )
