"""How `hostport.io/publish-<port>` and `hostport.io/block-<port>` name a port of the Pod. Pure.

Rules:

* A port is called by its name, an unnamed one by its containerPort as it was before the allocation; a name that two
  containers have is written `<container>-<name>`.
* A Pod that comes again, or was restored, calls its ports as it did: what another webhook added has no say, since its
  row stands last in the table that the Pod brings.
* One socket may have as many names as its number can be written with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from hostport.contract import Mistake, Reason
from shim.outcomes import clipped, quoted
from shim.pods import NewPod, PodPort
from shim.ports import EVERY_ADDRESS, brought

MOST_KNOWN = 8
"""Names in a message."""

MOST_COMPARED, LONGEST_COMPARED = 32, 32
"""Names that a wrong one is compared with, and characters of each: it takes some microseconds for each."""


def places_by_name(pod: NewPod) -> dict[str, list[int]]:
    """The places in `NewPod.ports` of each name."""
    names: dict[str, list[int]] = {}
    former = brought(pod)
    rows = {key: row for row, key in enumerate(former)}
    known: dict[int, int] = {}  # place → row
    for at, port in enumerate(pod.ports):
        keys = [(port.container, port.name, port.protocol, number) for number in (port.container_port, port.host_port)]
        key = next(filter(rows.__contains__, keys), None)
        if key is not None:
            known[at] = rows[key]
        name = port.name or str(former[key] if key is not None else port.container_port)
        for each in (name, f"{port.container}-{name}"):
            names.setdefault(each, []).append(at)
    return {name: _first_known(pod, places, known) for name, places in names.items()} if known else names


def _first_known(pod: NewPod, places: list[int], known: Mapping[int, int]) -> list[int]:
    """Of the places of a name those of the port that has the first row of the table; all where none has one."""
    first = min((at for at in places if at in known), key=known.__getitem__, default=None)
    if first is None:
        return places
    return [at for at in places if pod.ports[at].socket == pod.ports[first].socket]


def places_of(
    pod: NewPod, names: Mapping[str, list[int]], name: str, prefix: str, *, guesses: bool
) -> tuple[tuple[int, ...], str]:
    """The places of the ports of a name, and what is wrong with it.

    Several ports have one name only where they are one: an unnamed 53/TCP and 53/UDP of one container.

    Args:
        pod: the Pod.
        names: its `places_by_name`.
        name: the name.
        prefix: what stands before it in an annotation, to say it right.
        guesses: whether the nearest name is looked for: once for each Pod is enough.

    """
    found = names.get(name, [])
    if not found:
        return (), f"the Pod has no port {quoted(name)}{_nearest_name(names, name, guesses=guesses)}"
    if len({pod.ports[at].socket for at in found}) > 1:
        which = f"{pod.ports[found[0]].container}-{name}"
        return (), f"several ports are called {quoted(name)}. Name the container too: {prefix}{which}"
    return tuple(found), ""


def _nearest_name(names: Iterable[str], name: str, *, guesses: bool) -> str:
    some = [each for each in islice(names, MOST_COMPARED) if len(each) <= LONGEST_COMPARED] if guesses else ()
    near = difflib.get_close_matches(clipped(name, LONGEST_COMPARED), some, n=1)
    if near:
        return f"; did you mean {quoted(near[0])}?"
    known = [each for each in names if "-" not in each] or list(names)
    return f". Name one of: {', '.join(known[:MOST_KNOWN])}"


def names_of_one_socket(pod: NewPod) -> Iterator[Mistake]:
    """What is wrong with a socket that has more names than its number can be written with.

    The API server refuses the same protocol, address and number twice. Every address has three spellings, any other
    one: `patch` writes another for each name.
    """
    fixed: dict[tuple[str, int], int] = {}  # the first hostPort of a group is also that of members without one
    for port in pod.ports:
        if port.host_port:
            fixed.setdefault((port.container, port.container_port), port.host_port)
    seen: dict[tuple[str, int, str, int, str], list[PodPort]] = {}
    for port in pod.ports:
        number = port.host_port or fixed.get((port.container, port.container_port), 0)
        address = "" if port.host_ip in EVERY_ADDRESS else port.host_ip
        same = seen.setdefault((port.container, port.container_port, port.protocol, number, address), [])
        same.append(port)
        if len(same) > (1 if address else len(EVERY_ADDRESS)):
            both = f"ports {quoted(same[0].name)} and {quoted(port.name)} of container {port.container}"
            what = f"one socket, {port.container_port}/{port.protocol}"
            why = f"{both} are {what}, and the API server takes no such number once more: remove one of the two"
            yield Mistake(Reason.OWN_PORTS_COLLIDE, port.path, why)
