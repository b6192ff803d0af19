"""One stream to the allocator that serves: reports go out, wishes come in.

Rules:

* Reports go to an allocator that serves (`agent.search`).
* A stream that ends is begun anew after a pause that grows, and differs from agent to agent: those of a cluster meet
  an allocator that starts all at once. The pause is short where the allocator was away, so that it knows of all nodes
  soon, and long where it refuses what the agent says.
* A new stream has a new connection, and begins with a snapshot. The CA and the token are read for it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from agent.http2 import Call, CallEnd, Http2Link, LinkError
from agent.report import Reporter
from agent.search import SERVICE, Endpoint, Search
from hostport.contract.limits import HIGHEST_PORT
from hostport.contract.status import read_status
from hostport.contract.words import Code
from hostport.v1 import allocator_pb2 as pb

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
    with contextlib.ExitStack() as open_ones:
        try:
            with contextlib.closing(Search(endpoint, clock)) as search:
                link = search.serving(is_ending)
            open_ones.callback(link.close)
            call = link.call(f"/{SERVICE}/ReportNode", str(endpoint.name), endpoint.fields())
        except LinkError as error:
            raise StreamError(StreamEnd(f"UNAVAILABLE: {error}")) from error
        except (OSError, ValueError) as error:
            raise StreamError(StreamEnd(f"{type(error).__name__}: {error}")) from error
        yield call, link


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
            self.wanted = KeptNumbers(_numbers_of_ranges(message.given), _numbers_of_ranges(message.upcoming))
        return message.report_now or message.has_given


def _numbers_of_ranges(ranges: Iterable[pb.PortRange]) -> frozenset[int]:
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
