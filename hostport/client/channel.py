"""What a channel to the allocator is made of, for both kinds of client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from hostport.credentials import Credentials
from hostport.files import FileWatch
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub
from hostport.version import program_version


class Channel(Protocol):
    """What both kinds of channel have."""

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call of the service."""


C = TypeVar("C", bound=Channel)


def options(server_name: str, program: str) -> tuple[tuple[str, Any], ...]:
    """A restarted allocator is found within a second, and one whose machine died is missed within fifteen."""
    named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    return (
        ("grpc.primary_user_agent", f"{program}/{program_version()}"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        *named,
    )


class Link(Generic[C]):
    """A channel, and a new one when its files have changed. `connect` makes it, `part` lets the old one go."""

    def __init__(self, credentials: Credentials, connect: Callable[[], C], part: Callable[[C], None]) -> None:
        self._watch = FileWatch(credentials.files)
        self._connect = connect
        self._part = part
        self.channel = connect()
        self._stub: Any = AllocatorServiceStub(self.channel)  # type: ignore[call-overload] # either kind

    def stub(self) -> Any:
        """Raises OSError when new files do not fit; then the channel stays, and the next call looks again."""
        if self._watch.changed():
            try:
                fresh = self._connect()
            except OSError:
                self._watch.forget()
                raise
            old, self.channel = self.channel, fresh
            self._stub = AllocatorServiceStub(fresh)  # type: ignore[call-overload] # as above
            self._part(old)
        return self._stub
