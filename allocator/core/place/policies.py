"""The policies, one object each: how the numbers of an ask are chosen, and what is wrong where they cannot be.

Ports of one container with one containerPort are one *port group*: 53/TCP and 53/UDP, and one socket under two names.
They get one number under every policy, and the *port index* counts groups. A number that the user set is kept under
every policy; the port keeps its place in the port index.

A policy gives the number of a group, or leaves it open (0) for `plan` to search. What it gives follows from the request
alone; chance comes from outside, in the claim's id (`Drafts` in `admission.py`). To add a policy, write its class here
and put its object into `POLICIES`, and give it a row in `hostport.contract.policies` and a value in the proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from allocator.core.asks import Ask, PortAsk, PortGroup, Refused
from allocator.core.kept import SizedCache
from allocator.core.place.block_rules import (
    Group,
    beyond_stride,
    blocks_without_run,
    differing_blocks,
    meeting_blocks,
    misplaced_block,
    sockets,
    too_few_numbers,
)
from allocator.core.place.view import Demand, Numbers, Steps, avoided, liked_numbers
from allocator.core.ports import WILDCARD, PortKey, Protocol, format_numbers, normalise_ip, span
from allocator.core.reserved import ReservedNumbers
from hostport.contract import Mistake, Reason
from hostport.contract import policies as contract
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT

KEPT_BYTES = 8 << 20
"""Of the answers that are kept for the next Pod of a workload."""

PORT_BYTES = 400
"""That a port of such an answer takes, about, besides its names."""

AVOIDED_BYTES = 40
"""That a number takes which such an answer avoids."""


class Policy:
    """How the numbers of an ask are chosen. There is one object of each policy; it has no state.

    name: of its row in the contract, which says whether it has a range and is searched.
    is_ranged: whether it chooses from the range of the ask. Then a number that equals the containerPort of a Pod with
    hostNetwork is no wish, and no reserved number is given.
    is_searched: whether it leaves numbers open, so that any of the range that is free on a node is one.
    """

    name: str

    def __init__(self) -> None:
        terms = contract.POLICIES[self.name]
        self.is_ranged, self.is_searched = terms.has_range, terms.is_searched

    def __repr__(self) -> str:
        return self.name

    def mistakes(self, ask: Ask, groups: Sequence[Group], reserved: ReservedNumbers) -> Iterable[Mistake]:
        """What is wrong with an ask as a whole. Asked where a group has no number.

        groups: those of the ask, in port order. reserved: the numbers that are never given.
        """
        del ask, groups, reserved
        return ()

    def number(self, ask: Ask, member: int, index: int, reserved: ReservedNumbers) -> tuple[int, Mistake | None]:
        """The number of a group that has none, 0 for an open one; and what is wrong with it.

        member: the position of the group's first port. index: the port index. reserved: as for `mistakes`.
        """
        raise NotImplementedError

    free_numbers: Callable[[Demand, Steps], Numbers] = staticmethod(liked_numbers)
    """Numbers for the open groups that are free on every candidate, all different; empty where it finds none.

    Only asked of a policy that is searched. It is a choice, not a proof.
    """


class Index(Policy):
    """min + index + stride x port index: what a Pod gets follows from its place in a StatefulSet or Indexed Job."""

    name = "Index"

    def mistakes(self, ask: Ask, groups: Sequence[Group], reserved: ReservedNumbers) -> Iterable[Mistake]:
        """As for any `Policy`: there is no index, or its ports run into those of another one."""
        del reserved
        if ask.index is None:
            message = "policy Index needs an index, and there is none. Policy Dynamic needs none"
            yield Mistake(Reason.NO_INDEX, "index", message)
        else:
            yield from beyond_stride(ask, ask.index, groups)

    def number(self, ask: Ask, member: int, index: int, reserved: ReservedNumbers) -> tuple[int, Mistake | None]:
        """As for any `Policy`: the number may be reserved, or beyond the range."""
        if ask.index is None or ask.low > ask.high:
            return 0, None
        port = ask.ports[member]
        number = ask.low + port.count * ask.index + ask.stride * index
        if port.count > 1:
            return self._block(ask, port, index, number, reserved)
        if number <= ask.high and not reserved.numbers >> number & 1:
            return number, None
        how = f"{port}: range.min {ask.low} + index {ask.index} + stride {ask.stride} x {index} ="
        if number <= ask.high:
            message = f"{how} {reserved.words(1 << number)}. Move range.min"
            return number, Mistake(Reason.PORT_RESERVED, "range.min", message)
        if number <= HIGHEST_PORT:
            message = f"{how} {number} is beyond range.max {ask.high}. Raise range.max, or lower range.min or stride"
        else:
            message = f"{how} {number} is beyond the highest port, {HIGHEST_PORT}. Lower range.min, the index or stride"
        return 0, Mistake(Reason.NUMBER_BEYOND_RANGE, "range.max", message)

    @staticmethod
    def _block(
        ask: Ask, port: PortAsk, index: int, number: int, reserved: ReservedNumbers
    ) -> tuple[int, Mistake | None]:
        """The block that begins with a number; 0, and what is wrong, where it ends beyond the range."""
        how = (
            f"{port}: range.min {ask.low} + {port.count} x index {ask.index} + stride {ask.stride} x {index} = {number}"
        )
        last = number + port.count - 1
        if last > ask.high:
            what = f"{how}, so that its {port.count} numbers end at {last}, beyond"
            lower, smaller = ask.low - (last - HIGHEST_PORT), f"a smaller block{' or stride' if index else ''}"
            if last <= HIGHEST_PORT:
                message = f"{what} range.max {ask.high}. Raise range.max, or lower range.min"
                return 0, Mistake(Reason.NUMBER_BEYOND_RANGE, "range.max", message)
            remedy = f"Set range.min to {lower} or less" if lower >= LOWEST_PORT else "Lower the index"
            message = f"{what} the highest port, {HIGHEST_PORT}. {remedy}, or ask for {smaller}"
            return 0, Mistake(Reason.NUMBER_BEYOND_RANGE, "range.min", message)
        taken = reserved.numbers & span(number, last)
        if taken:
            message = f"{how}, and of its {port.count} numbers {reserved.words(taken)}. Move range.min"
            return number, Mistake(Reason.PORT_RESERVED, "range.min", message)
        return number, None


class Dynamic(Policy):
    """Any numbers of the range that are free on a node: the lowest that are free everywhere, where there are such."""

    name = "Dynamic"

    def mistakes(self, ask: Ask, groups: Sequence[Group], reserved: ReservedNumbers) -> Iterable[Mistake]:
        """As for any `Policy`: no number of the range may be given at all."""
        numbers = span(ask.low, ask.high) if ask.low <= ask.high else 0
        usable = numbers & ~reserved.numbers & ~avoided(ask)
        if not numbers or usable:
            without_run = list(blocks_without_run(ask, groups, reserved))
            yield from without_run or (too_few_numbers(ask, groups, usable) if numbers else ())
            return
        taken = numbers & reserved.numbers
        why = [f"reserved in this cluster ({format_numbers(taken)})"] if taken else []
        taken = numbers & avoided(ask) & ~reserved.numbers
        why += [f"named by the Pod's own probes or hooks ({format_numbers(taken)})"] if taken else []
        what = f"every number of range {ask.low}-{ask.high} is {' or '.join(why)}"
        yield Mistake(Reason.RANGE_RESERVED, "range", f"{what}. Choose another range")

    def number(self, ask: Ask, member: int, index: int, reserved: ReservedNumbers) -> tuple[int, Mistake | None]:
        """As for any `Policy`: open, and so never wrong."""
        del ask, member, index, reserved
        return 0, None


class Passthrough(Policy):
    """The containerPort."""

    name = "Passthrough"

    def number(self, ask: Ask, member: int, index: int, reserved: ReservedNumbers) -> tuple[int, Mistake | None]:
        """As for any `Policy`: there may be no containerPort."""
        del index, reserved
        port = ask.ports[member]
        if port.container_port:
            return port.container_port, None
        message = f"policy Passthrough: {port} has no containerPort"
        return 0, Mistake(Reason.CONTAINER_PORT_MISSING, f"ports[{member}].container_port", message)


class Static(Policy):
    """The hostPort that the user set; a port without one is a mistake."""

    name = "Static"

    def number(self, ask: Ask, member: int, index: int, reserved: ReservedNumbers) -> tuple[int, Mistake | None]:
        """As for any `Policy`: none, since the user set none."""
        del index, reserved
        some = any(each.host_port for each in ask.ports)
        remedy = "Passthrough, which keeps those that are set" if some else "Index or Dynamic"
        message = f"policy Static: {ask.ports[member]} has no hostPort. Set it, or use policy {remedy}"
        return 0, Mistake(Reason.HOST_PORT_MISSING, f"ports[{member}].host_port", message)


INDEX, DYNAMIC, PASSTHROUGH, STATIC = Index(), Dynamic(), Passthrough(), Static()

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (INDEX, DYNAMIC, PASSTHROUGH, STATIC)}
"""All of them, by name, in the order in which they are named to people."""


def with_unset_defaults(ask: Ask) -> Ask:
    """The ask without what the API server defaulted, and without what an earlier life of the Pod has left.

    With hostNetwork in the template the API server has set hostPort := containerPort before any webhook runs, so an
    equal number is no wish of the user's where the policy chooses numbers. Neither is one of an earlier life.
    """
    if not ask.policy.is_ranged or not (ask.host_network or True in [p.is_former for p in ask.ports]):
        return ask
    return replace(ask, ports=tuple(replace(p, host_port=0) if _is_unset(ask, p) else p for p in ask.ports))


def _is_unset(ask: Ask, port: PortAsk) -> bool:
    return port.is_former or (ask.host_network and port.host_port == port.container_port)


def groups_of(ask: Ask) -> list[Group]:
    """Positions of ports by group, in port order, and the hostPort that the group already has (0: none).

    A hostPort that one member has is the group's; two different ones make two groups, the unset members staying with
    the first.
    """
    groups: list[Group] = []
    known: dict[tuple[str, int], dict[int, int]] = {}  # (container, containerPort) → number → index of its group
    for position, port in enumerate(ask.ports):
        mine = known.setdefault((port.container, port.container_port), {}) if port.container_port else {}
        at = mine.get(port.host_port) if port.host_port else next(iter(mine.values()), None)
        if at is None and 0 in mine:  # a group without a number takes the first that comes
            at = mine[port.host_port] = mine.pop(0)
            groups[at] = (groups[at][0], port.host_port)
        if at is None:
            at = mine[port.host_port] = len(groups)
            groups.append(([], port.host_port))
        groups[at][0].append(position)
    return groups


def number_groups(ask: Ask, reserved: ReservedNumbers, *, is_pod: bool) -> tuple[PortGroup, ...]:
    """The groups of an ask with the numbers that its policy fixes.

    Who asks plays no part, but for whether it is a Pod (`is_pod`), so that the Pods of a workload share the answer.

    Raises:
        Refused: everything that is wrong with the request itself, all mistakes together.

    """
    bounds, avoid = (ask.low, ask.high, ask.stride, ask.index), ask.avoid if ask.policy.is_searched else ()
    form = ask.ports, ask.policy, bounds, avoid, is_pod, reserved.numbers
    groups = _kept.get(form)
    if groups is None:
        groups = _number_groups(ask, reserved, is_pod=is_pod)
        size = sum(PORT_BYTES + len(p.container) + len(p.name) for p in ask.ports)
        _kept.put(form, groups, size + AVOIDED_BYTES * len(avoid))
    return groups


_Form = tuple[tuple[PortAsk, ...], Policy, tuple[int, int, int, int | None], tuple[int, ...], bool, int]
"""All that `_number_groups` looks at; the last one is the reserved numbers."""

_kept: SizedCache[_Form, tuple[PortGroup, ...]] = SizedCache(KEPT_BYTES)


def _number_groups(ask: Ask, reserved: ReservedNumbers, *, is_pod: bool) -> tuple[PortGroup, ...]:
    policy, found = ask.policy, groups_of(ask)
    mistakes: list[Mistake] = []
    for members, _ in found:
        mistakes += differing_blocks(ask, members) if len(members) > 1 else ()
    if policy.is_ranged and ask.low > ask.high:
        message = f"range.min {ask.low} is greater than range.max {ask.high}"
        mistakes.append(Mistake(Reason.RANGE_INVERTED, "range", message))
    if not all(number for _, number in found):
        mistakes += policy.mistakes(ask, found, reserved)
    groups = []
    for index, (members, given) in enumerate(found):
        number, mistake = (given, None) if given else policy.number(ask, members[0], index, reserved)
        mistakes += [mistake] if mistake else []
        port = ask.ports[members[0]]
        is_run = port.count > 1 or port.alignment > 1
        group = PortGroup(tuple(members), number, given != 0, port.count, port.alignment, is_run)
        if number and not mistake and is_run:
            mistakes += misplaced_block(ask, group, reserved)
        groups.append(group)
    mistakes += _collisions(ask, groups)
    mistakes += [] if is_pod else _reserved_leases(ask, groups, reserved)
    if mistakes:
        raise Refused(*mistakes)
    return tuple(groups)


def is_named(ask: Ask, group: PortGroup) -> bool:
    """Whether the number of a group is one that somebody named, rather than one that a policy chose from a range."""
    return group.number != 0 and (group.is_users or not ask.policy.is_ranged)


def _reserved_leases(ask: Ask, groups: Sequence[PortGroup], reserved: ReservedNumbers) -> list[Mistake]:
    """A Pod may name a reserved number, at its own risk; a lease would keep it from the node's services for ever."""
    mistakes = []
    for group in groups:
        if group.count == 1 and is_named(ask, group) and reserved.numbers >> group.number & 1:
            port = ask.ports[group.members[0]]
            why = reserved.words(1 << group.number)
            message = f"{port}: {why}, and cannot be leased. Choose another number"
            mistakes.append(Mistake(Reason.PORT_RESERVED, f"ports[{group.members[0]}]", message))
    return mistakes


def _collisions(ask: Ask, groups: Sequence[PortGroup]) -> list[Mistake]:
    """Two groups of the owner's own on one number would conflict with each other on every node."""
    if any(group.count > 1 for group in groups):
        return meeting_blocks(ask, groups)
    mistakes = []
    seen: dict[tuple[Protocol, int], dict[str, PortAsk]] = {}  # by address, in port order
    for group in groups:
        for member in sockets(ask, group) if group.number else ():
            port = ask.ports[member]
            key = PortKey(normalise_ip(port.host_ip), port.protocol, group.number)
            earlier = seen.setdefault((port.protocol, group.number), {})
            other = _first_indexed_conflict(key.ip, earlier)
            if other is not None:
                message = f"{port} and {other} would both get {key}. Give them different numbers"
                mistakes.append(Mistake(Reason.OWN_PORTS_COLLIDE, f"ports[{member}]", message))
            earlier.setdefault(key.ip, port)
    return mistakes


def _first_indexed_conflict(ip: str, earlier: Mapping[str, PortAsk]) -> PortAsk | None:
    """The first port whose address conflicts with this one. Two look-ups where there is none: there may be hundreds."""
    if ip == WILDCARD:
        return next(iter(earlier.values()), None)
    if ip not in earlier and WILDCARD not in earlier:
        return None
    return next(port for address, port in earlier.items() if address in {ip, WILDCARD})
