"""One stream to the allocator that serves: reports go out, wishes come in.

Rules:

* Reports go to an allocator whose health says that it serves. Others of the same name stand by, or start: where none
  serves, their health is watched on one connection each, since a thousand handshakes cost one that starts a second.
* A stream that ends is begun anew after a pause that grows, and differs from agent to agent: those of a cluster meet
  an allocator that starts all at once. The pause is short where the allocator was away, so that it knows of all nodes
  soon, and long where it refuses what the agent says.
* A new stream has a new connection, and begins with a snapshot. The CA and the token are read for it.
* No connection goes through a proxy: the allocator is in the cluster, and one that the environment names for other
  programs would be asked for an address that it cannot reach.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from agent.http2 import Call, CallEnd, Fields, Http2Link, LinkError, connect
from agent.report import Reporter
from hostport.contract.limits import HIGHEST_PORT
from hostport.contract.status import read_status
from hostport.contract.words import Code
from hostport.files import read_all
from hostport.flags import Address
from hostport.v1 import allocator_pb2 as pb
from hostport.version import VERSION
from hostport.x509 import certificates

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 4.0
"""With chance a pause takes six seconds at most: an allocator that is back knows of all nodes within ten."""

LONGEST_REFUSED_PAUSE = 60.0
UNIMPLEMENTED = 12
REFUSALS = {
    Code.INVALID_ARGUMENT.value,
    Code.PERMISSION_DENIED.value,
    Code.RESOURCE_EXHAUSTED.value,
    Code.UNAUTHENTICATED.value,
    UNIMPLEMENTED,
}
"""What an agent says is not wanted, and will not be the next time, unless somebody changes something."""

STEADY_SECONDS = 5.0
"""A stream that lasted as long was in order: the next pause is a short one again."""

CHECK_SECONDS = 5.0
"""How long an allocator may take to say whether it serves."""

STANDBY_SECONDS = 60.0
"""How long those that do not serve are waited for, until their names are looked up anew."""

STEP_SECONDS = 1.0
SPREAD_SECONDS = 4.0
"""In which the agents begin that have waited for one allocator."""

SERVICE = "hostport.v1.AllocatorService"
HEALTH_REQUEST = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode("ascii")
"""grpc.health.v1.HealthCheckRequest of our service: so short that no generated code is carried along for it."""

SERVING = b"\x08\x01"
"""The grpc.health.v1.HealthCheckResponse of one that serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the allocator is, and by what it is known.

    target: every address of it may be one of an allocator. name: what its certificate is for. ca: None: plain text.
    """

    target: Address
    name: Address
    ca: Path | None = None
    also: tuple[Path, ...] = ()
    token_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """TLS 1.3 with whoever the CA has signed. Raises OSError, ValueError where it cannot be read."""
        if self.ca is None:
            return None
        trusted = "".join(certificates(read_all(self.ca, self.also).decode("ascii", "replace")))
        if not trusted:
            raise ValueError(f"{self.ca} holds no certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be a root, as for gRPC
        context.load_verify_locations(cadata=trusted)
        context.set_alpn_protocols(["h2"])
        return context

    def fields(self) -> Fields:
        """What a call says of its caller. Raises OSError, ValueError where the token cannot be read."""
        fields = [("user-agent", f"hostport-agent/{VERSION}")]
        if self.token_file:
            fields.append(("authorization", f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"))
        return fields


class Pauses:
    """How long to wait before the next stream, in seconds."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """chance: a number from 0 to 1, another one each time."""
        self._chance = chance
        self._next = FIRST_PAUSE

    def after(self, lasted: float, *, is_refused: bool = False) -> float:
        """The pause after a stream that lasted so many seconds. is_refused: whether it ended with a refusal."""
        if lasted >= STEADY_SECONDS:
            self._next = FIRST_PAUSE
        pause = min(self._next, LONGEST_REFUSED_PAUSE if is_refused else LONGEST_PAUSE)
        self._next = pause * 2
        return pause * (0.5 + self._chance())


class StreamEnd(NamedTuple):
    """Why a stream ended, in words, and whether with a refusal."""

    why: str
    is_refused: bool = False


class StreamError(Exception):
    """There is no stream, or no longer."""

    def __init__(self, end: StreamEnd) -> None:
        super().__init__(end.why)
        self.end = end


@contextlib.contextmanager
def opened(
    endpoint: Endpoint, is_ending: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Call, Http2Link]]:
    """A ReportNode call to an allocator that serves, and the connection that it is on. is_ending: gives up soon.

    Raises:
        StreamError: there is none to be had.

    """
    tried: list[Http2Link] = []
    try:
        try:
            link = _serving(endpoint, tried, is_ending, clock)
            call = link.call(f"/{SERVICE}/ReportNode", str(endpoint.name), endpoint.fields())
        except LinkError as error:
            raise StreamError(StreamEnd(f"UNAVAILABLE: {error}")) from error
        except (OSError, ValueError) as error:
            raise StreamError(StreamEnd(f"{type(error).__name__}: {error}")) from error
        tried.remove(link)
        while tried:  # those that stand by
            tried.pop().close()
        tried.append(link)
        yield call, link
    finally:
        for each in tried:
            each.close()


def _serving(
    endpoint: Endpoint, tried: list[Http2Link], is_ending: Callable[[], bool], clock: Callable[[], float]
) -> Http2Link:
    """A connection to the allocator that serves. Raises LinkError where there is none, OSError and ValueError.

    tried: gets every connection that was made, for the caller to close.
    """
    tls, why = endpoint.tls(), ""
    silent: list[tuple[Http2Link, Call]] = []
    for address in _addresses(endpoint.target):
        try:
            link = Http2Link(connect(address, tls, endpoint.name.host), clock)
            tried.append(link)
            health = link.call("/grpc.health.v1.Health/Watch", str(endpoint.name), ())
            health.send(HEALTH_REQUEST, is_last=True)
            if _says_that_it_serves(link, health, clock):
                return link
            silent.append((link, health))
        except LinkError as error:
            why = why or str(error)
    if not silent:
        raise LinkError(why)
    return _first_to_serve(silent, is_ending, clock)


def _says_that_it_serves(link: Http2Link, health: Call, clock: Callable[[], float]) -> bool:
    """Whether the allocator at the other end serves. Raises LinkError where it does not say."""
    until = clock() + CHECK_SECONDS
    while not (said := _said(health)):
        left = until - clock()
        if left <= 0:
            raise LinkError("it does not say whether it serves")
        link.receive(left)
    return said[-1] == SERVING


def _said(health: Call) -> list[bytes]:
    """What has come of a watch since. Raises LinkError where it has ended."""
    said = health.messages()
    if not said and health.end is not None:
        raise LinkError(f"it does not say whether it serves: {health.end.message}")
    return said


def _first_to_serve(
    silent: list[tuple[Http2Link, Call]], is_ending: Callable[[], bool], clock: Callable[[], float]
) -> Http2Link:
    """That of several connections whose allocator serves first: one that starts is not connected to again and again."""
    until = clock() + STANDBY_SECONDS
    while silent and clock() < until and not is_ending():
        for one in tuple(silent):
            link, health = one
            try:
                link.receive(STEP_SECONDS / len(silent))
                if (said := _said(health)) and said[-1] == SERVING:
                    _rest(link, SPREAD_SECONDS * random.random(), clock)  # noqa: S311 - no secret
                    return link
            except LinkError:
                silent.remove(one)
    raise LinkError("no allocator that answers serves")


def _rest(link: Http2Link, seconds: float, clock: Callable[[], float]) -> None:
    """So many seconds, in which the connection lives on. Raises LinkError."""
    until = clock() + seconds
    while (left := until - clock()) > 0:
        link.receive(left)


def _addresses(target: Address) -> list[tuple[str, int]]:
    """Those that a name has by now, in any order. Raises StreamError."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StreamError(StreamEnd(f"UNAVAILABLE: {target.host} has no address: {error}")) from error
    addresses = list(dict.fromkeys((str(each[4][0]), target.port) for each in found))
    random.shuffle(addresses)
    return addresses


class KeptNumbers(NamedTuple):
    """The numbers that are given on the node, and those that may be given there next."""

    given: frozenset[int] = frozenset()
    upcoming: frozenset[int] = frozenset()


class Wishes:
    """What the allocator wants: to be told at once, and numbers to be kept."""

    def __init__(self) -> None:
        self.is_asked = False
        self.wanted: KeptNumbers | None = None  # None: nothing was told yet

    def hear(self, message: pb.ReportNodeResponse) -> bool:
        """Takes a message of the allocator; gives whether it wants something."""
        self.is_asked |= message.report_now
        if message.has_given:
            self.wanted = KeptNumbers(_numbers(message.given), _numbers(message.upcoming))
        return message.report_now or message.has_given


def _numbers(ranges: Iterable[pb.PortRange]) -> frozenset[int]:
    return frozenset(number for each in ranges for number in range(each.min, min(each.max, HIGHEST_PORT) + 1))


class Stream:
    """One ReportNode call."""

    def __init__(self, call: Call, link: Http2Link, reporter: Reporter, wishes: Wishes) -> None:
        self.reporter = reporter
        self._call = call
        self._link = link
        self._wishes = wishes

    @property
    def has_room(self) -> bool:
        """Whether the allocator has read all that it was told."""
        return self._call.has_room

    def send(self, message: pb.ReportNodeRequest) -> None:
        """Tells something. Raises StreamError."""
        with self._ending():
            self._call.send(message.SerializeToString())

    def wait(self, seconds: float) -> bool:
        """Until something comes, or so many seconds; gives whether something is wanted. Raises StreamError."""
        with self._ending():
            self._link.receive(seconds)
        is_wanted = False
        for message in self._call.messages():
            is_wanted |= self._hear(message)
        if self._call.end is not None:
            raise StreamError(end_of(self._call.end))
        return is_wanted

    def _hear(self, message: bytes) -> bool:
        try:
            return self._wishes.hear(pb.ReportNodeResponse.FromString(message))
        except DecodeError as error:
            raise StreamError(StreamEnd("the allocator sends what is no message")) from error

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """A call that has ended tells better why than the connection that ended with it."""
        try:
            yield
        except LinkError as error:
            end = end_of(self._call.end) if self._call.end else StreamEnd(f"UNAVAILABLE: {error}")
            raise StreamError(end) from error


def end_of(end: CallEnd) -> StreamEnd:
    """What it means for the agent: the reason of our contract, or the code of gRPC, and the sentence."""
    if end.code == 0:
        return StreamEnd("the allocator ended it")
    try:
        told = read_status(status_pb2.Status.FromString(end.details))
    except DecodeError:
        told = None
    return StreamEnd(f"{told.reason if told else _code_name(end.code)}: {end.message}", end.code in REFUSALS)


def _code_name(number: int) -> str:
    if number == UNIMPLEMENTED:  # an allocator that is older than agents
        return "UNIMPLEMENTED"
    try:
        return Code(number).name
    except ValueError:
        return f"gRPC code {number}"
