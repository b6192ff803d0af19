"""What people are told of the program behind the numbers, and what `hostport.io/rewrite` changes in its texts. Pure.

Rules:

* A number in the Pod object is right, and the program may still listen on the old one: that is said, with the place,
  the old number, the new one and what to do.
* `rewrite` changes whole tokens of a container's own old numbers in that container's own texts, all at once. What is
  left is told, with the reason.
* A Pod that comes again shows the new numbers: what was rewritten is not rewritten again, and what was told stays told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import msgspec

from hostport.contract import Notice
from shim.env import PREFIX, variable_part
from shim.held import Held, moved
from shim.outcomes import LONGEST_WARNING, Remark, clipped, remark
from shim.pods import Pod, undeclared
from shim.pointers import Op, add, escaped
from shim.settings import ALLOCATED, NETWORK, REWRITE, REWRITTEN
from shim.texts import ANOTHER_CONTAINER, Text, Texts, replaced, tokens, why_not_ours

PROMETHEUS = "prometheus.io/port"
MOST_MAPPED = 32
"""Ports for which the node's portmap writes rules without anybody noticing."""

MOST_HITS = 1024
"""Old numbers in the texts of a Pod that are looked at: each takes microseconds."""

LONGEST_LIST = 2000
"""Characters of what was replaced, and of what was left, in the annotation."""

LONGEST_ENTRY, SHORTEST_PLACES = 200, 40

_encode = msgspec.json.Encoder().encode


class Hit(msgspec.Struct, frozen=True, gc=False):
    """An old number where nobody replaces it. `container` is empty for an annotation."""

    container: str
    field: str
    held: Held
    why: str

    def __str__(self) -> str:
        where = f"{self.container} {self.field}" if self.container else self.field
        return f"{where}: {self.held.said}" + (f", {self.why}" if self.why else "")


class Found(msgspec.Struct, frozen=True):
    """What is changed in the texts, what is told, and the annotation about it (empty: none)."""

    ops: tuple[Op, ...]
    remarks: tuple[Remark, ...]
    rewritten: str


def look(
    pod: Pod, held: tuple[Held, ...], *, rewrites: bool, is_own: bool, published: Mapping[int, frozenset[str]]
) -> Found:
    """Looks through a Pod on the host's network. `published`: variables that are written, by place of container."""
    texts = Texts(pod, dict(published))
    search = _Search(pod, held, is_own=is_own, rewrites=rewrites and not (is_own and REWRITTEN in pod.annotations))
    search.look(texts)
    told: list[Remark] = []
    if not is_own:
        told += [*search.old_number(texts), *_port_moved(pod, held, texts, search, published)]
        told += () if pod.host_network else _hostname(texts)
    return Found(ops=tuple(search.ops), remarks=tuple(told), rewritten=search.listed() if rewrites else "")


def _hostname(texts: Texts) -> Iterator[Remark]:
    user = texts.hostname_user()
    if user:
        why = "uses the hostname, which with hostNetwork is the node's: read metadata.name by fieldRef"
        yield remark(Notice.HOSTNAME_IS_NODE, f"{user} {why}")


class _Search:
    """The places of old numbers: replaced where that is wanted and can be, else remembered."""

    def __init__(self, pod: Pod, held: tuple[Held, ...], *, is_own: bool, rewrites: bool) -> None:
        settled = {each.number for each in held} if is_own else set()
        self._pod = pod
        self._rewrites = rewrites
        self._by_number: dict[int, list[Held]] = {}
        for each in moved(held):
            if each.said not in settled:
                self._by_number.setdefault(each.said, []).append(each)
        self._words: dict[str, list[str]] = {}  # by pointer: what is run, where a word of it changes
        self.ops: list[Op] = []
        self.replaced: list[str] = []
        self.left: list[Hit] = []
        self._hits = 0

    def look(self, texts: Texts) -> None:
        if not self._by_number:
            return
        if texts.has_any(self._by_number):
            for at, container, text in texts.with_numbers(self._by_number):
                if self.is_cut:
                    break
                self._look_at(at, container.name, text)
            self.ops += [add(pointer, words) for pointer, words in self._words.items()]
        self._look_at_annotation()

    def _look_at(self, at: int, container: str, text: Text) -> None:
        changed = replaced(text.value, partial(self._choose, at, container, text))
        if changed == text.value:
            return
        if text.words:  # an `add` to a list inserts: all of it is set
            self._words.setdefault(text.pointer, list(text.words))[text.at] = changed
        else:
            self.ops.append(add(text.pointer, changed))

    @property
    def is_cut(self) -> bool:
        """Whether there are more old numbers than are looked at."""
        return self._hits > MOST_HITS

    def _choose(self, at: int, container: str, text: Text, match: re.Match[str]) -> int | None:
        """The new number of a token; 0 where it stays; None where enough was looked at."""
        named = self._by_number.get(int(match[0]))
        if not named:
            return 0
        self._hits += 1
        if self.is_cut:
            return None
        mine = next((each for each in named if each.at == at), None)
        why = why_not_ours(text, match.start(), self._pod.name)
        if not why and mine is None and self._rewrites:
            why = ANOTHER_CONTAINER
        if mine is None or why or not self._rewrites:
            self.left.append(Hit(container, text.field, mine or named[0], why))
            return 0
        self._note(container, text.field, mine)
        return mine.number

    def _look_at_annotation(self) -> None:
        value = self._pod.annotations.get(PROMETHEUS, "")
        named = [
            each
            for match in tokens(value)
            if match[0] == value
            for each in self._by_number.get(int(value), ())
            if each.protocol == "TCP"
        ]
        if not named:
            return
        if self._rewrites:
            self.ops.append(add(f"/metadata/annotations/{escaped(PROMETHEUS)}", str(named[0].number)))
            self._note("", PROMETHEUS, named[0])
        else:
            self.left.append(Hit("", PROMETHEUS, named[0], ""))

    def _note(self, container: str, field: str, held: Held) -> None:
        where = f"{container} {field}" if container else field
        self.replaced.append(f"{where}: {held.said} -> {held.number}")

    def listed(self) -> str:
        """The annotation that tells what was rewritten. A Pod that comes again keeps the one that it has."""
        known = self._pod.annotations.get(REWRITTEN)
        if not self._rewrites and known is not None:
            return known
        beyond = [f"what stands behind {MOST_HITS:,} places"] if self.is_cut else []
        lists = {"replaced": _cut(self.replaced), "left": beyond + _cut([str(hit) for hit in self.left])}
        return _encode(lists).decode()

    def old_number(self, texts: Texts) -> Iterator[Remark]:
        unread = f"; {texts.unread:,} characters were not read" if texts.unread else ""
        unread += f"; what stands behind {MOST_HITS:,} places was not looked at" if self.is_cut else ""
        if self.left:
            first = self.left[0].held
            same = [hit for hit in self.left if hit.held.said == first.said]
            others = sorted({hit.held.said for hit in self.left} - {first.said})
            more = f", and {len(others)} more" if others else ""
            remedy = f"use $({variable_of(first)}), {REWRITE} or {NETWORK}: Pod"
            if self._rewrites:
                remedy = f"left as {REWRITTEN} says; use $({variable_of(first)})"
            head, tail = f"{first.said} (now {first.number}{more}) stands in ", f"{unread}: {remedy}"
            room = LONGEST_WARNING - len(f"{Notice.OLD_NUMBER.name}: {head}{tail}")
            yield remark(Notice.OLD_NUMBER, head + _places(same, max(room, SHORTEST_PLACES)) + tail)
        elif unread and self._by_number:
            yield remark(Notice.OLD_NUMBER, f"old numbers may stand in texts{unread}: look yourself")


def _places(hits: Sequence[Hit], room: int) -> str:
    """Where a number stands, by container; cut off where there is no room, and that is said."""
    by_container: dict[str, dict[str, None]] = {}
    for hit in hits:
        by_container.setdefault(hit.container, {})[hit.field] = None
    parts = [f"{name} {', '.join(fields)}" if name else ", ".join(fields) for name, fields in by_container.items()]
    whole = "; ".join(parts)
    count = f" ({len(hits)} places)"
    return whole if len(whole) <= room else clipped(whole, room - len(count)) + count


def _cut(entries: list[str]) -> list[str]:
    """The first entries of a list, as long as there is room; and how many there are besides."""
    kept: list[str] = []
    room = LONGEST_LIST
    for entry in entries:
        room -= min(len(entry), LONGEST_ENTRY)
        if room < 0:
            return [*kept, f"and {len(entries) - len(kept)} more"]
        kept.append(clipped(entry, LONGEST_ENTRY))
    return kept


def variable_of(each: Held) -> str:
    """The variable that has a port's number."""
    return PREFIX + (variable_part(each.name) or str(each.old))


def called(each: Held) -> str:
    """A port as people know it."""
    return f"port {each.name or each.old} of container {each.container}"


def _port_moved(
    pod: Pod, held: tuple[Held, ...], texts: Texts, search: _Search, published: Mapping[int, frozenset[str]]
) -> Iterator[Remark]:
    first = next(moved(held), None)
    is_told = texts.names_a_variable or search.replaced or published
    if first is None or is_told or _reads_annotations(pod):
        return
    remedy = f"listen on it, or set {NETWORK}: Pod"
    message = f"{called(first)} moved from {first.said} to {first.number}; nothing names {variable_of(first)}: {remedy}"
    yield remark(Notice.PORT_MOVED, message)


def _reads_annotations(pod: Pod) -> bool:
    """Whether the Pod reads what was allocated by the downward API."""
    for container in pod.containers:
        for entry in container.env or ():
            source = entry.get("valueFrom")
            if source and ALLOCATED in ((source.get("fieldRef") or {}).get("fieldPath") or ""):
                return True
    volumes = pod.spec.get("volumes")
    return bool(volumes) and b"metadata.annotations" in _encode(volumes)


def on_host(pod: Pod, held: tuple[Held, ...], *, is_own: bool, is_from_elsewhere: bool) -> Iterator[Remark]:
    """What hostNetwork makes of the Pod's other ports, and of numbers that its author wrote."""
    if not is_own:
        yield from _mapped(pod, held)
        if not is_from_elsewhere:
            yield from _replaced(pod, held)
    former = {each.old for each in held} if is_own else ()  # a probe that could follow none of two stays there
    for number, path in islice(((n, path) for n, path in undeclared(pod).items() if n not in former), 1):
        why = "which no port of the Pod has: with hostNetwork it is bound on the node. Declare it in ports"
        yield remark(Notice.UNDECLARED_PORT, f"{path} asks {number}, {why}")
    numbers = {each.said for each in moved(held) if each.protocol == "TCP"} - (
        {each.number for each in held} if is_own else set()
    )
    for container in pod.containers:
        for probe in container.probes:
            if not probe.is_here and probe.port in numbers:
                why = "and stays as it is: ask the Pod itself, or the number that it has now"
                host = clipped(probe.host, 40)
                yield remark(Notice.PROBE_HOST, f"{probe.path} asks host {host} at {probe.port}, {why}")
        for port in () if container.is_counted else container.all_ports[:1]:
            why = "becomes a host port, as hostNetwork makes it: remove it from ports if nothing listens there"
            yield remark(Notice.INIT_PORT, f"{port.container_port} of init container {container.name} {why}")


def _mapped(pod: Pod, held: tuple[Held, ...]) -> Iterator[Remark]:
    for each in held:
        port = each.port
        if not pod.host_network and port.host_port == each.number != port.container_port:
            remedy = f"listen on {each.number}, or set {NETWORK}: Pod"
            message = (
                f"{called(each)} was mapped from {each.number} to {each.said}; with hostNetwork nothing is: {remedy}"
            )
            yield remark(Notice.MAPPED_PORT, message)


def _replaced(pod: Pod, held: tuple[Held, ...]) -> Iterator[Remark]:
    for each in held:
        port = each.port
        if pod.host_network and port.host_port == port.container_port != each.number and not each.appeared:
            why = "with hostNetwork it counts as unset. To keep it use policy Static or Passthrough"
            message = f"hostPort {port.host_port} of {called(each)} became {each.number}: {why}"
            yield remark(Notice.HOST_PORT_REPLACED, message)


def in_own_network(pod: Pod, held: tuple[Held, ...], published: Iterable[tuple[Held, str]]) -> Iterator[Remark]:
    """What is said of a Pod that keeps a network of its own. `published`: ports, and variables with their numbers."""
    for each, variable in published:
        literals = {entry.get("name"): entry.get("value") for entry in pod.containers[each.at].env or ()}
        if literals.get(variable) == str(each.old) != str(each.number):  # the program listens where nobody maps to
            was = f"variable {clipped(variable, 40)} of container {each.container} was {each.old}"
            where = f"where port {each.name or each.old} is in a network of its own, and is {each.number} now"
            yield remark(Notice.PUBLISHED_INSIDE, f"{was}, {where}: publish into another, or set {NETWORK}: Host")
    if len(held) > MOST_MAPPED:
        why = "for each of which the node writes rules: starts become slow. Use fewer, or hostport.io/network: Host"
        yield remark(Notice.MANY_PORTS, f"{len(held)} ports are more than {MOST_MAPPED}, {why}")
