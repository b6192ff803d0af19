"""What people are told of a program whose numbers move, and what `hostport.io/rewrite` changes in its texts. Pure.

Rules:

* A number in the Pod object is right, and the program may still listen on the old one: that is said, with the place,
  the old number, the new one and what to do there.
* `rewrite` changes whole tokens of a container's own old numbers in that container's own texts, all at once. What is
  left is told, with the reason.
* A Pod that comes again shows the new numbers: what was rewritten is not rewritten again, and what was told stays told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from hostport.contract import Notice, PodWarning
from hostport.contract.limits import LONGEST_WARNING, Bound
from shim.annotations import ALLOCATED, INJECT_ENV, NETWORK, REWRITE, REWRITTEN
from shim.outcomes import AddOp, Op, clipped
from shim.pods import Container, NewPod
from shim.ports import VARIABLE_PREFIX, AssignedPort, pointer_to, variable_for, variable_names
from shim.texts import (
    ANOTHER_CONTAINER,
    NOWHERE,
    TOKEN,
    Hit,
    OwnHosts,
    Text,
    any_of,
    cut,
    is_unused,
    own_hosts,
    places,
    replaced,
    sets_hostname,
    tokens,
    why_not_ours,
)

PROMETHEUS = "prometheus.io/port"
MOST_HITS = 1024
"""Old numbers in the texts of a Pod that are looked at: each takes microseconds."""

SHORTEST_PLACES = 40
LONGEST_CONTAINER = 30
"""Characters of a container's name where a remedy has to have room behind it."""

_encode = msgspec.json.Encoder().encode

FEW = 8
"""Numbers up to which it is quicker to look for each of them."""

EACH = 8
"""Characters that a text counts for besides its own: there may be many thousand of one."""

_NAMED = re.compile(rf"{VARIABLE_PREFIX}\w*")
_HOSTNAME_VARIABLE = re.compile(r"\$[({]?HOSTNAME\b")
_HOSTNAME_COMMAND = re.compile(r"(?:(?<![\w./=\-\"'])|/bin/|/etc/)hostname(?![\w=:./\-\"'])")


def texts_of(container: Container, published: frozenset[str], some: Collection[str]) -> Iterator[Text]:
    """The texts of a container with any of some words; without the variables that are ours or are published."""
    for command in container.commands:
        for at, word in enumerate(command.words):
            if not any(each in word for each in some):
                continue
            yield Text(command.pointer, f"{command.field}[{at}]", word, command.words, at)
    for at, entry in enumerate(container.env or ()):
        name, value = entry.get("name") or "", entry.get("value")
        if not value or not any(each in value for each in some):
            continue
        if not name.startswith(VARIABLE_PREFIX) and name not in published:
            yield Text(f"{container.pointer}/env/{at}/value", f"env {name}", value)


class Texts:
    """All texts of a Pod. `published`: the variables that `publish` writes, by the place of their container."""

    def __init__(self, pod: NewPod, published: dict[int, frozenset[str]]) -> None:
        self._pod = pod
        self._published = published
        parts: list[str] = []
        for container in pod.containers:
            for command in container.commands:
                parts += command.words
            if container.env:
                parts += [entry["value"] for entry in container.env if entry.get("value")]
        whole = ("\0" * EACH).join(parts)
        self.unread = max(0, len(whole) - Bound.TEXTS.most)
        self._whole = whole[: Bound.TEXTS.most] if self.unread else whole

    def names_any(self, variables: Callable[[], Collection[str]]) -> bool:
        """Whether a text uses one of some variables (asked for if need be), or puts the name of one together."""
        if VARIABLE_PREFIX not in self._whole:
            return False
        known = variables()
        return any(name in known or name.endswith("_") for name in _NAMED.findall(self._whole))

    def has_any(self, numbers: Iterable[int]) -> bool:
        """Whether any of some numbers may stand somewhere. Quick, and never wrong where it says no."""
        some = {str(number) for number in numbers}
        if len(some) <= FEW:
            return any(number in self._whole for number in some)
        return any(match[0] in some for match in TOKEN.finditer(self._whole))

    def hostname_user(self) -> str:
        """The first place that uses the hostname; empty where none does."""
        if "HOSTNAME" not in self._whole and "hostname" not in self._whole:
            return ""
        for _, container, text in self.with_any(("HOSTNAME", "hostname")):
            is_variable = _HOSTNAME_VARIABLE.search(text.value) and not sets_hostname(container)
            if is_variable or _HOSTNAME_COMMAND.search(text.value):
                return f"{text.field} of container {container.name}"
        return ""

    def published(self, at: int) -> frozenset[str]:
        """The variables that `publish` writes in the container at a place."""
        return self._published.get(at, frozenset())

    def with_numbers(self, numbers: Collection[int]) -> Iterator[tuple[int, Container, Text]]:
        """The texts where any of some numbers may stand, each with its container and the place of that."""
        return self.with_any([str(number) for number in numbers] if len(numbers) <= FEW else ("",))

    def with_any(self, some: Collection[str]) -> Iterator[tuple[int, Container, Text]]:
        """The texts that have any of some words, as far as texts are read."""
        left = Bound.TEXTS.most
        for at, container in enumerate(self._pod.containers):
            for text in texts_of(container, self.published(at), some):
                left -= len(text.value) + EACH
                if left < -EACH:
                    return
                yield at, container, text


class Found(msgspec.Struct, frozen=True):
    """What is changed in the texts, what is told, and the annotation about it (empty: none)."""

    ops: tuple[Op, ...]
    warnings: tuple[PodWarning, ...]
    rewritten: str


def look(
    pod: NewPod,
    assigned: tuple[AssignedPort, ...],
    *,
    rewrites: bool,
    is_own: bool,
    published: Mapping[int, frozenset[str]],
    notes: Collection[str] = (),
    injects: bool = True,
) -> Found:
    """Looks through a Pod on the host's network.

    published: variables that are written, by place of container. notes: annotations that are. injects: whether our
    own variables are.
    """
    texts = Texts(pod, dict(published))
    is_rewritten = is_own and REWRITTEN in pod.annotations
    search = _Search(pod, assigned, is_own=is_own, rewrites=rewrites and not is_rewritten, injects=injects)
    search.look(texts, is_scrape_written=PROMETHEUS in notes)
    told: list[PodWarning] = []
    if not is_own:
        told += [*search.old_number(texts), *_port_moved(pod, assigned, texts, search, published, injects=injects)]
        told += () if pod.host_network else _hostname(texts)
    return Found(ops=tuple(search.ops), warnings=tuple(told), rewritten=search.listed() if rewrites else "")


def _hostname(texts: Texts) -> Iterator[PodWarning]:
    user = texts.hostname_user()
    if user:
        why = "uses the hostname, which with hostNetwork is the node's: read metadata.name by fieldRef"
        yield PodWarning(Notice.HOSTNAME_IS_NODE, f"{user} {why}")


class _Search:
    """The places of old numbers: replaced where that is wanted and can be, else remembered."""

    def __init__(
        self, pod: NewPod, assigned: tuple[AssignedPort, ...], *, is_own: bool, rewrites: bool, injects: bool
    ) -> None:
        settled = {each.number for each in assigned} if is_own else set()
        self._pod = pod
        self._assigned = assigned
        self._injects = injects
        self._rewrites = rewrites
        self._by_number: dict[int, list[AssignedPort]] = {}
        for each in assigned:
            if each.is_moved and each.said not in settled:
                self._by_number.setdefault(each.said, []).append(each)
        self._own: dict[int, OwnHosts] = {}  # by place of container
        self._words: dict[str, list[str]] = {}  # by pointer: what is run, where a word of it changes
        self.ops: list[Op] = []
        self.replaced: list[str] = []
        self.left: list[Hit] = []
        self._hits = 0

    def look(self, texts: Texts, *, is_scrape_written: bool) -> None:
        """Goes through all texts, and the annotation of Prometheus where nobody writes that anyway.

        What it finds is in `ops`, `replaced`, `left`.
        """
        if not self._by_number:
            return
        if texts.has_any(self._by_number):
            for at, container, text in texts.with_numbers(self._by_number):
                if self.is_cut:
                    break
                if at not in self._own:
                    self._own[at] = own_hosts(self._pod, container, texts.published(at))
                self._look_at(at, container.name, text)
            self.ops += [AddOp(pointer, words) for pointer, words in self._words.items()]
        if not is_scrape_written:
            self._look_at_annotation()

    def _look_at(self, at: int, container: str, text: Text) -> None:
        changed = replaced(text.value, partial(self._choose, at, container, text))
        if changed == text.value:
            return
        if text.words:  # an `add` to a list inserts: all of it is set
            self._words.setdefault(text.pointer, list(text.words))[text.at] = changed
        else:
            self.ops.append(AddOp(text.pointer, changed))

    @property
    def is_cut(self) -> bool:
        """Whether there are more old numbers than are looked at."""
        return self._hits > MOST_HITS

    def _choose(self, at: int, container: str, text: Text, match: re.Match[str]) -> int | None:
        """The new number of a token; 0 where it stays; None where enough was looked at."""
        named = self._by_number.get(int(match[0]))
        if not named or is_unused(text.value, match.start(), self._own[at]):
            return 0
        self._hits += 1
        if self.is_cut:
            return None
        mine = next((each for each in named if each.at == at), None)
        why = why_not_ours(text, match.start(), self._own[at])
        if not why and mine is None and self._rewrites:
            why = ANOTHER_CONTAINER
        if mine is None or why or not self._rewrites:
            self.left.append(Hit(at, container, text.field, mine or named[0], why))
            return 0
        self._note(container, text.field, mine)
        return mine.number

    def _look_at_annotation(self) -> None:
        value = self._pod.annotations.get(PROMETHEUS, "")
        if not value:
            return
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
            self.ops.append(AddOp(pointer_to(PROMETHEUS), str(named[0].number)))
            self._note("", PROMETHEUS, named[0])
        else:
            self.left.append(Hit(NOWHERE, "", PROMETHEUS, named[0], ""))

    def _note(self, container: str, field: str, assigned: AssignedPort) -> None:
        where = f"{container} {field}" if container else field
        self.replaced.append(f"{where}: {assigned.said} -> {assigned.number}")

    def listed(self) -> str:
        """The annotation that tells what was rewritten. A Pod that comes again keeps the one that it has."""
        known = self._pod.annotations.get(REWRITTEN)
        if not self._rewrites and known is not None:
            return known
        beyond = [f"what stands behind {MOST_HITS:,} places"] if self.is_cut else []
        lists = {"replaced": cut(self.replaced), "left": beyond + cut([str(hit) for hit in self.left])}
        return _encode(lists).decode()

    def old_number(self, texts: Texts) -> Iterator[PodWarning]:
        """The warning of the old numbers that stay, or may stand in what was not read; none where there are none."""
        unread = f"; {texts.unread:,} characters were not read" if texts.unread else ""
        unread += f"; what stands behind {MOST_HITS:,} places was not looked at" if self.is_cut else ""
        if self.left:
            first = self.left[0].port
            same = [hit for hit in self.left if hit.port.said == first.said]
            others = sorted({hit.port.said for hit in self.left} - {first.said})
            more = f", and {len(others)} more" if others else ""
            head, tail = f"{first.said} (now {first.number}{more}) stands in ", f"{unread}: {self._remedy(same)}"
            room = LONGEST_WARNING - len(f"{Notice.OLD_NUMBER}: {head}{tail}")
            yield PodWarning(Notice.OLD_NUMBER, head + places(same, max(room, SHORTEST_PLACES)) + tail)
        elif unread and self._by_number:
            yield PodWarning(Notice.OLD_NUMBER, f"old numbers may stand in texts{unread}: look yourself")

    def _remedy(self, hits: Sequence[Hit]) -> str:
        """What helps where an old number stands: a variable in a text, `rewrite` in the port's own container."""
        text = next((hit for hit in hits if hit.container), None)
        variables = [f"$({variable_for(text.port, text.at, self._assigned)})"] if text and self._injects else []
        if self._rewrites:
            return "; use ".join([f"left as {REWRITTEN} says", *variables])
        is_ours = any(hit.at in {hit.port.at, NOWHERE} for hit in hits)
        return f"use {any_of([*variables, *([REWRITE] if is_ours else []), f'{NETWORK}: Pod'])}"


def called(each: AssignedPort) -> str:
    """A port as people know it."""
    is_long = len(each.container) > LONGEST_CONTAINER
    container = clipped(each.container, LONGEST_CONTAINER) if is_long else each.container
    return f"port {each.name or each.old} of container {container}"


def _port_moved(
    pod: NewPod,
    assigned: tuple[AssignedPort, ...],
    texts: Texts,
    search: _Search,
    published: Mapping[int, frozenset[str]],
    *,
    injects: bool,
) -> Iterator[PodWarning]:
    moved = [each for each in assigned if each.is_moved]
    is_told = search.replaced or published or (injects and texts.names_any(partial(variable_names, assigned)))
    if not moved or is_told or _reads_annotations(pod):
        return
    first = moved[0]
    why = f"nothing names {variable_for(first, first.at, assigned)}"
    if not injects:
        why = f"{INJECT_ENV} keeps it from being told"
    message = f"{called(first)} moved from {first.said} to {first.number}; {why}"
    yield PodWarning(Notice.PORT_MOVED, f"{message}: listen on it, or set {NETWORK}: Pod")


def _reads_annotations(pod: NewPod) -> bool:
    """Whether the Pod reads what was allocated by the downward API."""
    for container in pod.containers:
        for entry in container.env or ():
            source = entry.get("valueFrom")
            if source and ALLOCATED in ((source.get("fieldRef") or {}).get("fieldPath") or ""):
                return True
    volumes = pod.spec.get("volumes")
    return bool(volumes) and b"metadata.annotations" in _encode(volumes)
