"""From a policy to numbers, as far as the request alone decides.

Ports of one container with one containerPort are one *port group*: 53/TCP and 53/UDP, and one socket under two names.
They get one number under every policy, and the *port index* counts groups. A number that the user set is kept under
every policy; the port keeps its place in the port index.

A group's number is fixed here, or left open (0) for Dynamic, which `plan` then searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from allocator.core.asks import Ask, Mistake, Policy, PortAsk, Refused
from allocator.core.ports import MAX_PORT, WILDCARD, PortKey, Protocol, format_numbers, normalise_ip, span
from allocator.core.sized import Sized
from hostport.contract import Reason

KEPT_BYTES = 8 << 20
"""Of the answers that are kept for the next Pod of a workload."""

PORT_BYTES = 400
"""That a port of such an answer takes, about, besides its names."""


class Group(msgspec.Struct, frozen=True, gc=False):
    """Ports that share a number: their positions in the ask, and the number or 0."""

    members: tuple[int, ...]
    number: int
    is_users: bool  # the number is the user's own: checked like Static


def groups_of(ask: Ask) -> list[tuple[list[int], int]]:
    """Positions of ports by group, in port order, and the hostPort that the group already has (0: none).

    A hostPort that one member has is the group's; two different ones make two groups, the unset members staying with
    the first.
    """
    groups: list[tuple[list[int], int]] = []
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


def number_groups(ask: Ask, reserved: int) -> tuple[Group, ...]:
    """The groups of an ask with the numbers that its policy fixes.

    Who asks plays no part, but for whether it is a Pod, so that the Pods of a workload share the answer.

    Raises:
        Refused: everything that is wrong with the request itself, all mistakes together.

    """
    bounds = ask.low, ask.high, ask.stride, ask.index
    form = ask.ports, ask.policy, bounds, ask.avoided, ask.owner.is_pod, reserved
    groups = _kept.get(form)
    if groups is None:
        groups = _number_groups(ask, reserved)
        _kept.put(form, groups, sum(PORT_BYTES + len(p.container) + len(p.name) for p in ask.ports))
    return groups


_Form = tuple[tuple[PortAsk, ...], Policy, tuple[int, int, int, int | None], int, bool, int]
"""All that `_number_groups` looks at; the last one is the reserved numbers."""

_kept: Sized[_Form, tuple[Group, ...]] = Sized(KEPT_BYTES)


def _number_groups(ask: Ask, reserved: int) -> tuple[Group, ...]:
    mistakes: list[Mistake] = []
    found = groups_of(ask)
    if ask.policy.is_ranged and ask.low > ask.high:
        message = f"min-port {ask.low} is greater than max-port {ask.high}"
        mistakes.append(Mistake(Reason.RANGE_INVERTED, "range", message))
    if ask.policy is Policy.INDEX and any(number == 0 for _, number in found):
        mistakes += _index_mistakes(ask, len(found))
    groups = tuple(
        Group(tuple(members), number or _fixed(ask, members, position, reserved, mistakes), number != 0)
        for position, (members, number) in enumerate(found)
    )
    if ask.policy is Policy.DYNAMIC and not mistakes and any(not group.number for group in groups):
        mistakes += _dynamic_mistakes(ask, reserved)
    mistakes += _collisions(ask, groups)
    mistakes += _reserved_leases(ask, groups, reserved)
    if mistakes:
        raise Refused(*mistakes)
    return groups


def _reserved_leases(ask: Ask, groups: Sequence[Group], reserved: int) -> list[Mistake]:
    """A Pod may name a reserved number, at its own risk; a lease would keep it from the node's services for ever."""
    mistakes = []
    for group in () if ask.owner.is_pod else groups:
        is_named = group.is_users or not ask.policy.is_ranged  # what Index computes was judged already
        if is_named and group.number and reserved >> group.number & 1:
            port = ask.ports[group.members[0]]
            message = (
                f"{port}: {group.number} is reserved in this cluster (the node's own services use it), and cannot be"
                " leased. Choose another number"
            )
            mistakes.append(Mistake(Reason.PORT_RESERVED, f"ports[{group.members[0]}]", message))
    return mistakes


def _index_mistakes(ask: Ask, count: int) -> list[Mistake]:
    if ask.index is None:
        return [
            Mistake(
                Reason.NO_INDEX,
                "index",
                "policy Index needs an index, and there is none: no label apps.kubernetes.io/pod-index, no"
                " batch.kubernetes.io/job-completion-index, no -<number> at the end of the Pod's name. Use a"
                " StatefulSet or an Indexed Job, or policy Dynamic",
            )
        ]
    if ask.index >= ask.stride and count > 1:
        return [
            Mistake(
                Reason.INDEX_EXCEEDS_STRIDE,
                "stride",
                f"index {ask.index} is not below stride {ask.stride}, so that its ports would run into those of the"
                f" next port of index {ask.index - ask.stride}. Set {ask.setting('stride')} above the highest index",
            )
        ]
    return []


def _fixed(ask: Ask, members: list[int], position: int, reserved: int, mistakes: list[Mistake]) -> int:
    """The number of the group at a port index; 0 where Dynamic searches or where there is a mistake."""
    port = ask.ports[members[0]]
    field = f"ports[{members[0]}]"
    match ask.policy:
        case Policy.INDEX if ask.index is not None and ask.low <= ask.high:
            return _indexed(ask, ask.index, port, position, reserved, mistakes)
        case Policy.PASSTHROUGH:
            if not port.container_port:
                message = f"policy Passthrough: {port} has no containerPort"
                mistakes.append(Mistake(Reason.CONTAINER_PORT_MISSING, f"{field}.container_port", message))
            return port.container_port
        case Policy.STATIC:
            some = any(each.host_port for each in ask.ports)
            remedy = "Passthrough, which keeps those that are set" if some else "Index or Dynamic"
            message = f"policy Static: {port} has no hostPort. Set it, or use policy {remedy}"
            mistakes.append(Mistake(Reason.HOST_PORT_MISSING, f"{field}.host_port", message))
            return 0
        case _:
            return 0


def _indexed(ask: Ask, index: int, port: PortAsk, position: int, reserved: int, mistakes: list[Mistake]) -> int:
    number = ask.low + index + ask.stride * position
    if number <= ask.high and not reserved >> number & 1:
        return number
    how = f"{port}: min-port {ask.low} + index {index} + stride {ask.stride} x {position} = {number}"
    if number <= ask.high:
        message = f"{how} is reserved in this cluster. Move {ask.setting('min-port')}"
        mistakes.append(Mistake(Reason.PORT_RESERVED, "range.min", message))
        return number
    beyond = f"max-port {ask.high}" if ask.high < MAX_PORT else f"the highest port, {MAX_PORT}"
    message = f"{how} is beyond {beyond}. Raise {ask.setting('max-port')}, or lower min-port or stride"
    mistakes.append(Mistake(Reason.NUMBER_BEYOND_RANGE, "range.max", message))
    return 0


def _dynamic_mistakes(ask: Ask, reserved: int) -> list[Mistake]:
    numbers = span(ask.low, ask.high)
    if numbers & ~reserved & ~ask.avoided:
        return []
    taken = numbers & reserved
    why = [f"reserved in this cluster ({format_numbers(taken)})"] if taken else []
    taken = numbers & ask.avoided & ~reserved
    why += [f"named by the Pod's own probes or hooks ({format_numbers(taken)})"] if taken else []
    message = f"every number from min-port {ask.low} to max-port {ask.high} is {' or '.join(why)}. Choose another range"
    return [Mistake(Reason.RANGE_RESERVED, "range", message)]


def _collisions(ask: Ask, groups: Sequence[Group]) -> list[Mistake]:
    """Two groups of the owner's own on one number would conflict with each other on every node."""
    mistakes = []
    seen: dict[tuple[Protocol, int], dict[str, PortAsk]] = {}  # by address, in port order
    for group in groups:
        for member in _sockets(ask, group) if group.number else ():
            port = ask.ports[member]
            key = PortKey(normalise_ip(port.host_ip), port.protocol, group.number)
            earlier = seen.setdefault((port.protocol, group.number), {})
            other = _first_conflict(key.ip, earlier)
            if other is not None:
                message = f"{port} and {other} would both get {key}. Give them different numbers"
                mistakes.append(Mistake(Reason.OWN_PORTS_COLLIDE, f"ports[{member}]", message))
            earlier.setdefault(key.ip, port)
    return mistakes


def _sockets(ask: Ask, group: Group) -> list[int]:
    """The first member of each protocol: others of it are the same socket under another name."""
    return list({ask.ports[member].protocol: member for member in reversed(group.members)}.values())[::-1]


def _first_conflict(ip: str, earlier: Mapping[str, PortAsk]) -> PortAsk | None:
    """The first port whose address conflicts with this one. Two look-ups where there is none: there may be hundreds."""
    if ip == WILDCARD:
        return next(iter(earlier.values()), None)
    if ip not in earlier and WILDCARD not in earlier:
        return None
    return next(port for address, port in earlier.items() if address in {ip, WILDCARD})
