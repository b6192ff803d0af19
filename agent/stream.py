"""One connection to the allocator and one stream on it: reports go out, wishes come in.

Rules:

* Calls go to an allocator whose health says that it serves. Others of the same name stand by.
* A stream that ends is begun anew after a pause that grows, and differs from agent to agent: those of a cluster meet
  an allocator that starts all at once. The pause is short where the allocator was away, so that it knows of all nodes
  soon, and long where it refuses what the agent says.
* A new stream begins with a snapshot. The token is read for each stream, the CA where it changed.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import grpc

from agent.report import Reporter
from hostport.channels import channel_options
from hostport.contract.status import read_status, status_of
from hostport.credentials import NO_CREDENTIALS, Credentials
from hostport.files import FileWatch
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 4.0
RECONNECT_MS = 3_000
"""With chance in both a pause takes six seconds at most, and gRPC tries to connect every 3.6. One comes after the
other: an allocator that is back knows of all nodes within ten."""

LONGEST_REFUSED_PAUSE = 60.0
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What an agent says is not wanted, and will not be the next time, unless somebody changes something."""

STEADY_SECONDS = 5.0
"""A stream that lasted as long was in order: the next pause is a short one again."""

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "hostport.v1.AllocatorService"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the allocator is. target: of gRPC. authority: the name that its certificate has; empty: the target's."""

    target: str
    authority: str = ""
    credentials: Credentials = NO_CREDENTIALS


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


class Connection:
    """A channel, which is made anew when the files that it is made of have changed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._watch = FileWatch(endpoint.credentials.files)
        self._channel: grpc.Channel | None = None

    def stub(self) -> AllocatorServiceStub:
        """For one stream. Raises OSError where a file cannot be read."""
        if self._channel is None or self._watch.changed():
            self.close()
            self._channel = self._connect(self._endpoint.credentials.load())
        return AllocatorServiceStub(self._channel)

    def close(self) -> None:
        """Ends the streams that are open on it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        options = [
            *channel_options("hostport-agent", ping=20, patience=10),
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
        ]
        if self._endpoint.authority:
            options.append(("grpc.default_authority", self._endpoint.authority))
        if credentials is None:
            return grpc.insecure_channel(self._endpoint.target, options=options)
        return grpc.secure_channel(self._endpoint.target, credentials, options=options)


class KeptNumbers(NamedTuple):
    """The numbers that are given on the node, and those that may be given there next."""

    given: frozenset[int] = frozenset()
    upcoming: frozenset[int] = frozenset()


class Wishes:
    """What the allocator wants, as a thread of gRPC hears it: to be told at once, and numbers to be kept."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._is_asked = False
        self._wanted: KeptNumbers | None = None

    def hear(self, message: pb.ReportNodeResponse) -> None:
        """Takes a message of the allocator."""
        with self._lock:
            self._is_asked |= message.report_now
            if message.has_given:
                self._wanted = KeptNumbers(_numbers(message.given), _numbers(message.upcoming))
        self.wake()

    def wake(self) -> None:
        """Ends a wait."""
        self._wake.set()

    def wait(self, seconds: float) -> bool:
        """Until something is wanted, or so many seconds; gives whether it is."""
        is_awake = self._wake.wait(seconds)
        self._wake.clear()
        return is_awake

    def taken(self) -> tuple[bool, KeptNumbers | None]:
        """Whether a report is wanted, and the numbers to be kept; None: nothing new. Both are told once."""
        with self._lock:
            told = self._is_asked, self._wanted
            self._is_asked, self._wanted = False, None
            return told


def _numbers(ranges: Iterable[pb.PortRange]) -> frozenset[int]:
    return frozenset(number for each in ranges for number in range(each.min, each.max + 1))


class StreamEnd(NamedTuple):
    """Why a stream ended, in words, and whether with a refusal."""

    why: str
    is_refused: bool = False


class Stream:
    """One ReportNode call."""

    def __init__(self, stub: AllocatorServiceStub, reporter: Reporter, wishes: Wishes) -> None:
        self.reporter = reporter
        self._wishes = wishes
        self._requests: queue.SimpleQueue[pb.ReportNodeRequest | None] = queue.SimpleQueue()
        self._ended: StreamEnd | None = None
        self._call = stub.ReportNode(self._outgoing())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: pb.ReportNodeRequest) -> None:
        """Tells something."""
        self._requests.put(message)

    @property
    def ended(self) -> StreamEnd | None:
        """Why it has ended; None while it goes on."""
        return self._ended

    def close(self) -> None:
        """Ends it."""
        self._requests.put(None)
        self._call.cancel()
        self._reader.join()

    def _outgoing(self) -> Iterator[pb.ReportNodeRequest]:
        while (message := self._requests.get()) is not None:
            yield message

    def _read(self) -> None:
        end = StreamEnd("the allocator ended it")
        try:
            for message in self._call:
                self._wishes.hear(message)
        except grpc.RpcError as error:
            end = StreamEnd(words_of(error), is_refused=error.code() in REFUSALS)
        self._ended = end
        self._requests.put(None)
        self._wishes.wake()


def words_of(error: grpc.RpcError) -> str:
    """What went wrong: the reason of our contract, or the code of gRPC, and the sentence."""
    told = read_status(status_of(error))
    code: grpc.StatusCode = error.code()
    return f"{told.reason if told else code.name}: {error.details()}"


def log_end(why: str, pause: float) -> None:
    """One line for a stream that ended."""
    log_event(log, "not connected", level=logging.WARNING, why=why, next_in=round(pause, 1))
