"""The numbers in a Pod's own texts: args, commands, variables, exec probes and hooks. Pure.

Rules:

* Only whole tokens count: `8080` in `:8080`, `--port=8080`, `-p8080` and `${PORT:-8080}`, not in `18080`, `8080m`,
  `v1.8080`, `8080-8090`.
* One of a pair (`8080:8080`) and a part of an address (`fd00::8080`) may mean anything: they are told, too.
* A number behind a host that is not the Pod's own is somebody else's address (`peer-1:2380`), and a number in a path
  is a name (`/data/8080`): they are told, and never rewritten. The shell's `/dev/tcp/127.0.0.1/8080` is an address.
* All texts of a Pod are looked through at once, before any of them is looked at: nearly always there is nothing.
* Each character is read a few times at most; more than `Bound.TEXTS` of them are not read, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from hostport.contract.limits import LONGEST_NAME, Bound
from shim.pods import Container, NewPod
from shim.ports import VARIABLE_PREFIX

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


FEW = 8
"""Numbers up to which it is quicker to look for each of them."""

EACH = 8
"""Characters that a text counts for besides its own: there may be many thousand of one."""

_NAMED = re.compile(rf"{VARIABLE_PREFIX}\w*")
_HOSTNAME_VARIABLE = re.compile(r"\$[({]?HOSTNAME\b")
_HOSTNAME_COMMAND = re.compile(r"(?:(?<![\w./=\-\"'])|/bin/|/etc/)hostname(?![\w=:./\-\"'])")


class OwnHosts(msgspec.Struct, frozen=True, gc=False):
    """What a container calls its own Pod: the name of the Pod, and variables that are fields of it."""

    name: str
    variables: frozenset[str] = frozenset()


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
            is_variable = _HOSTNAME_VARIABLE.search(text.value) and not _sets_hostname(container)
            if is_variable or _HOSTNAME_COMMAND.search(text.value):
                return f"{text.field} of container {container.name}"
        return ""

    def with_numbers(self, numbers: Collection[int]) -> Iterator[tuple[int, Container, Text]]:
        """The texts where any of some numbers may stand, each with its container and the place of that."""
        return self.with_any([str(number) for number in numbers] if len(numbers) <= FEW else ("",))

    def with_any(self, some: Collection[str]) -> Iterator[tuple[int, Container, Text]]:
        """The texts that have any of some words, as far as texts are read."""
        left = Bound.TEXTS.most
        for at, container in enumerate(self._pod.containers):
            for text in texts_of(container, self._published.get(at, frozenset()), some):
                left -= len(text.value) + EACH
                if left < -EACH:
                    return
                yield at, container, text


def _sets_hostname(container: Container) -> bool:
    """Whether a container gives the variable HOSTNAME another value than the runtime does."""
    return any(entry.get("name") == "HOSTNAME" for entry in container.env or ())


def own_hosts(pod: NewPod, container: Container) -> OwnHosts:
    """What a container calls its own Pod."""
    fields = {
        entry.get("name") or "": ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        for entry in container.env or ()
    }
    return OwnHosts(pod.name, frozenset(name for name, path in fields.items() if path in OWN_FIELDS))
