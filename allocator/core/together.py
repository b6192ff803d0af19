"""The verdict on Dynamic: whether any numbers of the range are free together on one node.

Rules:

* What is not looked at is told: where the steps are used up, or a count is missing, nothing is proven (`Steps`).
* A Pod has three stages, and each finds all that the one before finds, and more: numbers that are free now, those
  that are free once plans are moved, and those whose holders will go. A lease has one stage (`Stage`).
* For one number, numbers are tried on all candidates. For several, nodes are: those that have enough of them, counted
  for all nodes at once; then which group gets which number on that node, as a matching of kinds of groups to numbers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import combinations, islice

from allocator.core.counting import Planes, at_least
from allocator.core.matching import Steps, free_nodes, open_for_lease, open_nodes, unplanned
from allocator.core.ports import PortKey
from allocator.core.search import Demand, Kind, Numbers, are_counted, by_load, is_anywhere, protocols_of
from allocator.core.slots import bits

NUMBER_STEPS = 0.2
"""Steps to look up where one number is free."""

SCOPE_STEPS = 0.4
"""Steps to look at the numbers of one scope to which a plan could be moved."""

COUNTED_TOGETHER = 64
"""Numbers after which the nodes that have enough of them are tried."""

MOST_KINDS = 3
"""Kinds of groups whose numbers are counted together; of more kinds each is counted by itself, and then tried."""


class Stage(Enum):
    """Who does not count as a holder when a number is said to be free on a node."""

    LEASE = "nothing, and where an unsettled claim could land nothing is free"
    FREE = "nothing"
    MOVING = "plans"
    WAITING = "plans, and holders that will go"


class Together:
    """One stage of the search for one ask."""

    def __init__(self, wanted: Demand, stage: Stage, steps: Steps) -> None:
        self._wanted = wanted
        self._stage = stage
        self._steps = steps
        self._world = wanted.world
        self._low = wanted.ask.low
        self._moves_nothing = stage is Stage.FREE or stage is Stage.LEASE
        self._where: dict[tuple[Kind, int], int] = {}
        self._nodes = self._nodes_for(wanted.fixed, wanted.scope.nodes, stage)

    def tuples(self) -> Iterator[tuple[Numbers, int]]:
        """Numbers for each group, fixed ones included, and the nodes to try them on."""
        wanted = self._wanted
        if not self._nodes:
            return
        if not self._are_counted():
            self._steps.cut()
        elif len(wanted.kinds) == 1 and self._stage is not Stage.LEASE:  # a lease takes the first node that has any
            (kind,) = wanted.kinds
            for number in by_load(wanted.loads(kind), self._numbers(kind)):
                if not self._steps.spend(NUMBER_STEPS):
                    return
                chosen = wanted.numbers([self._low + number])
                if not wanted.is_leased(wanted.keys(chosen)):
                    yield chosen, self._nodes
        else:
            for position, is_known in self._roomy_nodes():
                found = self._on(position) if is_known or self._moves_nothing else self._likely_on(position)
                yield from ((wanted.numbers(chosen), 1 << position) for chosen in found)

    def _are_counted(self) -> bool:
        wanted, ask = self._wanted, self._wanted.ask
        scopes = self._world.occupancy.reached(wanted.scope) if self._stage is Stage.MOVING else [wanted.scope]
        if not self._steps.spend(SCOPE_STEPS * (len(scopes) - 1)):
            return False
        return all(are_counted(wanted, scope, ask.low, ask.high, self._steps) for scope in scopes)

    # -- which numbers can be had at all

    def _numbers(self, kind: Kind) -> int:
        """The numbers of the range that might be had in this stage."""
        numbers = self._unheld(kind)
        for protocol in protocols_of(kind) if self._stage is not Stage.LEASE else ():
            numbers &= self._wanted.unleased[protocol]
        return numbers

    def _unheld(self, kind: Kind) -> int:
        wanted, occupancy = self._wanted, self._world.occupancy
        if not is_anywhere(kind):
            return wanted.usable  # a holder on another address is not in the way
        match self._stage:
            case Stage.LEASE | Stage.FREE:
                numbers = ~wanted.on_each_node(kind, occupancy.full)
            case Stage.MOVING:
                numbers = self._movable(kind)
            case Stage.WAITING:
                numbers = ~wanted.on_each_node(kind, occupancy.stuck) | self._given_up(kind)
        return wanted.usable & (numbers | wanted.own(kind))

    def _movable(self, kind: Kind) -> int:
        """The numbers that are free somewhere, or would be, were a plan moved to where it is free.

        A plan can be moved to any node of its scope, and in turn the plan that stands there. So a number that is held
        on every node of every scope that can be reached is not to be had, unless two plans could share a node.
        """
        wanted, occupancy, high = self._wanted, self._world.occupancy, self._wanted.ask.high
        numbers, reached = -1, occupancy.reached(wanted.scope)
        for protocol in protocols_of(kind):
            free = ~occupancy.full(wanted.scope, protocol, self._low, high)
            for scope in reached:
                floating = scope.floating_numbers(protocol, self._low, high)
                free |= floating & ~occupancy.full(scope, protocol, self._low, high) if floating else 0
            numbers &= free
        numbers |= wanted.numbers_of(kind, self._world.shareable())
        return numbers & ~wanted.on_each_node(kind, occupancy.stuck)

    def _given_up(self, kind: Kind) -> int:
        """The numbers that somebody has who will go."""
        occupancy, wanted = self._world.occupancy, self._wanted
        numbers = wanted.numbers_of(kind, occupancy.leaving_slots())
        if wanted.rank is not None:
            numbers |= wanted.numbers_of(kind, occupancy.preemptable_slots(wanted.rank))
        return numbers

    def _nodes_of(self, kind: Kind, number: int) -> int:
        """The nodes where a number, less the lowest of the range, can be had for a kind of groups."""
        known = self._where.get((kind, number))
        if known is None:
            self._steps.spend(NUMBER_STEPS)
            keys = tuple(key_at(kind, self._low + number))
            is_out = self._stage is not Stage.LEASE and self._wanted.is_leased(keys)
            known = 0 if is_out else self._nodes_for(keys, self._nodes, self._stage)
            self._where[kind, number] = known
        return known

    def _nodes_for(self, keys: tuple[PortKey, ...], nodes: int, stage: Stage) -> int:
        if stage is Stage.LEASE:
            return open_for_lease(keys, nodes, self._world)
        if stage is Stage.FREE:
            return free_nodes(keys, self._wanted.scope, self._world, self._wanted.exempt) & nodes
        return open_nodes(self._wanted.seeker(keys, nodes), self._world, self._steps, waits=stage is Stage.WAITING)

    # -- several numbers on one node

    def _roomy_nodes(self) -> Iterator[tuple[int, bool]]:
        """The positions of nodes that have enough numbers for the groups of each kind, and of kinds together.

        The second value says whether all numbers were looked at. Until then one node is given at a time, to be given
        again.
        """
        demands = Counter(self._wanted.kinds)
        if len(demands) == 1:
            ((kind, need),) = demands.items()
            for nodes, is_known in self._with_enough([kind], need):
                some = bits(nodes) if is_known else bits(nodes & -nodes)
                yield from ((position, is_known) for position in some)
            return
        most = len(demands) if len(demands) <= MOST_KINDS else 1
        nodes = self._nodes
        for kinds in (some for size in range(1, most + 1) for some in combinations(demands, size)):
            enough = 0
            for enough, _ in self._with_enough(kinds, sum(demands[kind] for kind in kinds)):  # noqa: B007 - the last one
                pass
            nodes &= enough
        if not self._steps.are_spent:
            yield from ((position, True) for position in bits(nodes))

    def _with_enough(self, kinds: Sequence[Kind], need: int) -> Iterator[tuple[int, bool]]:
        """The nodes where so many numbers can be had for any of the kinds: more and more of them, at the end all."""
        numbers_of = {kind: self._numbers(kind) for kind in kinds}
        everything = 0
        for numbers in numbers_of.values():
            everything |= numbers
        planes: Planes = []
        for count, number in enumerate(bits(everything), 1):
            nodes = 0
            for kind, numbers in numbers_of.items():
                nodes |= self._nodes_of(kind, number) if numbers >> number & 1 else 0
            _add(planes, nodes)
            if self._steps.are_spent:
                return
            if count % COUNTED_TOGETHER == 0 and (enough := at_least(planes, need, self._nodes)):
                yield enough, False
        yield at_least(planes, need, self._nodes), True

    def _likely_on(self, position: int) -> Iterator[list[int]]:
        """One try on a node: what needs no plan moved, then whatever was looked at so far."""
        here = self._here(position)
        clear = {kind: self._clear(kind, numbers, position) for kind, numbers in here.items()}
        yield from self._given(matched(self._wanted.kinds, [clear, here]))

    def _here(self, position: int) -> dict[Kind, int]:
        """The numbers that can be had on a node, of those that were looked at."""
        here = dict.fromkeys(self._wanted.kinds, 0)
        for (kind, number), nodes in self._where.items():
            if nodes >> position & 1:
                here[kind] |= 1 << number
        return here

    def _on(self, position: int) -> Iterator[list[int]]:
        """Numbers for the open groups on one node, in port order."""
        here = self._here(position)
        if self._moves_nothing:
            yield from self._given(matched(self._wanted.kinds, [here]))
            return
        clear = {kind: self._clear(kind, numbers, position) for kind, numbers in here.items()}
        missing = len(self._wanted.kinds) - sum(
            got.bit_count() for got in matched(self._wanted.kinds, [clear]).values()
        )
        crowded = [(kind, number) for kind, numbers in here.items() for number in bits(numbers & ~clear[kind])]
        # As few as possible from plans is likely to do; but a clear number may be one that a moved plan would need.
        for size in range(missing, len(self._wanted.kinds) + 1):
            for moved in combinations(crowded, size):
                if not self._steps.spend():
                    return
                also = dict.fromkeys(here, 0)
                for kind, number in moved:
                    also[kind] |= 1 << number
                yield from self._given(matched(self._wanted.kinds, [clear, also]))
        for got in self._every(Counter(self._wanted.kinds), here) if crowded else ():
            if not self._steps.spend():
                return
            yield from self._given(got)

    def _every(self, demands: Mapping[Kind, int], here: Mapping[Kind, int]) -> Iterator[dict[Kind, int]]:
        """Every way to give different numbers to all kinds."""
        if not demands:
            yield {}
            return
        (kind, need), *rest = demands.items()
        for chosen in combinations(bits(here[kind]), need):
            numbers = sum(1 << number for number in chosen)
            left = {other: of_other & ~numbers for other, of_other in here.items()}
            for got in self._every(dict(rest), left):
                yield {kind: numbers, **got}

    def _clear(self, kind: Kind, numbers: int, position: int) -> int:
        """Those of the numbers that can be had on a node without moving a plan."""
        clear = 0
        for number in bits(numbers):
            seeker = self._wanted.seeker(tuple(key_at(kind, self._low + number)), 1 << position)
            if unplanned(seeker, seeker.nodes, self._world):
                clear |= 1 << number
        return clear

    def _given(self, got: Mapping[Kind, int]) -> Iterator[list[int]]:
        """The numbers that kinds of groups got; nothing where one lacks a number."""
        given = handed_out(self._wanted, got)
        if given:
            yield given


def anyhow(wanted: Demand) -> Numbers:
    """Numbers for a Pod that fits nowhere now: those that most nodes will have, none that is leased on a candidate.

    Empty where there are not enough.
    """
    if not wanted.kinds:
        return wanted.numbers(())
    tier = {}
    for kind in set(wanted.kinds):
        among = wanted.usable
        for protocol in protocols_of(kind):
            among &= wanted.unleased[protocol]
        likely = by_load(wanted.loads(kind), among)
        unleased = (n for n in likely if not wanted.is_leased(tuple(key_at(kind, wanted.ask.low + n))))
        tier[kind] = sum(1 << number for number in islice(unleased, len(wanted.kinds)))
    got = matched(wanted.kinds, [tier])
    given = handed_out(wanted, got)
    return wanted.numbers(given) if given else ()


def handed_out(wanted: Demand, got: Mapping[Kind, int]) -> list[int]:
    """The numbers that kinds of groups got, for the open groups in port order; empty where one lacks a number."""
    if sum(numbers.bit_count() for numbers in got.values()) < len(wanted.kinds):
        return []
    rest = {kind: bits(numbers) for kind, numbers in got.items()}
    return [wanted.ask.low + next(rest[kind]) for kind in wanted.kinds]


def key_at(kind: Kind, number: int) -> Iterator[PortKey]:
    """The ports of a group of a kind, on a number."""
    return (PortKey(ip, protocol, number) for protocol, ip in kind)


def _add(planes: Planes, nodes: int) -> None:
    """Counts one more on some nodes."""
    for order, plane in enumerate(planes):
        planes[order], nodes = plane ^ nodes, plane & nodes
        if not nodes:
            return
    if nodes:
        planes.append(nodes)


def matched(kinds: Sequence[Kind], tiers: Sequence[Mapping[Kind, int]]) -> dict[Kind, int]:
    """As many different numbers as can be for groups of some kinds, as a set for each kind.

    Numbers of an earlier tier are taken first. Augmenting paths over kinds: all groups of a kind want alike.
    """
    demands = Counter(kinds)
    taken, allowed = dict.fromkeys(demands, 0), dict.fromkeys(demands, 0)
    for tier in tiers:
        for kind in demands:
            allowed[kind] |= tier[kind]
        for kind, need in demands.items():
            while taken[kind].bit_count() < need and _augmented(kind, taken, allowed):
                pass
    return taken


def _augmented(kind: Kind, taken: dict[Kind, int], allowed: Mapping[Kind, int]) -> bool:
    """Gives a kind one number more, for which others may take another one instead of theirs."""
    used = 0
    for numbers in taken.values():
        used |= numbers
    wants: dict[Kind, Kind | None] = {kind: None}
    queue = deque([kind])
    while queue:
        one = queue.popleft()
        free = allowed[one] & ~used
        if free:
            _hand_on(one, free & -free, wants, taken, allowed)
            return True
        for other, numbers in taken.items():
            if other not in wants and numbers & allowed[one]:
                wants[other] = one
                queue.append(other)
    return False


def _hand_on(
    one: Kind, number: int, wants: Mapping[Kind, Kind | None], taken: dict[Kind, int], allowed: Mapping[Kind, int]
) -> None:
    """Gives a kind a number, and one of its own to the kind that wants it, and so on."""
    while (wanting := wants[one]) is not None:
        given = taken[one] & allowed[wanting]
        given &= -given
        taken[one] ^= given | number
        one, number = wanting, given
    taken[one] |= number
