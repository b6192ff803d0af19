"""Asks the kernel for the sockets of the network namespace that this process is in. No privilege is needed.

Rules:

* An answer that the kernel itself calls incomplete is asked for again, a few times; then the last whole view stands.
* A protocol that the kernel does not know (SCTP, IPv6) has no sockets. Of TCP and UDP over IPv4 it has to tell: where
  it does not (no `tcp_diag`, no `udp_diag`), nothing is known of the node.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from agent.sockets import (
    AF_INET,
    AF_INET6,
    CONNECTED,
    SCTP,
    STATES,
    TCP,
    UDP,
    Dump,
    DumpError,
    InterruptedDumpError,
    OpenSocket,
    Run,
    SocketKey,
    request,
    request_connections,
)

NETLINK_SOCK_DIAG = 4
RECEIVE_BYTES = 1 << 16
"""More than a part of a dump has."""

RECEIVE_SECONDS = 5.0
MOST_TRIES = 5
ABSENT = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL})
"""What the kernel says of a protocol or a family that it does not have."""

Ask = Callable[[int, int, int], bytes]
"""Makes the request for a family, a protocol and a sequence number."""


class SocketDiagnosis:
    """One netlink socket, for `with`."""

    def __init__(self) -> None:
        """Opens it. Raises OSError where the system has no sock_diag."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._socket.settimeout(RECEIVE_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def sockets(self) -> dict[SocketKey, OpenSocket]:
        """All sockets that take what is sent to them.

        Raises:
            OSError: the kernel does not tell, or not in time.
            InterruptedDumpError: no answer was whole.

        """
        found: dict[SocketKey, OpenSocket] = {}
        for protocol in (TCP, UDP, SCTP):
            for family in (AF_INET, AF_INET6):
                for key, held in self._whole(request, family, protocol, STATES[protocol]).items():
                    known = found.get(key)
                    found[key] = held if known is None else known.shared(held) if protocol == UDP else known
        return found

    def connections(self, spans: Sequence[Run]) -> set[int]:
        """Those of the numbers in some spans that a TCP or UDP connection of this node has. Raises as `sockets`.

        spans: as of `request_connections`.
        """
        ask = partial(request_connections, spans=spans)
        return {
            key.port
            for protocol, states in CONNECTED.items()
            for family in (AF_INET, AF_INET6)
            for key in self._whole(ask, family, protocol, states)
        }

    def _whole(self, ask: Ask, family: int, protocol: int, states: int) -> dict[SocketKey, OpenSocket]:
        for _ in range(MOST_TRIES):
            try:
                return self._dump(ask, family, protocol, states)
            except InterruptedDumpError:
                continue
            except DumpError as error:
                if error.errno in ABSENT and (family != AF_INET or protocol == SCTP):
                    return {}
                raise
        raise InterruptedDumpError

    def _dump(self, ask: Ask, family: int, protocol: int, states: int) -> dict[SocketKey, OpenSocket]:
        self._sequence += 1
        dump = Dump(protocol, self._sequence, states)
        self._socket.send(ask(family, protocol, self._sequence))
        while not dump.take(self._socket.recv(RECEIVE_BYTES)):
            pass
        return dump.found
