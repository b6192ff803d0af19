"""The numbers in a Pod's own texts: args, commands, variables, exec probes and hooks. Pure.

Rules:

* Only whole tokens count: `8080` in `:8080`, `--port=8080`, `-p8080` and `${PORT:-8080}`, not in `18080`, `8080m`,
  `v1.8080`, `8080-8090`.
* One of a pair (`8080:8080`) and a part of an address (`fd00::8080`) may mean anything: they are told, too.
* A number behind a host that is not the Pod's own is somebody else's address (`peer-1:2380`), and a number in a path
  is a name (`/data/8080`): they are told, and never rewritten. The shell's `/dev/tcp/127.0.0.1/8080` is an address.
* All texts of a Pod are looked through at once, before any of them is looked at: nearly always there is nothing.
* The default of a variable that the container has is used by nobody (`${HOSTPORT_HTTP:-8080}`).
* Where numbers were left is listed as far as there is room, and how many places there are besides.
* Each character is read a few times at most; more than `Bound.TEXTS` of them are not read, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from hostport.contract.limits import LONGEST_NAME
from shim.outcomes import clipped
from shim.pods import Container, NewPod
from shim.ports import VARIABLE_PREFIX, AssignedPort

_NUMBER = r"[1-9][0-9]{0,4}"
_GLUED = r"(?<=(?<!\S)-[pP])"
"""Behind the one option that everybody knows to be a port."""
_DEFAULT = r"(?<=\w:-)"
TOKEN = re.compile(rf"(?:(?<![\w.\-+@#])|{_GLUED}){_NUMBER}(?![\w\-%]|\.\w)|{_DEFAULT}{_NUMBER}(?=\}})")
_PAIRED = re.compile(r"[0-9]+:[0-9:]")
_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._*$(){}")
_VARIABLE = re.compile(r"\$[({]?(\w+)(?::?-([^)}]*))?[)}]?(?:\..*)?")
_OWN_COMMAND = re.compile(r"\$\((?:/bin/)?hostname(?: [^)]*)?\)(?:\..*)?")
_DEVICE = re.compile(r"/dev/(?:tcp|udp)/([^/\s]*)/$")
_OPENING = {")": "$(", "}": "${"}

_NEXT_PROGRAM = re.compile(r"[;&|\n]")
_PORT_OPTION = re.compile(r"(?:^|[\s'\"])(?:-p|-P|--port|port)(?:[=\s]['\"]?)?$")
_HOST_OPTION = re.compile(r"(?:^|[\s'\"])(?:-h|--host|host)[=\s]['\"]?([^\s'\",/]+)(?![^\s'\",])")
_GLUED_HOST = re.compile(r"(?:^|\s)-h([^\s=\-'\",/][^\s'\",/]*)")
_LAST_WORD = re.compile(r"(?<!\S)([A-Za-z0-9$][\w.\-$(){}]*)\s+['\"]?$")
_RUN = "(?:py|js|mjs|ts|rb|pl|php|sh|jar|war|bin|exe)"
_REMOTE = re.compile(rf"(?=.*[a-z]).*-\d+|\d+\.\d+\.\d+\.\d+|.*\.(?!{_RUN}$)[a-z][\w\-]*")
"""What can only be a host: a replica, an address, a name with a domain; no file that is run."""

CLIENTS = frozenset({"nc", "ncat", "netcat", "telnet", "replicaof", "slaveof", "--replicaof", "--slaveof", "monitor"})
"""Behind these stands a host and its number."""

LOOK_BACK = 8
"""Words before a number that may say whose it is."""

OWN_HOSTS = frozenset({
    "", "*", "localhost", "0.0.0.0", "::", "::1",  # noqa: S104 - what texts say, nothing is bound here
    "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "sctp", "http", "https", "grpc", "port", "listen", "tcp-listen",
    "udp-listen", "tcp4-listen", "tcp6-listen", "udp4-listen", "udp6-listen", "openssl-listen",
})  # fmt: skip
"""What stands before a number of the Pod's own: nothing, an address of its own, or what kind of number it is."""

OWN_VARIABLES = frozenset({
    "HOSTPORT_HOST_IP", "HOSTPORT_EXTERNAL_IP", "HOSTPORT_EXTERNAL_IP_V4", "HOSTPORT_EXTERNAL_IP_V6",
    "POD_IP", "MY_POD_IP", "POD_NAME", "MY_POD_NAME", "HOST_IP", "NODE_IP", "NODE_NAME", "HOSTNAME",
})  # fmt: skip

OWN_FIELDS = frozenset({
    "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs", "metadata.name", "spec.nodeName",
})  # fmt: skip
"""Fields of a Pod that are a host of its own, whatever the variable is called that has one."""

_ANY_ADDRESS = frozenset({"*", "0.0.0.0", "::", "[::]"})  # noqa: S104 - as above
"""What nobody dials: a variable with such a default is where the program listens."""

ANOTHER_HOST, A_PATH, ANOTHER_CONTAINER = "of another host", "part of a path", "of another container's port"
A_PAIR = "one of a pair, or part of an address"


LONGEST_LIST, LONGEST_ENTRY = 2000, 200
"""Characters of what was replaced, and of what was left, in the annotation; and of one entry."""

NOWHERE = -1
"""The place of a container where there is none: an annotation."""


class OwnHosts(msgspec.Struct, frozen=True, gc=False):
    """What a container calls its own Pod: the name of the Pod, and variables that are fields of it.

    `sets`: all variables that it has, so that their defaults are nothing.
    """

    name: str
    variables: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()


class Text(msgspec.Struct, frozen=True, gc=False):
    """One text of a container: how people call the place, and where it stands: among words, those and its place."""

    pointer: str
    field: str
    value: str
    words: tuple[str, ...] = ()
    at: int = 0


def tokens(text: str) -> Iterator[re.Match[str]]:
    """The numbers of a text that stand alone."""
    return TOKEN.finditer(text)


def is_unused(value: str, at: int, own: OwnHosts) -> bool:
    """Whether a number at a place of a text is the default of a variable that the container has."""
    start = value.rfind("${", max(0, at - LONGEST_NAME), at) + 2 if value.endswith(":-", 0, at) else 0
    name = value[start : at - 2]
    return start > 1 and (name in own.sets or name.startswith(VARIABLE_PREFIX))


def why_not_ours(text: Text, at: int, own: OwnHosts) -> str:
    """Why a number at a place of a text is no number of the Pod's own; empty where it is one."""
    value = text.value
    if value.endswith(":-", 0, at):  # the default of a variable stands where the variable does
        at = max(value.rfind("${", max(0, at - LONGEST_NAME), at), 0)
    before = value[at - 1] if at else ""
    if before == "/":
        return _why_not_behind_a_slash(value, at, own)
    if _PAIRED.match(value, at) or value.endswith("::", 0, at):
        return A_PAIR
    host = _host_before(value, at - 1) if before == ":" else _host_among(_said_before(text, at), own)
    return "" if _is_own(host, own) else ANOTHER_HOST


def _why_not_behind_a_slash(value: str, at: int, own: OwnHosts) -> str:
    if value.endswith(("tcp/", "udp/", "sctp/"), max(0, at - 5), at):
        return ""
    device = _DEVICE.search(value, max(0, at - LONGEST_NAME), at)
    if device is None:
        return A_PATH
    return "" if _is_own(device[1], own) else ANOTHER_HOST


def replaced(text: str, choose: Callable[[re.Match[str]], int | None]) -> str:
    """The text with other numbers. `choose` gives 0 for what stays, and None where it looks no further."""
    parts: list[str] = []
    end = 0
    for match in TOKEN.finditer(text):
        number = choose(match)
        if number is None:
            break
        if number:
            parts += (text[end : match.start()], str(number))
            end = match.end()
    return "".join(parts) + text[end:] if parts else text


def _said_before(text: Text, at: int) -> str:
    """What stands before a number in the same run of a program, in its own text and in the words before it."""
    words = " ".join(text.words[max(0, text.at - LOOK_BACK) : text.at])[-LONGEST_NAME:]
    return _NEXT_PROGRAM.split(f"{words} {text.value[max(0, at - LONGEST_NAME) : at]}")[-1]


def _host_among(before: str, own: OwnHosts) -> str:
    """The host that a number belongs to: `-h db -p `, `nc -z db `; empty where none is named."""
    if _PORT_OPTION.search(before):
        named = _HOST_OPTION.findall(before)
        is_client = _is_client(before) or "host=" in before
        named += _GLUED_HOST.findall(before) if is_client else []
        return named[-1] if named and (is_client or _REMOTE.fullmatch(named[-1])) else ""
    last = _LAST_WORD.search(before)
    if not last or _is_own(last[1], own):
        return ""
    clients = CLIENTS.intersection(before[: last.start()].split())
    is_host = clients or (_REMOTE.fullmatch(last[1]) and not before[: last.start()].endswith("-m "))
    return last[1] if is_host else ""


def _is_client(command: str) -> bool:
    """Whether a program dials: the options of others may mean anything (`httpd -h /srv -p 80`)."""
    words = command.split()
    program = words[0].rpartition("/")[2] if words else ""
    return program.endswith("-cli") or program.startswith(("pg_", "mysql", "mariadb")) or program in {"psql", "mongosh"}


def _host_before(text: str, colon: int) -> str:
    """What stands before a colon, as far as it can be a host."""
    lowest = max(0, colon - LONGEST_NAME)
    if colon and text[colon - 1] == "]":
        start = text.rfind("[", lowest, colon)
        return text[start + 1 : colon - 1] if start >= 0 else "?"
    start, opening = colon, dict(_OPENING)
    while start > lowest and text[start - 1] in _HOST_CHARACTERS:
        last = text[start - 1]
        opened = text.rfind(opening[last], lowest, start) if last in opening else -1
        if opened < 0:
            opening.pop(last, None)  # what is not there is not looked for again
        start = opened if opened >= 0 else start - 1
    return text[start:colon]


def _is_own(host: str, own: OwnHosts) -> bool:
    if host.lower() in OWN_HOSTS or host.startswith("127.") or _OWN_COMMAND.fullmatch(host):
        return True
    variable = _VARIABLE.fullmatch(host)
    if variable:
        return variable[1] in OWN_VARIABLES or variable[1] in own.variables or variable[2] in _ANY_ADDRESS
    return bool(own.name) and (host == own.name or host.startswith(f"{own.name}."))


def sets_hostname(container: Container) -> bool:
    """Whether a container gives the variable HOSTNAME another value than the runtime does."""
    return any(entry.get("name") == "HOSTNAME" for entry in container.env or ())


def own_hosts(pod: NewPod, container: Container, published: Collection[str]) -> OwnHosts:
    """What a container calls its own Pod. `published`: variables that it gets besides those that it has."""
    fields = {
        entry.get("name") or "": ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        for entry in container.env or ()
    }
    own = frozenset(name for name, path in fields.items() if path in OWN_FIELDS)
    return OwnHosts(pod.name, own, frozenset([*fields, *published]))


class Hit(msgspec.Struct, frozen=True, gc=False):
    """An old number where nobody replaces it: place and name of a container, `NOWHERE` and empty for an annotation."""

    at: int
    container: str
    field: str
    port: AssignedPort
    why: str

    def __str__(self) -> str:
        where = f"{self.container} {self.field}" if self.container else self.field
        return f"{where}: {self.port.said}" + (f", {self.why}" if self.why else "")


def any_of(remedies: Sequence[str]) -> str:
    """Some remedies, one at least, as a sentence has them."""
    return " or ".join(filter(None, [", ".join(remedies[:-1]), remedies[-1]]))


def places(hits: Sequence[Hit], room: int) -> str:
    """Where a number stands, by container; cut off where there is no room, and that is said."""
    by_container: dict[str, dict[str, None]] = {}
    for hit in hits:
        by_container.setdefault(hit.container, {})[hit.field] = None
    parts = [f"{name} {', '.join(fields)}" if name else ", ".join(fields) for name, fields in by_container.items()]
    whole = "; ".join(parts)
    count = f" ({len(hits)} places)"
    return whole if len(whole) <= room else clipped(whole, room - len(count)) + count


def cut(entries: list[str]) -> list[str]:
    """The first entries of a list, as long as there is room; and how many there are besides."""
    kept: list[str] = []
    room = LONGEST_LIST
    for entry in entries:
        room -= min(len(entry), LONGEST_ENTRY)
        if room < 0:
            return [*kept, f"and {len(entries) - len(kept)} more"]
        kept.append(clipped(entry, LONGEST_ENTRY))
    return kept
