"""How the allocator is reached, for both kinds of client: address, channel, and the attempts of one call. No waiting.

Rules:

* A call is repeated while there is no answer, until its timeout. A call that was answered is never repeated here.
* Until the allocator has answered once, a call takes no longer than connecting may: a wrong address is told soon.
* A channel is made anew when a file of its credentials has changed, the authorities' as well.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc

from hostport.channels import channel_options
from hostport.client.errors import UnavailableError, error_of
from hostport.client.renewal import ATTEMPT_SECONDS, elapsed, pause
from hostport.client.slips import check_seconds, check_text
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT
from hostport.credentials import Credentials
from hostport.files import FileWatch
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub

TIMEOUT, CONNECT_TIMEOUT = 30.0, 5.0
"""Seconds that a call may take with its repetitions; and while the allocator has not answered yet."""

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


class Channel(Protocol):
    """What both kinds of channel have."""

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call of the service."""


C = TypeVar("C", bound=Channel)


def check_address(address: str) -> str:
    """The address itself.

    Raises:
        ValueError: it is neither host:port nor a target of gRPC's.

    """
    check_text("address", address)
    if address.startswith(_SCHEMES):
        return address
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or not LOWEST_PORT <= int(found[2]) <= HIGHEST_PORT:
        hint = ", without http://" if "://" in address else ""
        raise ValueError(f"address {address!r} is not host:port, such as 127.0.0.1:50051{hint}")
    return address


def options(server_name: str, program: str) -> tuple[tuple[str, Any], ...]:
    """A restarted allocator is found within a second, and one whose machine died is missed within fifteen."""
    named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    return (
        *channel_options(program, ping=10, patience=5),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        *named,
    )


class Link(Generic[C]):
    """A channel, and a new one when its files have changed. `connect` makes it, `part` lets the old one go."""

    def __init__(
        self,
        credentials: Credentials,
        connect: Callable[[], C],
        part: Callable[[C], None],
        *,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        """Raises ValueError when a timeout is no time."""
        check_seconds("timeout", timeout)
        check_seconds("connect_timeout", connect_timeout)
        self._watch = FileWatch(credentials.files)
        self._connect = connect
        self._part = part
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.is_known = False  # whether the allocator has answered once
        self.channel = connect()
        self._stub: Any = AllocatorServiceStub(self.channel)  # type: ignore[call-overload] # either kind

    def stub(self) -> Any:
        """Raises OSError when new files do not fit; then the channel stays, and the next call looks again."""
        if self._watch.changed():  # whatever changed, the authorities too: a new channel for every call from now on
            try:
                fresh = self._connect()
            except OSError:
                self._watch.forget()
                raise
            old, self.channel = self.channel, fresh
            self._stub = AllocatorServiceStub(fresh)  # type: ignore[call-overload] # as above
            self._part(old)
        return self._stub

    def attempts(self, timeout: float | None) -> Attempts:
        """Those of one call, which takes `timeout` seconds at most; None: as long as any call."""
        limit = self._timeout if timeout is None else timeout
        # Nobody has answered yet: it may be a wrong address, which is to be told soon.
        return Attempts(self, limit, limit if self.is_known else min(limit, self._connect_timeout))


class Attempts:
    """The attempts of one call: how long each may take, and what follows a failure."""

    def __init__(self, link: Link[Any], timeout: float, silence: float) -> None:
        """`timeout`: seconds of the call; `silence`: the same as long as nobody has answered at all."""
        self._link = link
        began = elapsed()
        self._until, self._once_answered = began + silence, began + timeout
        self._failures = 0

    @property
    def timeout(self) -> float:
        """Seconds that the next one may take."""
        return max(0.01, min(ATTEMPT_SECONDS, self._until - elapsed()))

    def succeeded(self) -> None:
        """The allocator answered."""
        self._link.is_known = True

    def failed(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next one.

        Raises:
            HostportError: there is none: the call was answered, or its time is over.

        """
        failure = error_of(error)
        if failure.reason:  # the allocator's own word: it is there, and the call has all of its time
            self._link.is_known = True
            self._until = self._once_answered
        rest = pause(self._failures, random.random())  # noqa: S311 - no secret
        self._failures += 1
        # An answer is never asked for again; and no pause reaches beyond the timeout.
        if not isinstance(failure, UnavailableError) or elapsed() + rest >= self._until:
            raise failure
        return rest
