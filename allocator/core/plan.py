"""Where an ask fits: the numbers that its policy left open, and a node where all of its numbers are free together.

Rules, by section of the product's description:

* A Dynamic number is free on *every* candidate: nobody stands there with it, and no unsettled claim that has it could
  land there. Whatever node the scheduler picks is then fine. The lowest such number is taken, another one for each
  port group.
* Fixed numbers are refused only when no candidate has all of them free. A number that is leased on any candidate is
  refused: the scheduler does not know leases and might choose that node.
* A lease stands at once, so it needs one node: where nobody stands with its numbers, and where no unsettled claim that
  has one of them could land.
* Succession: holders with the namespace and name of the asking Pod do not conflict with it (the predecessor, or the
  Pod itself if this create fails with AlreadyExists).
* No candidate at all: a Pod is admitted without a node, as Kubernetes leaves it Pending.

Nothing here changes anything: a dry run is this module's answer, an allocation is the same answer made to stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

from allocator.core.asks import Ask, Mistake, Policy, PortAsk, Refused, Warned
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort
from allocator.core.occupancy import Occupancy, Scope
from allocator.core.policy import Group, number_groups
from allocator.core.ports import PortKey, Protocol, format_numbers, lowest, normalise_ip, span
from hostport.contract import Notice, Reason

SHOWN_HOLDERS = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer to an ask: its ports with their numbers, in the order of the ask, and the node to stand on."""

    ports: tuple[ClaimPort, ...]
    node: NodeName | None
    warnings: tuple[Warned, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """What a plan is made against."""

    occupancy: Occupancy
    claims: Mapping[ClaimId, Claim]
    reserved: int = 0  # numbers that Dynamic and Index never hand out
    discloses_holders: bool = False  # name holders of other namespaces in messages


def place(ask: Ask, world: World, *, within: Constraints, exempt: frozenset[ClaimId] = frozenset()) -> Placement:
    """Numbers and a node for an ask.

    Args:
        ask: what is asked.
        world: what stands where.
        within: where the owner may run; those of the ask, unless the operator knows better.
        exempt: claims that do not conflict with it: its predecessors, and itself where it stands already.

    Raises:
        Refused: the ask is wrong in itself, or nothing fits.

    """
    ask = ask.with_unset_defaults()
    groups = number_groups(ask, world.reserved)
    scope = world.occupancy.scope(within)
    fixed = [(ask.ports[m], _key(ask, m, group)) for group in groups if group.number for m in group.members]
    nodes = _nodes_for(ask, fixed, scope, world, exempt)
    numbers = [group.number for group in groups]
    node = world.occupancy.pick(nodes) if nodes else None
    if not all(numbers):
        numbers, node = _search(ask, groups, scope, nodes, world)
    return Placement(_ports(ask, groups, numbers), node, tuple(_warnings(ask, groups, scope, world)))


def free_nodes(keys: Iterable[PortKey], scope: Scope, world: World, exempt: frozenset[ClaimId]) -> int:
    """The nodes of a scope on which all the keys are free together, whoever is exempt aside."""
    nodes = scope.nodes
    for key in keys:
        blocked = world.occupancy.conflicting(key) & nodes
        if blocked and exempt:
            blocked = _without_exempt(key, blocked, world, exempt)
        nodes &= ~blocked
    return nodes


def _without_exempt(key: PortKey, blocked: int, world: World, exempt: frozenset[ClaimId]) -> int:
    """Unblocks the nodes where only exempt claims conflict with the key."""
    for claim_id in exempt:
        node = world.claims[claim_id].node
        if node is not None and exempt.issuperset(world.occupancy.holders(node, key)):
            blocked &= ~world.occupancy.only(node)
    return blocked


def _nodes_for(
    ask: Ask, fixed: list[tuple[PortAsk, PortKey]], scope: Scope, world: World, exempt: frozenset[ClaimId]
) -> int:
    """The candidates on which the fixed numbers are free.

    Raises:
        Refused: there are candidates, and none of them will do.

    """
    if not scope.nodes:
        if ask.owner.is_pod:
            return 0
        raise Refused(Mistake(Reason.NODE_NOT_FOUND, "constraints", "no known node satisfies the constraints"))
    if not fixed:
        return scope.nodes
    keys = [key for _, key in fixed]
    if ask.owner.is_pod:
        _refuse_leased(ask, fixed, scope, world)
        nodes = free_nodes(keys, scope, world, exempt)
    else:
        nodes = free_nodes(keys, scope, world, exempt)
        for key in keys:
            nodes &= ~world.occupancy.landable(key)
    if not nodes:
        raise Refused(*_conflicts(ask, fixed, scope, world, exempt))
    return nodes


def _search(ask: Ask, groups: list[Group], scope: Scope, nodes: int, world: World) -> tuple[list[int], NodeName | None]:
    """Dynamic: the lowest numbers that are free on every candidate; a lease may look at one node after the other.

    Raises:
        Refused: there are not enough numbers.

    """
    occupancy = world.occupancy
    numbers = _lowest_free(ask, groups, world, lambda p: occupancy.taken(scope, p, ask.low, ask.high))
    if numbers:
        return numbers, occupancy.pick(nodes) if nodes else None
    if not ask.owner.is_pod:
        for name in occupancy.names_of(nodes):
            numbers = _lowest_free(ask, groups, world, partial(_taken_on, ask, occupancy, name))
            if numbers:
                return numbers, name
    raise Refused(_exhausted(ask, groups, scope, world))


def _lowest_free(ask: Ask, groups: list[Group], world: World, taken: Callable[[Protocol], int]) -> list[int]:
    """A number for each group, all different; empty when the range has not enough. Bit 0 of a set is `ask.low`."""
    free = _usable(ask, world)
    numbers = [group.number for group in groups]
    for number in numbers:
        if ask.low <= number <= ask.high:
            free &= ~(1 << (number - ask.low))
    taken_by: dict[Protocol, int] = {}
    for at, group in enumerate(groups):
        if group.number:
            continue
        here = free
        for member in group.members:
            protocol = ask.ports[member].protocol
            if protocol not in taken_by:
                taken_by[protocol] = taken(protocol)
            here &= ~taken_by[protocol]
        if not here:
            return []
        found = lowest(here)
        numbers[at] = ask.low + found
        free &= ~(1 << found)
    return numbers


def _taken_on(ask: Ask, occupancy: Occupancy, name: NodeName, protocol: Protocol) -> int:
    return occupancy.taken_on(name, protocol, ask.low, ask.high)


def _usable(ask: Ask, world: World) -> int:
    """The numbers of the range that are not reserved, less `ask.low`."""
    return ((1 << (ask.high - ask.low + 1)) - 1) & ~(world.reserved >> ask.low)


def _key(ask: Ask, member: int, group: Group) -> PortKey:
    port = ask.ports[member]
    return PortKey(normalise_ip(port.host_ip), port.protocol, group.number)


def _ports(ask: Ask, groups: list[Group], numbers: list[int]) -> tuple[ClaimPort, ...]:
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


# -- words


def _refuse_leased(ask: Ask, fixed: list[tuple[PortAsk, PortKey]], scope: Scope, world: World) -> None:
    mistakes = []
    for port, key in fixed:
        leased = world.occupancy.leased(key) & scope.nodes
        if leased:
            where = _held_on(ask, key, leased, world, frozenset())
            message = f"{port}: {key} is leased: {where}. Choose another number, or keep the Pod off that node"
            mistakes.append(Mistake(Reason.HELD_BY_LEASE, "ports", message))
    if mistakes:
        raise Refused(*mistakes)


def _conflicts(
    ask: Ask, fixed: list[tuple[PortAsk, PortKey]], scope: Scope, world: World, exempt: frozenset[ClaimId]
) -> list[Mistake]:
    """A sentence for each number that no candidate has free; one for all where only their combination fails."""
    mistakes = []
    nodes = scope.nodes
    for port, key in fixed:
        if free_nodes([key], scope, world, exempt) & (~0 if ask.owner.is_pod else ~world.occupancy.landable(key)):
            continue
        held = world.occupancy.conflicting(key) & nodes
        where = _held_on(ask, key, held, world, exempt) if held else "a Pod that has no node yet may land there"
        message = f"{port}: {key} is taken {_on_all(nodes)}: {where}. Choose another number or free it"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, "ports", message))
    if not mistakes:
        numbers = ", ".join(str(key) for _, key in fixed)
        message = f"{numbers} are each free somewhere, but not together on one of {_count(nodes)}"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, "ports", message))
    return mistakes


def _held_on(ask: Ask, key: PortKey, nodes: int, world: World, exempt: frozenset[ClaimId]) -> str:
    parts = []
    for name in islice(world.occupancy.names_of(nodes), SHOWN_HOLDERS):
        holders = [world.claims[h] for h in world.occupancy.holders(name, key) if h not in exempt]
        parts.append(f"{name} by {', '.join(_holder(ask, claim, world) for claim in holders[:SHOWN_HOLDERS])}")
    more = nodes.bit_count() - SHOWN_HOLDERS
    return ", ".join(parts) + (f", and on {more} more" if more > 0 else "")


def _holder(ask: Ask, claim: Claim, world: World) -> str:
    owner = claim.owner
    if world.discloses_holders or not owner.namespace or owner.namespace == ask.owner.namespace:
        return f"{owner}" if owner.is_pod else f"lease {claim.id} of {owner}"
    return "a Pod of another namespace" if owner.is_pod else "a lease of another namespace"


def _exhausted(ask: Ask, groups: list[Group], scope: Scope, world: World) -> Mistake:
    wanted = sum(1 for group in groups if not group.number)
    usable = span(ask.low, ask.high) & ~world.reserved
    reserved = span(ask.low, ask.high) & world.reserved
    aside = f", {format_numbers(reserved)} reserved" if reserved else ""
    left = "no number" if wanted == 1 else f"no {wanted} numbers"
    message = (
        f"range {ask.low}-{ask.high} ({usable.bit_count()} numbers{aside}) has {left} left that would be free"
        f" {_on_all(scope.nodes)}. Widen it with hostport.io/min-port and hostport.io/max-port, or free ports"
    )
    return Mistake(Reason.RANGE_EXHAUSTED, "range", message)


def _on_all(nodes: int) -> str:
    return "on the only candidate node" if nodes.bit_count() == 1 else f"on all {_count(nodes)}"


def _count(nodes: int) -> str:
    return f"{nodes.bit_count()} candidate nodes"


def _warnings(ask: Ask, groups: list[Group], scope: Scope, world: World) -> Iterable[Warned]:
    named = 0
    for group in groups:
        if group.number and (group.is_users or ask.policy in {Policy.PASSTHROUGH, Policy.STATIC}):
            named |= world.reserved & 1 << group.number
    if named:
        message = f"{format_numbers(named)} is reserved in this cluster (the node's own services use it)"
        yield Warned(Notice.RESERVED_PORT, message)
    if not scope.nodes:
        message = "no node satisfies nodeSelector, node affinity and taints: the Pod stays Pending until one does"
        yield Warned(Notice.NO_CANDIDATE, message)
