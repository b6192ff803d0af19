"""Agents keep numbers out of outgoing connections before those are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from allocator import agents, upcoming
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange
from allocator.core.ports import format_numbers, span
from allocator.core.sockets import NodeFacts, SocketChange
from allocator.upcoming import (
    AHEAD,
    ENOUGH,
    MORE_AT_ONCE,
    MOST_RANGES,
    MOST_UPCOMING,
    MOST_WAITED,
    MOVED_SECONDS,
    Upcoming,
)
from hostport.v1 import allocator_pb2 as pb
from testing.kit import Desk, ask
from testing.servicekit import Running

USUAL = (32768, 60999)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(agents, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(upcoming, "WAIT_SECONDS", 30.0)  # an agent answers before, however slow the machine is


@dataclass
class Seconds:
    now: float = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """The one of `Upcoming`, which stands until a test moves it."""
    clock = Seconds()
    monkeypatch.setattr(Upcoming, "now", staticmethod(lambda: clock.now))
    return clock


def reporting(*, reserves: bool = True, kept: int = 0, ephemeral: tuple[int, int] = USUAL) -> Desk:
    """A node whose agent has said so."""
    desk = Desk("n1")
    facts = NodeFacts(ephemeral, kept, reserves)
    desk.observe(reports=[SocketChange(node=NodeName("n1"), facts=facts)])
    return desk


def ahead_of(desk: Desk) -> Upcoming:
    return Upcoming(desk.ledger.nodes, lambda _: True)


RANGES = {
    "the lowest of a range": ([(45000, 50000)], 0, "45000-45511"),
    "of a small range all": ([(45000, 45049)], 0, "45000-45049"),
    "what no connection takes is left out": ([(30000, 33000)], 0, "32768-33000"),
    "a range that no connection takes has none": ([(20000, 30000)], 0, ""),
    "as many more as are given": ([(45000, 50000)], span(45000, 45099) | span(7000, 7099), "45000-45639"),
    "ranges that overlap count once": ([(45000, 50000), (45001, 50000)], 0, "45000-45512"),
    "no range at all": ([(50000, 45000)], 0, ""),
}


@pytest.mark.parametrize(("asked", "given", "expected"), RANGES.values(), ids=RANGES)
def test_numbers_that_may_be_given_next(asked: list[tuple[int, int]], given: int, expected: str) -> None:
    ahead = ahead_of(reporting())
    for low, high in asked:
        wait = ahead.ask(ask("a", "x:1", low=low, high=high))
        asyncio.run(close(wait))
    ahead.note_given(given)

    assert format_numbers(ahead.numbers()).replace(" ", "") == expected


async def test_agents_are_not_told_of_every_number_that_is_given() -> None:
    ahead = ahead_of(reporting())
    await close(ahead.ask(ask("a", "x:1", low=45000, high=50000)))
    told = set()
    for number in range(45000, 45000 + 2 * MORE_AT_ONCE):
        ahead.note_given(1 << number)
        told.add(ahead.numbers())

    assert {numbers.bit_count() for numbers in told} == {AHEAD + MORE_AT_ONCE, AHEAD + 2 * MORE_AT_ONCE}


async def close(wait: object) -> None:
    """Lets go of what is not waited for."""
    if asyncio.iscoroutine(wait):
        wait.close()


async def test_whatever_is_asked_a_bounded_number_is_kept_of_the_ranges_asked_for_last(clock: Seconds) -> None:
    ahead = ahead_of(reporting())
    for low in range(33000, 60000, 300):
        clock.now += MOVED_SECONDS
        await close(ahead.ask(ask("a", "x:1", low=low, high=low + 299)))

    numbers = ahead.numbers()
    assert numbers.bit_count() == MOST_UPCOMING
    assert numbers >> 59999 & 1
    assert not numbers >> 33000 & 1


async def test_more_ranges_than_can_be_kept_take_the_place_of_others_once_a_minute(clock: Seconds) -> None:
    ahead = ahead_of(reporting())
    lows = range(33000, 53000, 2000)
    told = []
    for low in [*lows, *lows, *lows]:
        clock.now += 1
        await close(ahead.ask(ask("a", "x:1", low=low, high=low + 999)))
        told.append(ahead.numbers())
    assert set(told[len(lows) :]) == {told[len(lows) - 1]}
    assert not told[-1] >> lows[0] & 1

    clock.now += MOVED_SECONDS
    await close(ahead.ask(ask("a", "x:1", low=lows[0], high=lows[0] + 999)))
    assert ahead.numbers() >> lows[0] & 1


@pytest.mark.parametrize("count", [MOST_RANGES, MOST_RANGES + 1, MOST_RANGES + 8])
async def test_ranges_that_are_asked_for_in_turn_are_told_once_and_waited_for_once(
    count: int, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcoming, "WAIT_SECONDS", 0.5)
    ahead = ahead_of(reporting())
    ranges = [(33000 + 600 * at, 33599 + 600 * at) for at in range(count)]

    async def round_of() -> tuple[int, int]:
        """How many waited, and how many sets there were."""
        waited, sets = 0, set()
        for low, high in ranges:
            clock.now += 0.1
            wait = ahead.ask(ask("a", "x:1", low=low, high=high))
            waited += wait is not None
            await close(wait)
            sets.add(ahead.numbers())
        return waited, len(sets)

    first, *later = [await round_of() for _ in range(4)]
    assert first[0] <= MOST_RANGES + 1
    assert later[0][0] <= 1, "one takes the place of another"
    assert later[1:] == [(0, 1), (0, 1)]


async def test_few_ranges_are_waited_for_at_a_time() -> None:
    ahead = ahead_of(reporting())
    waits = [ahead.ask(ask("a", "x:1", low=33000 + at, high=33999 + at)) for at in range(MOST_WAITED + 3)]

    assert [wait is not None for wait in waits] == [True] * MOST_WAITED + [False] * 3
    for wait in waits:
        await close(wait)


def test_a_node_that_is_gone_or_reserves_no_more_leaves_nothing_to_keep() -> None:
    desk = Desk("n1", "n2", "n3")
    sockets = desk.ledger.nodes.sockets
    for name, ephemeral in (("n1", (40000, 40009)), ("n2", (40000, 40009)), ("n3", (50000, 50009))):
        desk.observe(reports=[SocketChange(node=NodeName(name), facts=NodeFacts(ephemeral, 0, reserves=True))])
    assert sockets.reserving() == span(40000, 40009) | span(50000, 50009)

    desk.observe(gone_nodes=[NodeName("n1"), NodeName("n3")])
    assert sockets.reserving() == span(40000, 40009)
    desk.observe(reports=[SocketChange(node=NodeName("n2"), facts=NodeFacts((40000, 40009)))])
    assert sockets.reserving() == 0


UNHEARD = {
    "no agent reserves": (reporting(reserves=False), ask("a", "x:1", low=45000, high=45999)),
    "no agent reports": (Desk("n1"), ask("a", "x:1", low=45000, high=45999)),
    "a fixed number": (reporting(), ask("a", "x:1=45000", policy="Static", low=45000, high=45999)),
    "a range that no connection takes": (reporting(), ask("a", "x:1", low=7000, high=7999)),
}


@pytest.mark.parametrize(("desk", "asked"), UNHEARD.values(), ids=UNHEARD)
def test_nobody_waits_where_nothing_is_to_be_kept(desk: Desk, asked: object) -> None:
    assert ahead_of(desk).ask(asked) is None  # type: ignore[arg-type]


HERE = NodeName("localhost")
"""The one node of an allocator without a cluster."""


def request(name: str, low: int = 45000, high: int = 45999) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=name),
        ports=[pb.PortRequest(container="c", name="x", container_port=80, protocol=pb.PROTOCOL_TCP)],
        policy=pb.POLICY_DYNAMIC,
        range=pb.PortRange(min=low, max=high),
    )


@asynccontextmanager
async def reserving(service: Running) -> AsyncIterator[Any]:
    """The stream of an agent with --reserve that has told its first report; what is wanted of it is looked at."""
    looking = asyncio.create_task(service.application.agents.forever())
    stream = service.stub.ReportNode()
    ephemeral = pb.PortRange(min=USUAL[0], max=USUAL[1])
    await stream.write(pb.ReportNodeRequest(node=HERE, snapshot=True, reserves=True, ephemeral_range=ephemeral))
    try:
        yield stream
    finally:
        stream.cancel()
        looking.cancel()


async def told(stream: Any, what: Callable[[pb.ReportNodeResponse], bool]) -> None:
    """Returns when the allocator has told an agent of something."""
    async with asyncio.timeout(30):
        while not what(await stream.read()):
            pass


async def test_the_first_to_ask_for_a_range_gets_a_number_that_no_connection_has_or_gets(service: Running) -> None:
    async with reserving(service) as stream:
        assert await stream.read() == pb.ReportNodeResponse(has_given=True)

        asked = asyncio.ensure_future(service.stub.Allocate(request("a")))
        wanted = pb.PortRange(min=45000, max=45000 + AHEAD - 1)
        assert await stream.read() == pb.ReportNodeResponse(has_given=True, upcoming=[wanted])
        assert not asked.done()
        kept = pb.PortRange(min=45002, max=wanted.max)  # connections have the first two
        await stream.write(pb.ReportNodeRequest(reserved=[kept], reserves=True))

        assert [each.host_port for each in (await asked).allocation.ports] == [45002]
        given = pb.ReportNodeResponse(
            has_given=True,
            given=[pb.PortRange(min=45002, max=45002)],
            upcoming=[pb.PortRange(min=45000, max=wanted.max + MORE_AT_ONCE)],
        )
        await told(stream, lambda message: message == given)


async def test_a_number_that_a_connection_has_is_given_when_that_has_ended(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcoming, "AGAIN_SECONDS", 0.0)
    async with reserving(service) as stream:
        assert await stream.read() == pb.ReportNodeResponse(has_given=True)

        asked = asyncio.ensure_future(service.stub.Allocate(request("a", 45000, 45001)))
        both = pb.PortRange(min=45000, max=45001)
        await told(stream, lambda message: list(message.upcoming) == [both])
        await stream.write(pb.ReportNodeRequest(reserved=[pb.PortRange(min=45001, max=45001)], reserves=True))
        await told(stream, lambda message: message.report_now)
        assert not asked.done()
        await stream.write(pb.ReportNodeRequest(reserved=[both], reserves=True))

        assert [each.host_port for each in (await asked).allocation.ports] == [45000]


async def test_numbers_that_are_given_already_are_not_waited_for(service: Running) -> None:
    """After a restart: the lowest numbers of a range are given, and the agent keeps those."""
    for number in range(600):
        taken = pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", name=f"old-{number}"),
            ports=[pb.PortRequest(container_port=80, host_port=45000 + number, protocol=pb.PROTOCOL_TCP)],
            policy=pb.POLICY_STATIC,
        )
        await service.stub.Allocate(taken)
    async with reserving(service) as stream:
        await told(stream, lambda message: message.has_given)

        async def agent() -> None:
            while True:
                message = cast("pb.ReportNodeResponse", await stream.read())
                if message.has_given:
                    await stream.write(pb.ReportNodeRequest(reserved=message.upcoming, reserves=True))

        answering = asyncio.create_task(agent())
        granted = await service.stub.Allocate(request("a", 45000, 46999))

        (number,) = [each.host_port for each in granted.allocation.ports]
        known = service.engine.ledger.nodes.sockets.of(NodeName(HERE))
        assert number == 45600
        assert known is not None
        assert known.facts.kept >> number & 1
        answering.cancel()


async def test_an_agent_is_told_once_of_what_is_to_be_kept(service: Running) -> None:
    async with reserving(service) as stream:
        assert await stream.read() == pb.ReportNodeResponse(has_given=True)

        await stream.write(pb.ReportNodeRequest(reserved=[pb.PortRange(min=50000, max=50001)], reserves=True))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.2)


@pytest.mark.parametrize(("kept", "behind"), [(0, ["n1"]), (ENOUGH - 1, ["n1"]), (ENOUGH, [])], ids=str)
def test_an_agent_is_behind_until_it_keeps_enough_of_a_range(kept: int, behind: list[str]) -> None:
    sockets = reporting(kept=span(45000, 44999 + kept) if kept else 0).ledger.nodes.sockets
    assert sockets.agents_behind(1, span(45000, 45999), ENOUGH) == behind


async def test_an_agent_that_does_not_answer_is_waited_for_once(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcoming, "WAIT_SECONDS", 0.05)
    facts = NodeFacts(USUAL, 0, reserves=True)
    service.engine.maintenance.observe(ClusterChange(reports=[SocketChange(node=HERE, facts=facts)]))
    service.application.agents.upcoming.note_given(0)
    first = await service.stub.Allocate(request("a"))
    waits_again = service.application.agents.upcoming.ask(ask("b", "x:1", low=45000, high=45999))
    second = await service.stub.Allocate(request("b"))

    assert [each.allocation.ports[0].host_port for each in (first, second)] == [45000, 45001]
    assert waits_again is None
