"""What sock_diag tells of sockets: requests and replies as bytes (linux/inet_diag.h, linux/netlink.h). Pure.

Rules:

* A socket counts that takes what is sent to its number: a TCP or SCTP socket that listens, and a UDP socket that is not
  connected. The kernel leaves the others out, so that connections cost nothing.
* A connection is asked for only to learn whether it has one of some numbers that the node's programs are to be given.
* A socket on `::` counts as one on every address, as it does for Kubernetes, and an IPv4 address in IPv6 form as IPv4.
* Of a number, a protocol and an address one socket is told, whatever how many share it (SO_REUSEPORT): the one with
  the lowest inode, as a rule the oldest, so that it stays the same while others come and go.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

AF_INET, AF_INET6 = 2, 10
TCP, UDP, SCTP = 6, 17, 132
LISTEN, CLOSE = 10, 7
"""States of the kernel (net/tcp_states.h). A UDP socket that is not connected is in CLOSE."""

STATES = {TCP: 1 << LISTEN, UDP: 1 << CLOSE, SCTP: 1 << LISTEN}
"""Those of the sockets that count, as a set."""

CONNECTED = {TCP: 0xFFF & ~(1 << LISTEN | 1 << CLOSE | 1), UDP: 1 << 1}
"""Those of connections: established, on their way to it, or not yet forgotten."""

SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_A_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
WAS_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states; any socket
_MESSAGE = struct.Struct("=BBBB2s2x16s16x4x8x12xII")  # struct inet_diag_msg up to uid and inode
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_CONDITION = struct.Struct("=BBHBBH")  # code, bytes to what comes next where it holds, where not; the number to compare
_JUMP = struct.Struct("=BBH")
# INET_DIAG_REQ_BYTECODE; INET_DIAG_BC_JMP, _S_GE and _S_LE
_BYTECODE, _GO_ON, _AT_LEAST, _AT_MOST = 1, 1, 2, 3


Run = tuple[int, int]
"""The first and the last of consecutive numbers."""


class SocketKey(NamedTuple):
    """What a socket holds. protocol: TCP, UDP or SCTP. address: empty for every address."""

    protocol: int
    port: int
    address: str


class OpenSocket(NamedTuple):
    """Who holds it: the user, and the inode of the socket. others: inodes of further UDP sockets that share it."""

    uid: int
    inode: int
    others: frozenset[int] = frozenset()

    def shared(self, other: OpenSocket) -> OpenSocket:
        """The one of two that is told, which knows of the other one."""
        old, new = (self, other) if self.inode <= other.inode else (other, self)
        return OpenSocket(old.uid, old.inode, (old.others | new.others | {new.inode}) - {old.inode})


class DumpError(OSError):
    """The kernel refused a request; `errno` says why."""


class InterruptedDumpError(Exception):
    """Sockets came and went while the kernel told of them, so that some may be missing: ask again."""


def request(family: int, protocol: int, sequence: int) -> bytes:
    """Asks for all sockets of a family and a protocol that count."""
    return _dump(_REQUEST.pack(family, protocol, 0, STATES[protocol]), sequence)


def request_connections(family: int, protocol: int, sequence: int, spans: Sequence[Run]) -> bytes:
    """Asks for the connections whose own number is in one of these spans. The kernel leaves the others out.

    spans: at least one, in order, with a gap between any two.
    """
    code = _program(spans)
    within = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(code), _BYTECODE) + code
    return _dump(_REQUEST.pack(family, protocol, 0, CONNECTED[protocol]) + within, sequence)


def _program(spans: Sequence[Run]) -> bytes:
    """What the kernel runs for each socket: at least the lowest number, at most the highest, and in none of the gaps.

    A jump to 4 bytes beyond the last condition leaves a socket out. Where a condition holds, the kernel only lets
    programs go on to the next one: hence what lies between two spans is passed over by a jump.
    """
    size = _CONDITION.size * 2 * len(spans) + _JUMP.size * (len(spans) - 1)

    def condition(code: int, number: int, done: bytes, otherwise: int | None = None) -> bytes:
        missed = size - len(done) + 4 if otherwise is None else otherwise
        return done + _CONDITION.pack(code, _CONDITION.size, missed, 0, 0, number)

    program = condition(_AT_LEAST, spans[0][0], b"")
    for (_, high), (low, _) in pairwise(spans):
        # At or above the next span: what is below the gap need not be asked.
        program = condition(_AT_LEAST, low, program, _CONDITION.size + _JUMP.size)
        program += _JUMP.pack(_GO_ON, _JUMP.size, _JUMP.size + _CONDITION.size)
        program = condition(_AT_MOST, high, program)
    return condition(_AT_MOST, spans[-1][1], program)


def _dump(body: bytes, sequence: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, REQUEST_A_DUMP, sequence, 0) + body


class Dump:
    """The reply to one request, part by part."""

    def __init__(self, protocol: int, sequence: int, states: int = 0) -> None:
        """states: of the sockets that were asked for, as a set; 0: of those that count."""
        self._protocol = protocol
        self._states = states or STATES[protocol]
        self._sequence = sequence
        self._was_interrupted = False
        self.found: dict[SocketKey, OpenSocket] = {}

    def take(self, part: bytes) -> bool:
        """Takes what was received; gives whether that was the last part.

        Raises:
            DumpError: the kernel does not answer such a request.
            InterruptedDumpError: the answer is not whole.
            ValueError: these bytes are no reply.

        """
        for kind, flags, body in self._messages(part):
            self._was_interrupted |= bool(flags & WAS_INTERRUPTED)
            if kind == NLMSG_ERROR or (kind == NLMSG_DONE and len(body) >= _ERROR.size):
                number = -_ERROR.unpack_from(body)[0]
                if number:
                    raise DumpError(number, "the kernel does not tell of its sockets")
            if kind == NLMSG_DONE:
                if self._was_interrupted:
                    raise InterruptedDumpError
                return True
            if kind == SOCK_DIAG_BY_FAMILY:
                self._note(body)
        return False

    def _messages(self, part: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and body of each message that answers the request."""
        at = 0
        while at + _HEADER.size <= len(part):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(part, at)
            if not _HEADER.size <= length <= len(part) - at:
                raise ValueError(f"a message of {length} bytes in {len(part) - at}")
            if sequence == self._sequence:  # else the rest of a request that was given up
                yield kind, flags, part[at + _HEADER.size : at + length]
            at += (length + 3) & ~3

    def _note(self, body: bytes) -> None:
        family, state, _, _, port, source, uid, inode = _MESSAGE.unpack_from(body)
        number = int.from_bytes(port, "big")
        if not self._states >> state & 1 or not number:  # a socket that is bound to nothing has number 0
            return
        key = SocketKey(self._protocol, number, _source_address(family, source))
        known = self.found.get(key)
        if known is None:
            self.found[key] = OpenSocket(uid, inode)
        elif self._protocol == UDP and state == CLOSE:
            self.found[key] = known.shared(OpenSocket(uid, inode))
        elif inode < known.inode:
            self.found[key] = OpenSocket(uid, inode)


@lru_cache(maxsize=1024)
def _source_address(family: int, source: bytes) -> str:
    """An address as text; empty for every address."""
    if family == AF_INET:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(source[:4])
    else:
        sixth = ipaddress.IPv6Address(source)
        address = sixth.ipv4_mapped or sixth
    return "" if address.is_unspecified else str(address)
