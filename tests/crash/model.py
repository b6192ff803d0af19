"""What the clients were told, and whether what they see agrees with it.

The model believes only answers. A request without an answer may have been decided or not, so it is `OPEN`; what is
listed and belongs to an open request is allowed, never required. The rules:

* nothing acknowledged is lost: what was granted and never asked to be released is listed, with the same ports;
* what was acknowledged as released is gone, and stays gone;
* a request_id has one answer, byte by byte, however often it is asked and whatever died in between;
* no port has two holders: neither in one listing, nor in time between acknowledgement and release;
* whatever else is listed belongs to a request that got no answer: a leak, which is counted.

A lease with a short time to live holds until the end that was acknowledged, and may be gone afterwards.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from hostport.v1 import allocator_pb2 as pb

Port = tuple[int, int]
"""Protocol and number."""


class Outcome(Enum):
    """What a client knows of its Allocate request."""

    OPEN = "no answer"
    GRANTED = "granted"
    DENIED = "denied"


class Hold(Enum):
    """What a client knows of an allocation that it was granted."""

    HELD = "held"
    RELEASING = "release sent"
    RELEASED = "release acknowledged"


@dataclass(slots=True)
class Ask:
    """An Allocate request with everything that came of it. Its owner's name is unique: that is how it is recognised."""

    request: pb.AllocateRequest
    outcome: Outcome = Outcome.OPEN
    sent: int = 0
    answer: bytes = b""
    answered_at: float = 0.0

    @property
    def name(self) -> str:
        return self.request.owner.name

    @property
    def may_leak(self) -> bool:
        """Without a request_id a retry is a new request, and an unanswered one is nobody's."""
        return not self.request.request_id and self.sent > 1


@dataclass(slots=True)
class Grant:
    """An allocation that was acknowledged."""

    id: str
    ask: Ask
    ports: tuple[Port, ...]
    expires: float | None
    hold: Hold = Hold.HELD
    released_at: float = 0.0

    def is_held(self, at: float) -> bool:
        """Whether it certainly stands: acknowledged, not asked to go, not at its end."""
        return self.hold is Hold.HELD and (self.expires is None or at < self.expires)


@dataclass(slots=True)
class Counts:
    """What the table at the end shows."""

    kills: int = 0
    requests: int = 0
    retries: int = 0
    repeats: int = 0
    acknowledged: int = 0
    streamed: int = 0
    denied: int = 0
    released: int = 0
    renewed: int = 0
    recovered: int = 0
    leaked: int = 0
    listings: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # of the environment, at a start


@dataclass(slots=True)
class Violation:
    """A broken promise, with the ports that it is about."""

    text: str
    ports: tuple[Port, ...] = ()


@dataclass(slots=True)
class Model:
    """See the module."""

    counts: Counts = field(default_factory=Counts)
    violations: list[Violation] = field(default_factory=list)
    asks: dict[str, Ask] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    history: list[tuple[float, str, tuple[Port, ...]]] = field(default_factory=list)
    _killed_at: float = 0.0
    _holders: dict[Port, str] = field(default_factory=dict)

    # -- what the clients report

    def note(self, text: str, ports: tuple[Port, ...] = ()) -> None:
        """Something for the history; without ports it concerns every port."""
        self.history.append((time.time(), text, ports))

    def killed(self, when: str) -> None:
        self.counts.kills += 1
        self._killed_at = time.time()
        self.note(f"kill {self.counts.kills}, {when}")

    def opened(self, request: pb.AllocateRequest) -> Ask:
        ask = self.asks[request.owner.name] = Ask(request)
        return ask

    def granted(self, ask: Ask, response: pb.AllocateResponse) -> Grant | None:
        """An answer: the first one, or a repetition that must equal it."""
        answer = response.SerializeToString(deterministic=True)
        if ask.outcome is Outcome.GRANTED:
            if answer != ask.answer:
                self._repeated_otherwise(ask, response)
            return None
        allocation = response.allocation
        grant = Grant(allocation.id, ask, ports_of(allocation), expiry_of(allocation))
        self.note(f"granted {grant.id} to {ask.name} ({ask.sent} sent)", grant.ports)
        if grant.id in self.grants:
            self.violate(f"{grant.id} was handed to {self.grants[grant.id].ask.name} and {ask.name}", grant.ports)
        ask.outcome, ask.answer, ask.answered_at = Outcome.GRANTED, answer, time.time()
        self.counts.acknowledged += 1
        self.counts.recovered += created_at(allocation) < self._killed_at
        self.grants[grant.id] = grant
        self._hold(grant)
        return grant

    def denied(self, ask: Ask, code: str) -> None:
        """A refusal. It must not contradict an answer."""
        if ask.outcome is Outcome.GRANTED:
            grants = [g for g in self.grants.values() if g.ask is ask]
            if code == "NOT_FOUND" and not grants[0].is_held(time.time()):
                return  # what has ended is not answered as granted
            self.violate(f"{ask.name} was granted and, repeated, refused with {code}", grants[0].ports)
            return
        ask.outcome = Outcome.DENIED
        self.counts.denied += 1

    def renewed(self, grant: Grant, allocation: pb.Allocation) -> None:
        self.counts.renewed += 1
        if ports_of(allocation) != grant.ports:
            self.violate(f"the renewed {grant.id} has {_text(ports_of(allocation))}", grant.ports)
        grant.expires = expiry_of(allocation)

    def releasing(self, grant: Grant) -> None:
        """From here on it may be gone."""
        if grant.hold is Hold.HELD:
            grant.hold = Hold.RELEASING
            self.note(f"releasing {grant.id}", grant.ports)
            self._let_go(grant)

    def released(self, grant: Grant) -> None:
        if grant.hold is not Hold.RELEASED:
            grant.hold, grant.released_at = Hold.RELEASED, time.time()
            self.counts.released += 1
            self.note(f"released {grant.id}", grant.ports)

    def leak_released(self, allocation: pb.Allocation) -> None:
        """A leak that was given back: it must not return either."""
        self.counts.leaked += 1
        ask = self.asks[allocation.owner.name]
        leak = Grant(allocation.id, ask, ports_of(allocation), None, Hold.RELEASED, time.time())
        self.grants[leak.id] = leak
        self.note(f"leak {leak.id} of {ask.name} released", leak.ports)

    # -- what a listing shows

    def standing(self) -> list[Grant]:
        """What certainly stands now. To be taken before a listing is asked for."""
        now = time.time()
        return [grant for grant in self.grants.values() if grant.is_held(now)]

    def check_listing(
        self, listed: Iterable[pb.Allocation], standing: Iterable[Grant], asked_at: float
    ) -> list[pb.Allocation]:
        """Compares a listing, asked for at a time, with what stood before and still stands. Returns the leaks."""
        self.counts.listings += 1
        by_id = {allocation.id: allocation for allocation in listed}
        now = time.time()
        for grant in standing:
            if grant.is_held(now):
                self._check_standing(grant, by_id.get(grant.id))
        self._check_conflicts(by_id.values())
        return [allocation for allocation in by_id.values() if self._is_leak(allocation, asked_at)]

    def _check_standing(self, grant: Grant, allocation: pb.Allocation | None) -> None:
        if allocation is None:
            self.violate(f"{grant.id} of {grant.ask.name} was acknowledged and is lost", grant.ports)
        elif (ports_of(allocation), allocation.owner.name) != (grant.ports, grant.ask.name):
            found = f"{allocation.owner.name} with {_text(ports_of(allocation))}"
            self.violate(f"{grant.id} of {grant.ask.name} is now that of {found}", grant.ports)

    def _check_conflicts(self, listed: Iterable[pb.Allocation]) -> None:
        holders: dict[Port, list[pb.Allocation]] = defaultdict(list)
        for allocation in listed:
            for port in ports_of(allocation):
                holders[port].append(allocation)
        for port, held in holders.items():
            if len({_successor_name(allocation) for allocation in held}) > 1:
                who = " and ".join(f"{a.id} of {a.owner.name}" for a in held)
                self.violate(f"{_text([port])} is held by {who}", (port,))

    def _is_leak(self, allocation: pb.Allocation, asked_at: float) -> bool:
        grant = self.grants.get(allocation.id)
        ports = ports_of(allocation)
        if grant is not None:
            if grant.hold is Hold.RELEASED and grant.released_at < asked_at:
                self.violate(f"{grant.id} of {grant.ask.name} was acknowledged as released and is back", ports)
            return False
        ask = self.asks.get(allocation.owner.name)
        if ask is None:
            self.violate(f"{allocation.id} of {allocation.owner.name}: nobody asked for it", ports)
            return False
        if ask.outcome is Outcome.OPEN:
            return False
        if not ask.may_leak:
            self.violate(f"{allocation.id} of {ask.name}, which was {ask.outcome.value} and holds this too", ports)
        return True

    # -- holding in time

    def _hold(self, grant: Grant) -> None:
        now = time.time()
        for port in grant.ports:
            other = self.grants.get(self._holders.get(port, ""))
            if other is not None and other.is_held(now) and other.ask.name != grant.ask.name:
                who = f"{grant.id} of {grant.ask.name} while {other.id} of {other.ask.name} holds it"
                self.violate(f"{_text([port])} was handed to {who}", (port,))
            self._holders[port] = grant.id

    def _let_go(self, grant: Grant) -> None:
        for port in grant.ports:
            if self._holders.get(port) == grant.id:
                del self._holders[port]

    # -- words

    def _repeated_otherwise(self, ask: Ask, response: pb.AllocateResponse) -> None:
        first = pb.AllocateResponse.FromString(ask.answer).allocation
        again = response.allocation
        text = (
            f"request_id {ask.request.request_id} of {ask.name} was first answered {first.id}"
            f" {_text(ports_of(first))}, then {again.id} {_text(ports_of(again))}"
        )
        self.violate(text, ports_of(first) + ports_of(again))

    def violate(self, text: str, ports: tuple[Port, ...]) -> None:
        self.note(f"VIOLATION: {text}", ports)
        self.violations.append(Violation(text, ports))

    def history_of(self, ports: Iterable[Port], last: int = 60) -> list[str]:
        """What happened to some ports, kills and starts between."""
        wanted = set(ports)
        lines = [
            f"{at % 10000:9.3f}  {text}  {_text(of)}"
            for at, text, of in self.history
            if wanted.intersection(of) or not of
        ]
        return lines[-last:]


def ports_of(allocation: pb.Allocation) -> tuple[Port, ...]:
    """Every number that it holds: of a block all."""
    return tuple((port.protocol, port.host_port + at) for port in allocation.ports for at in range(port.count or 1))


def created_at(allocation: pb.Allocation) -> float:
    return allocation.create_time.seconds + allocation.create_time.nanos / 1e9


def expiry_of(allocation: pb.Allocation) -> float | None:
    if not allocation.HasField("expire_time"):
        return None
    return allocation.expire_time.seconds + allocation.expire_time.nanos / 1e9


def _successor_name(allocation: pb.Allocation) -> str:
    """Pods of one namespace and name may share ports: the one succeeds the other. Nobody else may."""
    owner = allocation.owner
    return f"{owner.namespace}/{owner.name}" if owner.kind == "Pod" else allocation.id


def _text(ports: Iterable[Port]) -> str:
    return " ".join(f"{number}/{pb.Protocol.Name(pb.Protocol.ValueType(protocol))[9:]}" for protocol, number in ports)
