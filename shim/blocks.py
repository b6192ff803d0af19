"""Blocks: a port that stands for some consecutive numbers, and where those stand in the Pod. Pure.

Rules:

* A block is one port everywhere inside: it is asked for, told and warned of as one, and its first number is the port's
  own. Only here is it taken apart.
* A block is that of the port's group, as the allocator makes it: 5000/UDP and 5000/TCP of one container have one size,
  whichever of them the annotation names; two different hostPorts make two groups. One socket under two names has none,
  since its other numbers could be told from no other's.
* The other numbers stand as unnamed ports at the end of the container's list, so that the scheduler knows them. Their
  hostPort counts up from the port's; with `network: Host` the containerPort is the same number, with `network: Pod` it
  counts up from the port's containerPort, so that the program keeps all of its numbers.
* Which entries an earlier admission added, the table `hostport.io/allocations` says. It proves nothing, and need not:
  an entry that is taken for one of a block's becomes one, or is removed. None is left that was not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from hostport.allocations import AllocationRow, parse_allocations
from hostport.contract import Mistake, Reason
from hostport.contract.limits import HIGHEST_PORT, MOST_NUMBERS, Bound
from hostport.v1.allocator_pb2 import POLICY_PASSTHROUGH
from shim.annotations import ALLOCATIONS, BLOCK, RANGED, PodSettings, parse_block
from shim.outcomes import AddOp, Op, RemoveOp, quoted
from shim.pods import BlockEntry, Container, NewPod, PodPort
from shim.port_names import places_by_name, places_of
from shim.ports import EVERY_ADDRESS, AssignedPort

Numbers = dict[tuple[int, str, str, int], tuple[PodPort, int]]
"""Place of a container, protocol, address and number → the port whose block it is of, and its place in that."""


def gathered(pod: NewPod) -> NewPod:
    """The Pod without the entries that an earlier admission added: they stand in `others` of their port."""
    numbers = _numbers(pod)
    if not numbers:
        return pod
    containers = tuple(
        [_without_entries(at, each, numbers) if each.is_counted else each for at, each in enumerate(pod.containers)]
    )
    return replace(pod, containers=containers, ports=tuple(port for each in containers for port in each.ports))


def _numbers(pod: NewPod) -> Numbers:
    """The other numbers of the blocks of an earlier admission."""
    rows: dict[tuple[str, str, str, int], AllocationRow] = {
        (row.container, row.name, row.protocol, row.host_port): row
        for row in parse_allocations(pod.annotations.get(ALLOCATIONS, ""))
        if 1 < row.count <= MOST_NUMBERS
    }
    numbers: Numbers = {}
    for at, container in enumerate(pod.containers if rows else ()):
        for port in container.ports:
            row = rows.get((port.container, port.name, port.protocol, port.host_port))
            if row is not None and len(numbers) + row.count <= MOST_NUMBERS:  # nothing of ours had more
                for place in range(1, row.count):
                    numbers[at, port.protocol, _address(port), port.host_port + place] = port, place
    return numbers


def _without_entries(at: int, container: Container, numbers: Numbers) -> Container:
    heads = {owner.pointer: owner for owner, _ in numbers.values()}
    found: dict[str, list[BlockEntry]] = {}  # by the pointer of the port whose they are
    ports = []
    for port in container.ports:
        owner, place = numbers.get((at, port.protocol, _address(port), port.host_port), (port, 0))
        is_mapped = port.container_port in {port.host_port, owner.container_port + place}
        if place and is_mapped and not port.name and port.pointer not in heads:
            entry = BlockEntry(port.pointer, port.container_port, port.host_port)
            found.setdefault(owner.pointer, []).append(entry)
        else:
            ports.append(port)
    return replace(
        container,
        all_ports=tuple([replace(port, others=tuple(found.get(port.pointer, ()))) for port in ports]),
    )


def _address(port: PodPort) -> str:
    return "" if port.host_ip in EVERY_ADDRESS else port.host_ip


def with_blocks(pod: NewPod, settings: PodSettings) -> tuple[NewPod, tuple[Mistake, ...]]:
    """The Pod with its blocks as one port each, as its annotations want them, and what is wrong with those."""
    wanted = {name: value for name, value in pod.annotations.items() if name.startswith(BLOCK)}
    if len(wanted) > Bound.BLOCKS.most:
        return pod, (Mistake(Reason.TOO_COMPLEX, "metadata.annotations", Bound.BLOCKS.told(len(wanted))),)
    sizes: dict[int, _Wanted] = {}  # by place of a port in `NewPod.ports`
    mistakes: list[Mistake] = []
    names, groups = places_by_name(pod), _groups(pod, settings)
    for name, value in wanted.items():
        count, alignment, why = parse_block(value)
        mistakes += [_invalid_block(name, why)] if why else []
        places, why = _places_of(pod, names, groups, name.removeprefix(BLOCK), guesses=not mistakes)
        mistakes += [_invalid_block(name, why)] if why else []
        mine = _Wanted(name, count, alignment)
        others = {at: sizes.setdefault(at, mine) for at in places} if count else {}
        mistakes += [_sizes_differ(name, each.name) for each in list(others.values())[:1] if each[1:] != mine[1:]]
    if not mistakes:
        pod = _sized(pod, sizes)
        mistakes += _excessive_blocks(pod, own_network=settings.own_network)
        mistakes += () if settings.own_network else _shared_first(pod, settings)
    return pod, tuple(mistakes)


class _Wanted(NamedTuple):
    """What an annotation wants."""

    name: str
    size: int
    alignment: int


def _places_of(
    pod: NewPod, names: Mapping[str, list[int]], groups: Sequence[list[int]], name: str, *, guesses: bool
) -> tuple[tuple[int, ...], str]:
    """The places of the ports that get the number of the one that is called so, and what is wrong with the name.

    groups: for each place the places of its port group.
    """
    places, why = places_of(pod, names, name, BLOCK, guesses=guesses)
    if not places:
        return (), _of_init_container(pod, name) or why
    found = {groups[at][0]: groups[at] for at in places}.values()
    why = next(filter(None, (_two_names(pod, group) for group in found)), "")
    return tuple(at for group in found for at in group), why


def _of_init_container(pod: NewPod, name: str) -> str:
    """What is wrong where an ordinary init container has the port; empty where none has."""
    for container in pod.containers:
        for port in () if container.is_counted else container.all_ports:
            called = port.name or str(port.container_port)
            if name in {called, f"{container.name}-{called}"}:
                why = "which ends before the Pod's programs start, and whose ports are left alone"
                return f"{quoted(name)} is a port of init container {container.name}, {why}: remove the annotation"
    return ""


def _groups(pod: NewPod, settings: PodSettings) -> list[list[int]]:
    """For each place of a port the places of its port group, as `groups_of` of the allocator makes them.

    A hostPort that one member has is the group's; two different ones make two groups, the unset members staying with
    the first. What the API server defaulted is unset under a policy that has a range. What an earlier admission gave is
    one number for all of its group, and two hostPorts that the user wrote are still two when the Pod comes again.
    """
    groups: list[list[int]] = []
    known: dict[tuple[str, int], dict[int, list[int]]] = {}  # container and containerPort → number → group
    for at, port in enumerate(pod.ports):
        is_unset = pod.host_network and port.host_port == port.container_port
        number = 0 if is_unset and settings.policy in RANGED else port.host_port
        mine = known.setdefault((port.container, port.container_port), {})
        group = mine.get(number) if number else next(iter(mine.values()), None)
        if group is None and 0 in mine:  # a group without a number takes the first that comes
            group = mine[number] = mine.pop(0)
        if group is None:
            group = mine[number] = []
        group.append(at)
        groups.append(group)
    return groups


def _two_names(pod: NewPod, group: Sequence[int]) -> str:
    """What is wrong where two ports of a group are one socket; empty where they are not."""
    seen: dict[tuple[str, str], PodPort] = {}
    for port in (pod.ports[at] for at in group):
        other = seen.setdefault((port.protocol, _address(port)), port)
        if other is not port:
            both = f"ports {quoted(other.name)} and {quoted(port.name)} of container {port.container}"
            return f"{both} are one socket, {port.container_port}/{port.protocol}: remove one of the two names"
    return ""


def _invalid_block(name: str, why: str) -> Mistake:
    return Mistake(Reason.BLOCK_INVALID, _annotation_field(name), why)


def _sizes_differ(name: str, other: str) -> Mistake:
    why = f"{_annotation_field(other)} says another size, and the two ports share their number: write one of them"
    return Mistake(Reason.BLOCK_SIZES_DIFFER, _annotation_field(name), why)


def _annotation_field(name: str) -> str:
    return f"annotation {quoted(name).strip(chr(34))}"


def _shared_first(pod: NewPod, settings: PodSettings) -> Iterator[Mistake]:
    """Two numbers of a container that the user made one, of which one alone begins a block.

    On the host's network their containerPorts become one, and the two a port group, which has one size.
    """
    first: dict[tuple[str, int], PodPort] = {}
    for port in pod.ports:
        number = port.host_port or (port.container_port if settings.policy == POLICY_PASSTHROUGH else 0)
        other = first.setdefault((port.container, number), port) if number else port
        if other.count != port.count:
            why = (
                f"{number} is the first number of port {quoted(other.name)} as well, and only one of the two is a block"
            )
            remedy = "Write another number, or make both a block"
            yield Mistake(Reason.BLOCK_INVALID, f"{port.path}.hostPort", f"{why}. {remedy}")


def _excessive_blocks(pod: NewPod, *, own_network: bool) -> Iterator[Mistake]:
    numbers = sum(port.count for port in pod.ports)
    if numbers > MOST_NUMBERS:
        why = f"its ports stand for {numbers:,} numbers in all, more than {MOST_NUMBERS:,}: ask for smaller blocks"
        yield Mistake(Reason.TOO_MANY_NUMBERS, "", f"{why}, or split the Pod")
    for port in pod.ports if own_network else ():
        last = port.container_port + port.count - 1
        if port.count > 1 and last > HIGHEST_PORT:
            why = f"a block of {port.count} from {port.container_port} ends at {last}, above {HIGHEST_PORT}"
            yield Mistake(Reason.BLOCK_INVALID, f"{port.path}.containerPort", f"{why}: begin lower")


def _sized(pod: NewPod, wanted: Mapping[int, _Wanted]) -> NewPod:
    sized = [
        replace(port, count=wanted[at].size, alignment=wanted[at].alignment) if at in wanted else port
        for at, port in enumerate(pod.ports)
    ]
    left = iter(sized)
    return replace(
        pod,
        ports=tuple(sized),
        containers=tuple(
            [
                replace(each, all_ports=tuple([next(left) for _ in each.ports])) if each.is_counted else each
                for each in pod.containers
            ]
        ),
    )


def entry_ops(assigned: Iterable[AssignedPort]) -> Iterator[Op]:
    """Makes the entries of all blocks what they have to be.

    What stands there is changed in its place, then what is too much is removed from behind, then what lacks is added:
    each of the three leaves the places alone that those after it name.
    """
    surplus: list[str] = []
    added: list[AddOp] = []
    for each in assigned:
        if each.count > 1 or each.port.others:
            lacking, free = _compared(each)
            numbers = iter(lacking)
            for entry in free:
                pair = next(numbers, None)
                if pair is None:
                    surplus.append(entry.pointer)
                else:
                    yield from _moved(entry, *pair)
            added += [_added(each, *pair) for pair in numbers]
    yield from (RemoveOp(pointer) for pointer in sorted(surplus, key=_place, reverse=True))
    yield from added


def _compared(each: AssignedPort) -> tuple[list[tuple[int, int]], list[BlockEntry]]:
    """The pairs of containerPort and hostPort of a block that no entry has, and the entries that have none of them."""
    inside = each.port.container_port if each.own_network else each.number
    lacking = {(inside + place, each.number + place) for place in range(1, each.count)}
    free = []
    for entry in each.port.others:
        pair = entry.container_port, entry.host_port
        if pair in lacking:
            lacking.remove(pair)
        else:
            free.append(entry)
    return sorted(lacking), free


def _moved(entry: BlockEntry, inside: int, outside: int) -> Iterator[Op]:
    if entry.container_port != inside:
        yield AddOp(f"{entry.pointer}/containerPort", inside)
    if entry.host_port != outside:
        yield AddOp(f"{entry.pointer}/hostPort", outside)


def _added(each: AssignedPort, inside: int, outside: int) -> AddOp:
    value: dict[str, Any] = {"containerPort": inside, "hostPort": outside, "protocol": each.protocol}
    if each.port.host_ip:
        value["hostIP"] = each.port.host_ip
    return AddOp(f"{each.port.pointer.rpartition('/')[0]}/-", value)


def _place(pointer: str) -> tuple[str, int]:
    parent, _, place = pointer.rpartition("/")
    return parent, int(place)
