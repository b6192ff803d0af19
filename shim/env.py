"""HOSTPORT_ variables: which names there are, what they say in each container, and how they get there.

Rules:

* They stand first, so that `$(HOSTPORT_PRIMARY)` works in args and in later variables.
* A literal under one of our names is ours and is replaced: a restored or copied Pod carries the numbers of another
  life, and the program would bind them. What nothing of this life explains is removed from such a Pod. A `valueFrom` is
  the user's, and stays.
* Inside a container its own port's name wins, elsewhere the first in port order. Two different ports of one name never
  share a variable: the first has it, and people are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from hostport.contract import Notice
from shim.fields import Json
from shim.held import Held
from shim.outcomes import Remark, remark
from shim.pods import Container, Pod
from shim.pointers import Op, add, remove

PREFIX = "HOSTPORT_"
HOST_IP = PREFIX + "HOST_IP"
HOST_IP_ENTRY = {"name": HOST_IP, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}}

MOST_NAMED = 20

Entries = dict[str, dict[str, Any]]


def env_ops(
    pod: Pod,
    held: tuple[Held, ...],
    *,
    injects: bool = True,
    published: Mapping[int, Entries] | None = None,
    is_from_elsewhere: bool = False,
) -> tuple[list[Op], list[Remark]]:
    """Puts the variables into every container and init container where they are not right already.

    Args:
        pod: the Pod.
        held: its ports.
        injects: whether our own variables are wanted.
        published: the variables that the user wants to have the numbers too, by place of container.
        is_from_elsewhere: whether it brings variables of another life.

    """
    ops: list[Op] = []
    clashes: dict[str, None] = {}
    kept: dict[str, None] = {}
    former: dict[str, None] = {}
    published = published or {}
    having_ports = {each.at for each in held}
    elsewhere: Entries | None = None  # what every container without ports gets
    for at, container in enumerate(pod.containers):
        if not injects:
            wanted = {}
        elif at in having_ports or elsewhere is None:
            wanted = wanted_env(at, held, clashes)
            elsewhere = elsewhere if at in having_ports else wanted
        else:
            wanted = elsewhere
        if at in published:
            wanted = wanted | published[at]
        foreign = {_name(entry) for entry in container.env or () if _name(entry) in wanted and _is_foreign(entry)}
        if foreign:
            kept.update((f"{name} of {container.name}", None) for name in wanted if name in foreign)
            wanted = {name: entry for name, entry in wanted.items() if name not in foreign}
        gone = _former(container, wanted, foreign) if is_from_elsewhere and injects else []
        former.update((f"{_name(container.env[place])} of {container.name}", None) for place in gone if container.env)
        ops += _container_ops(container, wanted, gone)
    return ops, [*_clash_remarks(clashes), *_kept_remarks(kept), *_former_remarks(former)]


def _former(container: Container, wanted: Entries, foreign: Collection[str]) -> list[int]:
    """The places of literals under our prefix that nothing of this life explains."""
    return [
        at
        for at, entry in enumerate(container.env or ())
        if _name(entry).startswith(PREFIX)
        and not entry.get("valueFrom")
        and _name(entry) not in wanted
        and _name(entry) not in foreign
    ]


def wanted_env(at: int, held: tuple[Held, ...], clashes: dict[str, None]) -> Entries:
    """The variables of the container at a place, in order. Names that two different ports want go to `clashes`."""
    entries: Entries = {HOST_IP: HOST_IP_ENTRY}
    for name, number in _claims(at, held):
        entry = {"name": name, "value": str(number)}
        if entries.setdefault(name, entry) != entry:
            clashes[name] = None
    return entries


def _claims(at: int, held: tuple[Held, ...]) -> Iterator[tuple[str, int]]:
    """Plain names first, then those with the container's name, each in port order; the first of a name wins."""
    by_suffix: dict[str, list[Held]] = {}
    for each in held:
        by_suffix.setdefault(variable_part(each.name) or str(each.old), []).append(each)
    for suffix, holders in by_suffix.items():
        winner = next((each for each in holders if each.at == at), holders[0])
        yield from ((PREFIX + suffix, each.number) for each in holders if each.at == winner.at)
    for suffix, holders in by_suffix.items():
        if len({each.at for each in holders}) > 1:
            yield from ((f"{PREFIX}{variable_part(each.container)}_{suffix}", each.number) for each in holders)


def variable_part(name: str) -> str:
    """A name as it stands in a variable's."""
    return name.upper().replace("-", "_")


def _container_ops(container: Container, wanted: Entries, gone: list[int]) -> list[Op]:
    pointer = f"{container.pointer}/env"
    if container.env is None:
        return [add(pointer, list(wanted.values()))] if wanted else []
    ours = [at for at, entry in enumerate(container.env) if _name(entry) in wanted]
    if len(ours) == len(wanted) and all(_is_right(container.env[at], wanted) for at in ours):
        return [remove(f"{pointer}/{at}") for at in reversed(gone)]
    removals = [remove(f"{pointer}/{at}") for at in sorted([*ours, *gone], reverse=True)]
    return removals + [add(f"{pointer}/{at}", entry) for at, entry in enumerate(wanted.values())]


def _is_right(entry: Json, wanted: Entries) -> bool:
    if _name(entry) == HOST_IP:
        return _is_host_ip(entry)
    return not entry.get("valueFrom") and entry.get("value") == wanted[_name(entry)]["value"]


def _is_foreign(entry: Json) -> bool:
    return bool(entry.get("valueFrom")) and not (_name(entry) == HOST_IP and _is_host_ip(entry))


def _is_host_ip(entry: Json) -> bool:
    reference = (entry.get("valueFrom") or {}).get("fieldRef") or {}
    return reference.get("fieldPath") == "status.hostIP" and reference.get("apiVersion") in {None, "", "v1"}


def _name(entry: Json) -> str:
    return entry.get("name") or ""


def _clash_remarks(names: Iterable[str]) -> Iterator[Remark]:
    if names:
        yield remark(Notice.ENV_CLASH, f"{_some(names)} is wanted twice; the first in port order has it")


def _kept_remarks(names: Iterable[str]) -> Iterator[Remark]:
    if names:
        yield remark(Notice.ENV_KEPT, f"valueFrom is kept, so it need not be the allocated port: {_some(names)}")


def _former_remarks(names: Iterable[str]) -> Iterator[Remark]:
    if names:
        yield remark(Notice.FORMER_ENV, f"numbers of another life of the Pod were removed: {_some(names)}")


def _some(names: Iterable[str]) -> str:
    """The first of them: a warning is cut soon after."""
    return ", ".join(islice(names, MOST_NAMED))
