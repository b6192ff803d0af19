"""A Pod's ports with their numbers, and where those are told: variables for programs, annotations for people. Pure.

Longer than 350 lines because a port's number and all its names are one idea, and each rule below needs the others.

Rules:

* The table of ports that a Pod brings along (`hostport.io/allocations`) proves nothing: it might be anybody's. It says
  what ports were called before they were moved, and no more.
* A dry run reserves nothing, so there is no id by which the allocator could know a Pod again that comes back in the
  same dry run (reinvocation). The table of the earlier preview stands in for it, for what another preview shows.
* Variables stand first, so that `$(HOSTPORT_PRIMARY)` works in args and in later variables.
* A literal under one of our names is ours and is replaced: a restored or copied Pod carries the numbers of another
  life, and the program would bind them. What nothing of this life explains is removed from such a Pod. A `valueFrom` is
  the user's, and stays.
* Inside a container its own port's name wins, elsewhere the first in port order. Two different ports of one name never
  share a variable: the first has it, and people are warned.
* Annotations that come in under our names prove nothing and are replaced; what is not true any more is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from hostport.allocations import AllocationRow, parse_allocations
from hostport.contract import Notice, PodWarning
from hostport.contract.annotations import PREFIX, Annotation
from hostport.contract.limits import HIGHEST_PORT
from hostport.contract.words import format_run
from hostport.v1.allocator_pb2 import Allocation, Protocol
from shim.annotations import ALLOCATED, ALLOCATION_ID, ALLOCATIONS, REWRITTEN, WARNINGS
from shim.outcomes import AddOp, Op, RemoveOp
from shim.pods import Json, NewPod, PodPort

PROTOCOL_NAMES = {value: name.removeprefix("PROTOCOL_") for name, value in Protocol.items()}

PortKey = tuple[str, str, str, int]
"""Container, name, protocol and number of a port."""

VARIABLE_PREFIX = "HOSTPORT_"
EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - spellings of hostIP, nothing is bound here
"""Of hostIP, as the scheduler and we read it."""

HOST_IP = VARIABLE_PREFIX + "HOST_IP"
EXTERNAL_IP = VARIABLE_PREFIX + "EXTERNAL_IP"
REFERENCES = {
    HOST_IP: "status.hostIP",
    EXTERNAL_IP: f"metadata.annotations['{Annotation.EXTERNAL_IP.text}']",
    EXTERNAL_IP + "_V4": f"metadata.annotations['{Annotation.EXTERNAL_IP_V4.text}']",
    EXTERNAL_IP + "_V6": f"metadata.annotations['{Annotation.EXTERNAL_IP_V6.text}']",
}
"""Our variables that hold no number, and the fields of the Pod that they are."""

MOST_NAMED = 20
"""Names in a warning, which is cut soon after."""

Entries = dict[str, dict[str, Any]]

TOLD = frozenset(
    {
        ALLOCATION_ID,
        WARNINGS,
        REWRITTEN,
        Annotation.EXTERNAL_IP.text,  # of a former life: it is written anew with the Pod's node
        Annotation.EXTERNAL_IP_V4.text,
        Annotation.EXTERNAL_IP_V6.text,
    }
)

_REFERRING: Entries = {
    name: {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
    for name, path in REFERENCES.items()
}
_encode = msgspec.json.Encoder().encode

LONGEST_KEY = 63
"""Of the part behind the slash; Kubernetes refuses more."""


def brought(pod: NewPod) -> Mapping[PortKey, int]:
    """The old containerPort of each port of the table; empty where there is none, or none that can be read."""
    table = pod.annotations.get(ALLOCATIONS)
    if not table:
        return {}
    return {
        (row.container, row.name, row.protocol, row.host_port): row.container_port
        for row in parse_allocations(table)
        if 1 <= row.container_port <= HIGHEST_PORT
    }


def previewed(pod: NewPod, *, own_network: bool) -> Mapping[PortKey, int]:
    """The old containerPorts of an earlier preview. Empty where there was none, or where its ports do not all stand."""
    if ALLOCATION_ID in pod.annotations:
        return {}
    earlier = brought(pod)
    standing = {
        (port.container, port.name, port.protocol, port.host_port if own_network else port.container_port)
        for port in pod.ports
    }
    return earlier if earlier.keys() <= standing else {}


class AllocationError(ValueError):
    """The allocator's fault: its answer does not fit the question. Nothing may be patched by it."""


class AssignedPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A port and its number. `at` is the place of its container in `NewPod.containers`.

    `old` is the containerPort that the port had before anything moved it: what it is called by. `said` is the number
    that probes and texts of the Pod as it came call it by. They differ for a Pod that brings numbers of another life;
    in a reinvocation the Pod shows the new number already.

    `own_network`: only its hostPort is set, and nothing moves. `is_moved`: the program has to listen on another number
    than the manifest says. `name`, `container`, `protocol` and `count` are those of `port`: of a block, `number` is the
    first. `suffix` is what its variable is called behind the prefix.
    """

    at: int
    port: PodPort
    name: str
    container: str
    protocol: str
    suffix: str
    old: int
    said: int
    number: int
    own_network: bool
    appeared: bool
    is_moved: bool
    count: int = 1

    @property
    def told(self) -> str:
        """Its number as people read it; of a block, the first and the last."""
        return str(self.number) if self.count == 1 else format_run(self.number, self.count)


def match_ports(pod: NewPod, allocation: Allocation, *, own_network: bool = False) -> tuple[AssignedPort, ...]:
    """The Pod's ports with their numbers, in port order; those that appeared after the allocation come last.

    The answer's ports stand in the order of the request.

    Raises:
        AllocationError: they do not, a number is none, or a block is not whole.

    """
    asked = [(at, port) for at, container in enumerate(pod.containers) for port in container.ports]
    if own_network and len(asked) > len(allocation.ports):
        asked = [(at, port) for at, port in asked if port.host_port]  # what appeared without one is on no host
    if len(asked) != len(allocation.ports):
        raise AllocationError(f"asked for {len(asked)} ports, got {len(allocation.ports)}")
    comes_again, former = is_own(pod, allocation), brought(pod)
    is_previewed = bool(former) and not allocation.id and bool(previewed(pod, own_network=own_network))
    found: list[AssignedPort] = []
    appeared: list[AssignedPort] = []
    for (at, port), got in zip(asked, allocation.ports, strict=True):
        number, protocol = got.host_port, PROTOCOL_NAMES.get(got.protocol, "")
        if (got.container, got.name, protocol) != (port.container, port.name, port.protocol):
            raise AllocationError(f"asked for {port.path}, got port {got.name!r}/{protocol} of {got.container!r}")
        if not 1 <= number <= HIGHEST_PORT:
            raise AllocationError(f"{port.path} got the number {number}")
        count = got.count or 1  # an allocator of a version before there were blocks gives one number
        if count != port.count or number + count - 1 > HIGHEST_PORT:
            raise AllocationError(f"{port.path} stands for {port.count} numbers, got {count} from {number}")
        standing = port.host_port if own_network else port.container_port
        known = former.get((port.container, port.name, protocol, standing)) if former else None
        old = known or got.container_port or port.container_port
        said = old if comes_again else port.container_port
        each = AssignedPort(
            at=at,
            port=port,
            name=port.name,
            container=port.container,
            protocol=protocol,
            suffix=variable_part(port.name) or str(old),
            old=old,
            said=said,
            number=number,
            own_network=own_network,
            appeared=got.appeared or (is_previewed and known is None),
            is_moved=said != number and not own_network,
            count=count,
        )
        (appeared if each.appeared else found).append(each)
    return (*found, *appeared)


def is_own(pod: NewPod, allocation: Allocation) -> bool:
    """Whether the Pod comes back with this very allocation: reinvocation.

    A dry run has no id to come back with, so there a table without an id is taken for our own. It might be anybody's,
    and decides no more than names in a preview.
    """
    carried = pod.annotations.get(ALLOCATION_ID, "")
    return allocation.id == carried and bool(carried or ALLOCATIONS in pod.annotations)


def is_from_elsewhere(pod: NewPod, allocation: Allocation) -> bool:
    """Whether the Pod brings the numbers of another life: it was restored, or copied."""
    return ALLOCATIONS in pod.annotations and not is_own(pod, allocation)


def env_ops(
    pod: NewPod,
    assigned: tuple[AssignedPort, ...],
    *,
    injects: bool = True,
    published: Mapping[int, Entries] | None = None,
    is_from_elsewhere: bool = False,
    is_addressed: bool = False,
) -> tuple[list[Op], list[PodWarning]]:
    """Puts the variables into every container and init container where they are not right already.

    Args:
        pod: the Pod.
        assigned: its ports.
        injects: whether our own variables are wanted.
        published: the variables that the user wants to have the numbers too, by place of container.
        is_from_elsewhere: whether it brings variables of another life.
        is_addressed: whether it will be told the address of its node.

    """
    ops: list[Op] = []
    clashes: dict[str, None] = {}
    kept: dict[str, None] = {}
    former: dict[str, None] = {}
    published = published or {}
    having_ports = {each.at for each in assigned}
    elsewhere: Entries | None = None  # what every container without ports gets
    for at, container in enumerate(pod.containers):
        if not injects:
            wanted = {}
        elif at in having_ports or elsewhere is None:
            wanted = wanted_env(at, assigned, clashes, is_addressed=is_addressed)
            elsewhere = elsewhere if at in having_ports else wanted
        else:
            wanted = elsewhere
        if at in published:
            wanted = wanted | published[at]
        if container.env is None:
            ops += [AddOp(f"{container.pointer}/env", list(wanted.values()))] if wanted else ()
            continue
        foreign = {_entry_name(entry) for entry in container.env if _is_foreign(entry, wanted)}
        if foreign:
            kept.update((f"{name} of {container.name}", None) for name in wanted if name in foreign)
            wanted = {name: entry for name, entry in wanted.items() if name not in foreign}
        gone = _former(container.env, wanted, foreign) if is_from_elsewhere and injects else {}
        former.update((f"{name} of {container.name}", None) for name in gone.values())
        ops += _changes(f"{container.pointer}/env", container.env, wanted, gone)
    return ops, [*_variable_warnings(clashes, kept, former)]


def _former(env: Sequence[Json], wanted: Entries, foreign: Collection[str]) -> dict[int, str]:
    """The literals under our prefix that nothing of this life explains: their names, by place."""
    named = {at: _entry_name(entry) for at, entry in enumerate(env) if not entry.get("valueFrom")}
    return {
        at: name
        for at, name in named.items()
        if name.startswith(VARIABLE_PREFIX) and name not in wanted and name not in foreign
    }


def wanted_env(
    at: int, assigned: tuple[AssignedPort, ...], clashes: dict[str, None], *, is_addressed: bool = False
) -> Entries:
    """The variables of the container at a place, in order. Names that two different ports want go to `clashes`."""
    entries: Entries = dict(_REFERRING) if is_addressed else {HOST_IP: _REFERRING[HOST_IP]}
    for name, number in _named_numbers(at, assigned):
        entry = {"name": name, "value": str(number)}
        if entries.setdefault(name, entry) != entry:
            clashes[name] = None
    return entries


def _named_numbers(at: int, assigned: tuple[AssignedPort, ...]) -> Iterator[tuple[str, int]]:
    """Plain names first, then those with the container's name, each in port order; the first of a name wins."""
    by_suffix: dict[str, list[AssignedPort]] = {}
    shared: list[AssignedPort] = []  # by several containers
    for each in assigned:
        by_suffix.setdefault(each.suffix, []).append(each)
    for suffix, holders in by_suffix.items():
        winner = _winner(holders, at)
        mine = [each for each in holders if each.at == winner.at]
        shared += holders if len(mine) < len(holders) else ()
        for each in mine:
            yield VARIABLE_PREFIX + suffix, each.number
            if each.count > 1:
                yield from _of_block(VARIABLE_PREFIX + suffix, each)
    for each in shared:
        name = _long_name(each)
        yield name, each.number
        if each.count > 1:
            yield from _of_block(name, each)


def _of_block(name: str, each: AssignedPort) -> Iterator[tuple[str, int]]:
    """What is told of a block beside its first number. `name`: the variable that has that."""
    yield f"{name}_MIN", each.number
    yield f"{name}_MAX", each.number + each.count - 1
    yield f"{name}_COUNT", each.count


def variable_for(each: AssignedPort, at: int, assigned: Iterable[AssignedPort]) -> str:
    """The variable that has a port's number in the container at a place."""
    holders = [other for other in assigned if other.suffix == each.suffix] or [each]
    return VARIABLE_PREFIX + each.suffix if _winner(holders, at).at == each.at else _long_name(each)


def variable_names(assigned: Iterable[AssignedPort]) -> Collection[str]:
    """The variables that hold numbers, in whichever container."""
    holders: dict[str, dict[int, AssignedPort]] = {}
    for each in assigned:
        holders.setdefault(each.suffix, {})[each.at] = each
    names = {VARIABLE_PREFIX + suffix: max(each.count for each in of.values()) for suffix, of in holders.items()}
    for of in holders.values():
        if len(of) > 1:
            names |= {_long_name(each): each.count for each in of.values()}
    parts = ("", "_MIN", "_MAX", "_COUNT")
    return {f"{name}{part}" for name, count in names.items() for part in (parts if count > 1 else parts[:1])}


def _winner(holders: Sequence[AssignedPort], at: int) -> AssignedPort:
    """Of those who want one suffix the one who has it, alone, in the container at a place."""
    for each in holders:
        if each.at == at:
            return each
    return holders[0]


def _long_name(each: AssignedPort) -> str:
    """The variable that has a port's number in every container."""
    return f"{VARIABLE_PREFIX}{variable_part(each.container)}_{each.suffix}"


def variable_part(name: str) -> str:
    """A name as it stands in a variable's."""
    return name.upper().replace("-", "_")


def _changes(pointer: str, env: Sequence[Json], wanted: Entries, gone: Collection[int]) -> list[Op]:
    """What makes variables that are there the wanted ones, less those at some places."""
    ours = [at for at, entry in enumerate(env) if _entry_name(entry) in wanted]
    if len(ours) == len(wanted) and all(_is_right(env[at], wanted) for at in ours):
        return [RemoveOp(f"{pointer}/{at}") for at in sorted(gone, reverse=True)]
    removals = [RemoveOp(f"{pointer}/{at}") for at in sorted([*ours, *gone], reverse=True)]
    return removals + [AddOp(f"{pointer}/{at}", entry) for at, entry in enumerate(wanted.values())]


def _is_right(entry: Json, wanted: Entries) -> bool:
    mine = wanted[_entry_name(entry)]
    if "valueFrom" in mine:
        return _is_reference(entry)
    return not entry.get("valueFrom") and entry.get("value") == mine["value"]


def _is_foreign(entry: Json, wanted: Entries) -> bool:
    """Whether a variable has one of our names, and its value from somewhere that the user chose."""
    return bool(entry.get("valueFrom")) and _entry_name(entry) in wanted and not _is_reference(entry)


def _is_reference(entry: Json) -> bool:
    """Whether a variable is one of ours that refer to a field of the Pod, and refers to that."""
    reference = (entry.get("valueFrom") or {}).get("fieldRef") or {}
    path = REFERENCES.get(_entry_name(entry))
    return path is not None and reference.get("fieldPath") == path and reference.get("apiVersion") in {None, "", "v1"}


def _entry_name(entry: Json) -> str:
    return entry.get("name") or ""


def _variable_warnings(
    clashes: Collection[str], kept: Collection[str], former: Collection[str]
) -> Iterator[PodWarning]:
    if HOST_IP in clashes:
        yield PodWarning(Notice.ENV_CLASH, f"{HOST_IP} is the node's address, and no port's: rename the port")
    elif clashes:
        remedy = "the first in port order has it: give the other a name of its own"
        yield PodWarning(Notice.ENV_CLASH, f"{_some(clashes)} is wanted twice; {remedy}")
    if kept:
        yield PodWarning(
            Notice.ENV_KEPT,
            f"valueFrom is kept, so it need not be the allocated port: {_some(kept)}",
        )
    if former:
        yield PodWarning(
            Notice.FORMER_ENV,
            f"numbers of another life of the Pod were removed: {_some(former)}",
        )


def _some(names: Iterable[str]) -> str:
    return ", ".join(islice(names, MOST_NAMED))


def audit_ops(
    pod: NewPod, assigned: tuple[AssignedPort, ...], allocation_id: str, more: dict[str, str] | None = None
) -> Iterator[Op]:
    """`more`: what else is told, by name of the annotation."""
    wanted = audit_annotations(assigned, allocation_id) | (more or {})
    for name in pod.annotations:
        is_ours = name.startswith(ALLOCATED) or name in TOLD
        if is_ours and name not in wanted:
            yield RemoveOp(pointer_to(name))
    for name, value in wanted.items():
        if pod.annotations.get(name) != value:
            yield AddOp(pointer_to(name), value)


def audit_annotations(assigned: tuple[AssignedPort, ...], allocation_id: str) -> dict[str, str]:
    """By name. A dry run has no id."""
    holders: dict[str, set[int]] = {}
    for each in assigned:
        holders.setdefault(_base_name(each), set()).add(each.at)
    annotations: dict[str, str] = {}
    for each in assigned:
        base = _base_name(each)
        name = base if len(holders[base]) == 1 else _with_container(each.container, base)
        annotations.setdefault(ALLOCATED + name, each.told)
    table = [
        AllocationRow(
            container=each.container,
            name=each.name,
            protocol=each.protocol,
            container_port=each.old,
            host_port=each.number,
            count=each.count,
        )
        for each in assigned
    ]
    annotations[ALLOCATIONS] = _encode(table).decode()
    if allocation_id:
        annotations[ALLOCATION_ID] = allocation_id
    return annotations


def _base_name(each: AssignedPort) -> str:
    return each.name or f"{each.old}-{each.protocol}"


def _with_container(container: str, base: str) -> str:
    """Kept within the limit by a hash in place of the end of the container's name."""
    longest = LONGEST_KEY - len(ALLOCATED.removeprefix(PREFIX))
    if len(container) + 1 + len(base) <= longest:
        return f"{container}-{base}"
    digest = hashlib.sha256(container.encode()).hexdigest()[:8]
    room = max(longest - len(f"-{digest}-{base}"), 0)
    return f"{container[:room]}-{digest}-{base}"


def pointer_to(name: str, among: str = "annotations") -> str:
    """The JSON Pointer (RFC 6901) to an annotation or a label."""
    return f"/metadata/{among}/{name.replace('~', '~0').replace('/', '~1')}"
