"""WatchAllocations and ExplainPort over a real socket: a snapshot, then every change; who holds a port, since when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from test_service import lease, two_ports

from allocator import slices, watchers
from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange, ObservedPod, PodUid
from allocator.service import _send
from allocator.slices import TimeSlice
from allocator.watchers import Watcher, Watchers
from hostport.v1 import allocator_pb2 as pb
from testing.kit import Desk, claim_port, node, on
from testing.kit import lease as lease_of
from testing.servicekit import Running, Start

W = pb.WatchAllocationsResponse


async def events(watch: object, count: int) -> list[tuple[str, str, str]]:
    """(type, owner, state) of the next events."""
    read = getattr(watch, "read")  # noqa: B009 - a stream of the stubs has no type of its own
    found = []
    for _ in range(count):
        event: W = await read()
        state = pb.State.Name(event.allocation.state).removeprefix("STATE_")
        found.append((W.Type.Name(event.type).removeprefix("TYPE_"), event.allocation.owner.name, state))
    return found


async def test_a_watch_begins_with_a_snapshot_and_goes_on_with_every_change(service: Running) -> None:
    await service.stub.Allocate(two_ports("db-0"))
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest(namespace="demo"))
    assert await events(watch, 2) == [("SNAPSHOT", "db-0", "RESERVED"), ("SYNCED", "", "UNSPECIFIED")]

    await service.stub.Allocate(lease("r1"))  # of another namespace
    claim = (await service.stub.Allocate(two_ports("db-1"))).allocation
    await service.stub.Release(pb.ReleaseRequest(id=claim.id))

    assert await events(watch, 2) == [("CHANGED", "db-1", "RESERVED"), ("RELEASED", "db-1", "RELEASED")]


async def test_nobody_pays_for_a_watch_that_has_ended(service: Running) -> None:
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest())
    await events(watch, 1)
    assert service.engine.ledger.listener is not None
    watch.cancel()
    await service.stub.Allocate(two_ports())  # the server has seen the cancellation by then
    await service.stub.Allocate(lease("r1"))

    assert service.engine.ledger.listener is None


async def test_a_renewed_lease_is_a_change(service: Running) -> None:
    claim = (await service.stub.Allocate(lease("r1"))).allocation
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest(node="localhost"))
    await events(watch, 2)
    await service.stub.Renew(pb.RenewRequest(id=claim.id))

    event: Any = await watch.read()
    assert (event.type, event.allocation.expire_time.seconds) == (W.TYPE_CHANGED, 1000 + 3600)


@pytest.fixture
async def bound(start: Start) -> Running:
    """n1 with a lease, and with an outsider that was bound to it 60 s later."""
    service = await start(rules=LedgerRules())
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")], lists_pods=True))
    await service.stub.Allocate(lease("r1"))
    service.now += 60
    pod = ObservedPod(
        uid=PodUid("u1"), namespace="kube-system", name="dns", node=on("n1").node_name,
        ports=(claim_port("d:53/UDP=7000"), claim_port("t:53=7000")),
    )  # fmt: skip
    service.engine.maintenance.observe(ClusterChange(pods=[pod], lists_pods=True))
    return service


async def test_explain_tells_every_holder_of_a_port_and_since_when(bound: Running) -> None:
    udp = await bound.stub.ExplainPort(pb.ExplainPortRequest(node="n1", protocol=pb.PROTOCOL_UDP, host_port=7000))
    tcp = await bound.stub.ExplainPort(pb.ExplainPortRequest(node="n1", host_port=7000))
    free = await bound.stub.ExplainPort(pb.ExplainPortRequest(node="n1", host_port=7001))

    assert [(h.allocation.owner.name, h.since.seconds) for h in udp.holders] == [("r1", 1000), ("dns", 1060)]
    assert [(h.allocation.owner.name, h.allocation.external) for h in tcp.holders] == [("dns", True)]
    assert list(free.holders) == []


# -- many at a time


def told(messages: list[W]) -> list[tuple[str, str]]:
    """(type, owner) of the events of some messages."""
    events = [event for message in messages for event in (message, *message.further)]
    return [(W.Type.Name(event.type).removeprefix("TYPE_"), event.allocation.owner.name) for event in events]


async def test_a_watcher_that_says_so_gets_several_events_in_a_message(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "perf_counter", lambda: 0.0)  # a machine that is busy would cut the message in two
    for number in range(5):
        await service.stub.Allocate(lease(f"r{number}"))
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest(batches=True))

    snapshot, synced = [cast("W", await watch.read()) for _ in range(2)]

    assert told([snapshot]) == [("SNAPSHOT", f"r{number}") for number in range(5)]
    assert told([synced]) == [("SYNCED", "")]


@pytest.fixture
def desk() -> Desk:
    return Desk("n1")


def unread(watcher: Watcher) -> list[tuple[str, bool]]:
    return [(change.claim.owner.name, change.is_end) for change in watcher._taken()]


def through(watcher: Watcher) -> list[str]:
    found = []
    while (claims := watcher.snapshot()) is not None:
        found += [claim.owner.name for claim in claims]
    return found


def test_of_several_changes_of_a_claim_that_were_not_read_the_last_is_told(desk: Desk) -> None:
    with Watchers(desk.ledger).watch(lambda _: True) as watcher:
        through(watcher)
        first, second = desk.grant(lease_of("r1", "a:1")), desk.grant(lease_of("r2", "a:1"))
        desk.ledger.replace(desk.ledger.claims.renewed(first.id, 60, desk.now))
        desk.ledger.end(second.id, desk.now)

        assert unread(watcher) == [("r1", False), ("r2", True)]


def test_what_changes_before_a_snapshot_comes_to_it_is_seen_there_and_is_no_change(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "AT_ONCE", 1)
    first, second, third = (desk.grant(lease_of(f"r{number}", "a:1")) for number in (1, 2, 3))
    with Watchers(desk.ledger).watch(lambda _: True) as watcher:
        watcher.snapshot()
        desk.ledger.end(second.id, desk.now)
        desk.ledger.replace(desk.ledger.claims.renewed(third.id, 60, desk.now))
        desk.ledger.replace(desk.ledger.claims.renewed(first.id, 60, desk.now))
        desk.grant(lease_of("r4", "a:1"))

        assert (through(watcher), unread(watcher)) == (["r3", "r4"], [("r1", False)])


def test_a_watcher_that_reads_nothing_is_let_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "MOST_UNREAD", 2)
    with Watchers(desk.ledger).watch(lambda _: True) as watcher:
        through(watcher)
        for number in range(3):
            desk.grant(lease_of(f"r{number}", "a:1"))

        assert (watcher.is_behind, unread(watcher)) == (True, [])


async def test_others_are_served_between_the_messages_of_a_watcher_that_takes_one_event_in_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, served = [0.0], [0]
    monkeypatch.setattr(slices, "perf_counter", lambda: clock[0])

    class Connection:
        async def write(self, _: object) -> None:
            """Takes a millisecond, and never waits."""
            clock[0] += 0.001

    async def others() -> None:
        while True:
            served[0] += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    pace = TimeSlice(asyncio.Lock())
    await _send(cast("Any", Connection()), [W()] * 100, pace, is_batched=False)
    beside.cancel()
    assert served[0] >= 100 * 0.001 / slices.SLICE_SECONDS / 2
