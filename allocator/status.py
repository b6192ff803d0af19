"""How this allocator is, for people and their tools: what GetStatus answers. Nothing is decided here.

It answers while nothing else does: who asks why an allocator does not serve must be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from allocator.core.claims import State
from allocator.engine import Engine
from allocator.wire import STATES, to_timestamp
from hostport.v1 import allocator_pb2 as pb
from hostport.version import program_version

MOST_CALLERS = 64
LONGEST_AGENT = 256
LIVE_STATES = (State.RESERVED, State.CONFIRMED, State.BOUND, State.LEASED)


class Call(Protocol):
    """What we need of gRPC's context of a call."""

    def peer(self) -> str:
        """Such as `ipv4:10.0.0.7:51234`."""

    def invocation_metadata(self) -> Any:
        """Pairs of key and value."""


class Leadership(Protocol):
    """The Lease by which one allocator serves."""

    @property
    def place(self) -> tuple[str, str]:
        """Its namespace and name."""

    @property
    def identity(self) -> str:
        """What we write into it as its holder."""

    def is_valid(self) -> bool:
        """Whether it is ours, so that we may answer."""


@dataclass(slots=True)
class _Caller:
    agent: str
    at: float


class Callers:
    """Who called lately, by what they say of themselves. What a connection says is read once."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_peer: dict[str, _Caller] = {}

    def note(self, call: Call) -> None:
        peer = call.peer()
        known = self._by_peer.get(peer)
        if known is not None:
            known.at = self._now()
            return
        if len(self._by_peer) >= MOST_CALLERS:
            del self._by_peer[min(self._by_peer, key=lambda each: self._by_peer[each].at)]
        agent = next((str(value) for key, value in call.invocation_metadata() or () if key == "user-agent"), "")
        self._by_peer[peer] = _Caller(agent[:LONGEST_AGENT], self._now())

    def recent(self) -> list[pb.GetStatusResponse.Caller]:
        """Newest first; the connections of one program at one address are one caller."""
        newest: dict[tuple[str, str], float] = {}
        for peer, caller in self._by_peer.items():
            key = (caller.agent, _address(peer))
            newest[key] = max(caller.at, newest.get(key, 0.0))
        return [_told(*key, at) for key, at in sorted(newest.items(), key=lambda each: -each[1])]


def _told(agent: str, address: str, at: float) -> pb.GetStatusResponse.Caller:
    program, _, version = agent.split(" ", 1)[0].partition("/")
    return pb.GetStatusResponse.Caller(
        program=program[:64], version=version[:64], address=address, call_time=to_timestamp(at)
    )


def _address(peer: str) -> str:
    """`ipv4:10.0.0.7:51234` → `10.0.0.7`; gRPC escapes the brackets of IPv6."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


class Status:
    """See the module. `waiting_for` tells what a start waits for; empty: for nothing."""

    def __init__(
        self,
        engine: Engine,
        *,
        cluster: str,
        journal: str,
        certificates: Mapping[str, Callable[[], float]],
        trusted: Callable[[], Mapping[str, float]] = dict,
        leadership: Leadership | None = None,
    ) -> None:
        self.callers = Callers(engine.wall)
        self.waiting_for: Callable[[], str] = str
        self._engine = engine
        self._cluster = cluster
        self._journal = journal
        self._certificates = certificates
        self._trusted = trusted
        self._leadership = leadership
        self._started = engine.wall()

    def response(self) -> pb.GetStatusResponse:
        engine, tally = self._engine, self._engine.ledger.tally()
        is_serving = engine.is_serving and engine.holds_lease()
        return pb.GetStatusResponse(
            version=program_version(),
            start_time=to_timestamp(self._started),
            current_time=to_timestamp(engine.wall()),
            cluster=self._cluster,
            serving=is_serving,
            waiting_for="" if is_serving else self._obstacle(),
            journal=pb.GetStatusResponse.Journal(
                kind=self._journal, set_aside=", ".join(engine.journal.set_aside), unsaved_count=engine.unsaved
            ),
            watch=self._watch(),
            lease=self._lease(),
            claims=[
                pb.GetStatusResponse.StateCount(state=STATES[state], count=tally.states.get(state, 0))
                for state in LIVE_STATES
            ],
            unplaceable_count=tally.unplaceable,
            outsider_count=tally.outsiders,
            node_count=tally.known_nodes,
            certificates=[
                pb.GetStatusResponse.Certificate(name=name, expire_time=to_timestamp(expires()))
                for name, expires in sorted(self._certificates.items())
            ],
            authorities=[
                pb.GetStatusResponse.Certificate(name=name, expire_time=to_timestamp(end))
                for name, end in self._trusted().items()
            ],
            callers=self.callers.recent(),
            clock_step_count=sum(engine.clock_steps.values()),
        )

    def _obstacle(self) -> str:
        if self._engine.is_serving:
            return "its Lease, which it cannot renew: another allocator may take over"
        if other := self._engine.who_serves():
            return f"its turn: it stands by, and {other} serves"
        return self.waiting_for()

    def _watch(self) -> pb.GetStatusResponse.Watch | None:
        watch = self._engine.watch
        if watch is None:
            return None
        told, lag = pb.GetStatusResponse.Watch(relist_count=watch.relists()), watch.lag()
        if lag < math.inf:
            told.proof_time.CopyFrom(to_timestamp(self._engine.wall() - lag))
            told.lag.CopyFrom(Duration(seconds=int(lag), nanos=int(lag % 1 * 1e9)))
        return told

    def _lease(self) -> pb.GetStatusResponse.Lease | None:
        if self._leadership is None:
            return None
        namespace, name = self._leadership.place
        return pb.GetStatusResponse.Lease(
            namespace=namespace,
            name=name,
            identity=self._leadership.identity,
            held=self._leadership.is_valid(),
            served_by=self._engine.who_serves(),
        )
