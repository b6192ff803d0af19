"""The answer by trying everything: every number, every node, every other place of every plan. Small clusters only.

It shares no code with the search: what conflicts, who goes and where a Pod may run is written down here once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from allocator.core.asks import Ask
from allocator.core.candidates import Node
from allocator.core.claims import Claim, State

Port = tuple[str, str, int]
"""Address, protocol and number."""

ANY = "0.0.0.0"


@dataclass(frozen=True)
class UtilizationSnapshot:
    """What stands where before an ask, as everybody can see it."""

    nodes: Sequence[Node]
    claims: Sequence[Claim]
    reserved: int
    services: frozenset[tuple[str, int]] = frozenset()  # protocol and number of their node ports
    sockets: frozenset[tuple[str, str, int]] = frozenset()  # node, protocol and number of what is open on every address


@dataclass(frozen=True)
class Body:
    """Somebody who needs a node: a plan, or the ask."""

    name: tuple[str, str] | None
    ports: tuple[Port, ...]
    nodes: tuple[str, ...]
    rank: int | None


def conflict(one: Iterable[Port], other: Iterable[Port]) -> bool:
    theirs = list(other)
    return any(a[1:] == b[1:] and (a[0] == b[0] or ANY in (a[0], b[0])) for a in one for b in theirs)


def ports_of(claim: Claim) -> tuple[Port, ...]:
    return tuple((p.host_ip or ANY, p.protocol.value, p.host_port + at) for p in claim.ports for at in range(p.count))


def name_of(claim: Claim) -> tuple[str, str] | None:
    owner = claim.owner
    return (owner.namespace, owner.name) if owner.kind == "Pod" and owner.name else None


def is_settled(claim: Claim) -> bool:
    return claim.state in (State.BOUND, State.LEASED)


def candidates(picture: UtilizationSnapshot, constraints: object) -> tuple[str, ...]:
    wanted: str | None = constraints.node_name  # type: ignore[attr-defined]
    if wanted is not None:
        return (wanted,)
    return tuple(node.name for node in picture.nodes if constraints.accepts(node))  # type: ignore[attr-defined]


def rank(priority: int, may_preempt: bool) -> int | None:
    return priority if may_preempt else None


def goes(holder: Claim, before: int | None) -> bool:
    """Whether a settled holder goes before a Pod of some rank."""
    if holder.state is State.LEASED:
        return False
    return holder.is_terminating or (before is not None and holder.priority < before)


def processes(picture: UtilizationSnapshot, node: str) -> tuple[Port, ...]:
    """What is open on a node and nobody settled there declares."""
    opened = [(protocol, number) for at, protocol, number in picture.sockets if at == node]
    if not opened:
        return ()
    settled = (claim for claim in picture.claims if claim.node == node and is_settled(claim))
    declared = {port[1:] for claim in settled for port in ports_of(claim)}
    return tuple((ANY, *slot) for slot in opened if slot not in declared)


def body_of(picture: UtilizationSnapshot, claim: Claim) -> Body:
    where = candidates(picture, claim.constraints)
    return Body(name_of(claim), ports_of(claim), where, rank(claim.priority, claim.may_preempt))


def stands_well(picture: UtilizationSnapshot, body: Body, node: str) -> bool:
    """Whether nobody settled is in its way there who stays, and no process."""
    return not conflict(body.ports, processes(picture, node)) and not any(
        holder.node == node
        and is_settled(holder)
        and not goes(holder, body.rank)
        and (body.name is None or name_of(holder) != body.name)
        and conflict(body.ports, ports_of(holder))
        for holder in picture.claims
    )


def places(picture: UtilizationSnapshot, ask: Body) -> bool:
    """Whether there is a node for the ask and for every plan that stands, all at once."""
    plans = [body_of(picture, claim) for claim in picture.claims if not is_settled(claim) and claim.node is not None]
    ways = {id(body): [node for node in body.nodes if stands_well(picture, body, node)] for body in (ask, *plans)}
    return _fits([ask, *plans], ways, {})


def _fits(bodies: Sequence[Body], ways: Mapping[int, list[str]], placed: dict[str, list[Body]]) -> bool:
    if not bodies:
        return True
    first, *rest = bodies
    for node in ways[id(first)]:
        there = placed.setdefault(node, [])
        if any(not _are_one(first, other) and conflict(first.ports, other.ports) for other in there):
            continue
        there.append(first)
        if _fits(rest, ways, placed):
            return True
        there.pop()
    return False


def _are_one(one: Body, other: Body) -> bool:
    return one.name is not None and one.name == other.name


def leased_on_candidates(picture: UtilizationSnapshot, ports: Iterable[Port], nodes: Iterable[str]) -> bool:
    where = set(nodes)
    wanted = list(ports)
    leases = (claim for claim in picture.claims if claim.state is State.LEASED)
    return any(claim.node in where and conflict(wanted, ports_of(claim)) for claim in leases)


def of_services(picture: UtilizationSnapshot, ports: Iterable[Port]) -> bool:
    """Whether a Service holds any of some ports, whatever its address."""
    return any((protocol, number) in picture.services for _, protocol, number in ports)


def not_leased(picture: UtilizationSnapshot, ports: Iterable[Port], nodes: Iterable[str]) -> tuple[str, ...]:
    """The nodes that are left for a Pod that is kept off those where one of its fixed ports is leased."""
    wanted = list(ports)
    return tuple(node for node in nodes if not leased_on_candidates(picture, wanted, [node]))


def not_beside(
    picture: UtilizationSnapshot, ports: Iterable[Port], nodes: Sequence[str], *, waits: bool
) -> tuple[str, ...]:
    """The nodes that are left for a Pod that is kept off those where a process has one of its ports, if any is left.

    waits: whether it is to be Pending, so that none need be left.
    """
    wanted = list(ports)
    left = tuple(node for node in nodes if not conflict(wanted, processes(picture, node)))
    return left if left or waits else tuple(nodes)


def groups_of(ask: Ask) -> list[tuple[list[int], int]]:
    """Positions of the ports that share a number, and the number or 0, by what the generator makes: names say it."""
    groups: dict[tuple[str, int], list[int]] = {}
    for at, port in enumerate(ask.ports):
        groups.setdefault((port.container, port.container_port), []).append(at)
    return [
        (members, next((ask.ports[m].host_port for m in members if ask.ports[m].host_port), 0))
        for members in groups.values()
    ]


def fixed_ports(ask: Ask) -> tuple[Port, ...]:
    """The ports whose numbers follow from the ask alone."""
    if ask.policy.name != "Dynamic":
        (ports,) = tuples(ask, 0)
        return ports
    fixed = (p for p in ask.ports if p.host_port)
    return tuple((p.host_ip or ANY, p.protocol.value, p.host_port + at) for p in fixed for at in range(p.count))


def tuples(ask: Ask, reserved: int) -> Iterator[tuple[Port, ...]]:
    """Every way to give numbers to the ask."""
    groups = groups_of(ask)
    sizes = [ask.ports[members[0]].count for members, _ in groups]

    def with_numbers(numbers: Sequence[int]) -> tuple[Port, ...]:
        return tuple(
            (ask.ports[m].host_ip or ANY, ask.ports[m].protocol.value, number + more)
            for (members, _), number, size in zip(groups, numbers, sizes, strict=True)
            for m in members
            for more in range(size)
        )

    match ask.policy.name:
        case "Static":
            yield with_numbers([number for _, number in groups])
        case "Passthrough":
            yield with_numbers([number or ask.ports[members[0]].container_port for members, number in groups])
        case "Index":
            index = ask.index or 0
            yield with_numbers(
                [number or ask.low + sizes[at] * index + ask.stride * at for at, (_, number) in enumerate(groups)]
            )
        case "Dynamic":
            free = {n for n in range(ask.low, ask.high + 1) if not reserved >> n & 1}
            for (_, number), size in zip(groups, sizes, strict=True):
                free -= set(range(number, number + size))
            wanted = [at for at, (_, number) in enumerate(groups) if not number]
            for chosen in permutations(sorted(free), len(wanted)):
                begins = dict(zip(wanted, chosen, strict=True))
                runs = [n for at, begin in begins.items() for n in range(begin, begin + sizes[at])]
                if len(set(runs)) == len(runs) and free.issuperset(runs):
                    yield with_numbers([number or begins[at] for at, (_, number) in enumerate(groups)])


def pod_fits(picture: UtilizationSnapshot, ask: Ask) -> bool:
    """Whether a Pod can be admitted: with any numbers that its policy allows, none of them leased where it may land, or a Service's."""
    nodes = candidates(picture, ask.constraints)
    if ask.can_steer:
        nodes = not_leased(picture, fixed_ports(ask), nodes) or nodes
    name = (ask.owner.namespace, ask.owner.name) if ask.owner.name else None
    for ports in _distinct(tuples(ask, picture.reserved)):
        body = Body(name, ports, nodes, rank(ask.priority, ask.may_preempt))
        if of_services(picture, ports) or leased_on_candidates(picture, ports, nodes):
            continue
        if places(picture, body):
            return True
    return False


def _distinct(found: Iterator[tuple[Port, ...]]) -> Iterator[tuple[Port, ...]]:
    """Which port has which number does not matter, only which are taken."""
    seen: set[frozenset[Port]] = set()
    for ports in found:
        if frozenset(ports) not in seen:
            seen.add(frozenset(ports))
            yield ports


def lease_fits(picture: UtilizationSnapshot, ask: Ask) -> bool:
    """Whether a lease can be granted: where nobody stands with its numbers, and nobody could land with them."""
    for ports in _distinct(tuples(ask, picture.reserved)):
        for node in () if of_services(picture, ports) else candidates(picture, ask.constraints):
            if not conflict(ports, processes(picture, node)) and not any(
                _is_there(picture, claim, node) and conflict(ports, ports_of(claim)) for claim in picture.claims
            ):
                return True
    return False


def _is_there(picture: UtilizationSnapshot, claim: Claim, node: str) -> bool:
    return claim.node == node or (not is_settled(claim) and node in candidates(picture, claim.constraints))
