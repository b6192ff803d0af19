"""The client library against a real allocator on a socket, which is killed and started again under it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from crash.server import Server

from hostport.client import (
    AsyncClient,
    Client,
    HostportError,
    InvalidRequestError,
    LeasedPort,
    LeaseLostError,
    NotFoundError,
    Port,
    RefusedError,
    UnavailableError,
)
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as rpc
from testing.servicekit import Running
from testing.waiting import until

MEDIA = Port("media", "UDP")
RANGE = (21000, 21099)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    await made.start()
    await made.serving()
    yield made
    await made.kill()


async def held(server: Server | Running) -> dict[str, pb.Allocation]:
    """What the allocator says is leased, by owner."""
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        stub: Any = rpc.AllocatorServiceStub(channel)
        page = await stub.ListAllocations(pb.ListAllocationsRequest(), wait_for_ready=True, timeout=20)
        return {each.owner.name: each for each in page.allocations}


async def release(server: Server | Running, allocation_id: str) -> None:
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        stub: Any = rpc.AllocatorServiceStub(channel)
        await stub.Release(pb.ReleaseRequest(id=allocation_id), timeout=10)


async def renewed(server: Server | Running, before: pb.Allocation) -> pb.Allocation:
    """The lease once it ends later than before."""
    async with asyncio.timeout(20):
        while (now := (await held(server))["r1"]).expire_time.seconds <= before.expire_time.seconds:
            await asyncio.sleep(0.1)
    return now


# -- with threads


async def test_ports_are_leased_for_the_block_and_free_after_it(service: Running) -> None:
    def use() -> tuple[str, tuple[LeasedPort, ...], int]:
        with (
            Client(str(service.address)) as client,
            client.lease("Relay/r1", MEDIA, Port("ctl"), range=RANGE, description="of the EU lobby") as lease,
        ):
            inside.append(asyncio.run_coroutine_threadsafe(held(service), loop).result(10))
            return lease.node, lease.ports, lease["ctl"]

    inside: list[dict[str, pb.Allocation]] = []
    loop = asyncio.get_running_loop()

    node, ports, ctl = await asyncio.to_thread(use)

    assert ports == (LeasedPort("media", "UDP", 21000), LeasedPort("ctl", "TCP", 21001))
    assert (node, ctl) == ("localhost", 21001)
    assert [(each.owner.kind, each.owner.description) for each in inside[0].values()] == [("Relay", "of the EU lobby")]
    assert await held(service) == {}


async def test_a_lease_is_renewed_by_itself_and_lives_through_a_kill_of_the_allocator(server: Server) -> None:
    with Client(server.address) as client:
        lease = await asyncio.to_thread(client.lease("Relay/r1", MEDIA, ttl=15).acquire)
        first = (await held(server))["r1"]
        await server.kill()
        await server.start()
        await server.serving()

        assert ((await renewed(server, first)).id, lease.lost) == (lease.id, None)
        await asyncio.to_thread(lease.release)
    assert await held(server) == {}


async def test_a_lease_is_asked_for_until_the_allocator_is_back(server: Server) -> None:
    await server.kill()
    with Client(server.address, connect_timeout=30) as client:
        acquiring = asyncio.create_task(asyncio.to_thread(client.lease("Relay/r1", MEDIA).acquire))
        await asyncio.sleep(0.2)  # time for an attempt, which is refused at once
        assert not acquiring.done()
        await server.start()

        lease = await acquiring

        assert set(await held(server)) == {"r1"}
        await asyncio.to_thread(lease.release)


async def test_a_lease_that_somebody_ended_is_told_to_who_listens(service: Running) -> None:
    lost: list[LeaseLostError] = []
    told = threading.Event()

    def on_lost(error: LeaseLostError) -> None:
        lost.append(error)
        told.set()

    with Client(str(service.address)) as client:
        lease = await asyncio.to_thread(client.lease("Relay/r1", MEDIA, ttl=1.5, on_lost=on_lost).acquire)
        await release(service, lease.id)

        assert await asyncio.to_thread(told.wait, 5)
        assert (lost, lost[0].reason) == ([lease.lost], "ALLOCATION_NOT_FOUND")
        with pytest.raises(LeaseLostError, match=f"lease {lease.id} was ended"):
            lease.check()
        await asyncio.to_thread(lease.release)


async def test_a_lease_that_cannot_be_renewed_is_given_up_no_later_than_it_ends(server: Server) -> None:
    told = threading.Event()
    with Client(server.address) as client:
        begin = time.monotonic()
        lease = await asyncio.to_thread(client.lease("Relay/r1", MEDIA, ttl=2, on_lost=lambda _: told.set()).acquire)
        await server.kill()

        assert await asyncio.to_thread(told.wait, 5)
        assert 1.5 < time.monotonic() - begin < 4
        assert "could not be renewed in time: no answer from the allocator" in str(lease.lost)


async def test_the_block_of_a_lost_lease_does_not_end_as_if_nothing_had_been(service: Running) -> None:
    loop = asyncio.get_running_loop()

    def use() -> None:
        with Client(str(service.address)) as client, client.lease("Relay/r1", MEDIA, ttl=1.2) as lease:
            asyncio.run_coroutine_threadsafe(release(service, lease.id), loop).result(10)
            deadline = time.monotonic() + 5
            while lease.lost is None and time.monotonic() < deadline:
                time.sleep(0.01)

    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(use)


async def test_a_lease_that_was_lost_is_had_again_as_if_it_were_new(service: Running) -> None:
    lost: list[LeaseLostError] = []
    with Client(str(service.address)) as client:
        lease = client.lease("Relay/r1", ttl=1.2, on_lost=lost.append)
        first = (await asyncio.to_thread(lease.acquire)).id
        await release(service, first)
        await until(lambda: lost)

        await asyncio.to_thread(lease.acquire)

        assert (lease.lost, lease.id != first, set(await held(service))) == (None, True, {"r1"})
        await asyncio.to_thread(lease.release)
    assert await held(service) == {}


async def test_a_lease_that_is_held_is_not_leased_a_second_time(service: Running) -> None:
    with Client(str(service.address)) as client:
        lease = await asyncio.to_thread(client.lease("Relay/r1").acquire)
        with pytest.raises(RuntimeError, match="is held already: release it"):
            await asyncio.to_thread(lease.acquire)
        await asyncio.to_thread(lease.release)
    assert await held(service) == {}


def test_a_program_that_ends_without_releasing_has_released(tmp_path: Path) -> None:
    program = """
import sys
from hostport.client import Client
lease = Client(sys.argv[1]).lease("Relay/r1").acquire()
print(lease.number)
"""

    async def case() -> tuple[str, dict[str, pb.Allocation]]:
        server = Server(tmp_path)
        await server.start()
        try:
            await server.serving()
            command = [sys.executable, "-c", program, server.address]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
            return done.stdout + done.stderr, await held(server)
        finally:
            await server.kill()

    assert asyncio.run(case()) == ("7000\n", {})


# -- on asyncio


async def test_the_block_of_asyncio_holds_its_ports_and_gives_them_back(service: Running) -> None:
    async with AsyncClient(str(service.address)) as client:
        async with client.lease("Relay/r1", MEDIA, ttl=3) as lease, client.lease("Relay/r2", MEDIA) as other:
            assert (lease.number, other["media"]) == (7000, 7001)
            first = (await held(service))["r1"]
            service.now += 2
            assert (await renewed(service, first)).expire_time.seconds == 1005
        assert await held(service) == {}


async def test_the_block_of_asyncio_lives_through_a_kill_of_the_allocator(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        async with client.lease("Relay/r1", MEDIA, ttl=15) as lease:
            first = (await held(server))["r1"]
            await server.kill()
            await server.start()
            assert (await renewed(server, first)).id == lease.id
        assert await held(server) == {}


async def test_the_block_of_asyncio_is_cancelled_when_its_lease_is_lost(service: Running) -> None:
    async def use() -> None:
        async with AsyncClient(str(service.address)) as client, client.lease("Relay/r1", MEDIA, ttl=1.2) as lease:
            await release(service, lease.id)
            await asyncio.wait_for(asyncio.Event().wait(), 10)

    with pytest.raises(LeaseLostError, match="was ended"):
        await use()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_listens_is_called_and_not_cancelled(service: Running) -> None:
    lost: list[LeaseLostError] = []
    async with (
        AsyncClient(str(service.address)) as client,
        client.lease("Relay/r1", ttl=1.2, on_lost=lost.append) as lease,
    ):
        await release(service, lease.id)
        await until(lambda: lost)
    assert [error.reason for error in lost] == ["ALLOCATION_NOT_FOUND"]


async def test_a_lost_lease_of_asyncio_is_had_again_and_a_held_one_is_not_leased_twice(service: Running) -> None:
    async with AsyncClient(str(service.address)) as client:
        lease = await client.lease("Relay/r1", ttl=1.2).acquire()
        await release(service, lease.id)
        await until(lambda: lease.lost)

        async with lease:
            assert (lease.lost, set(await held(service))) == (None, {"r1"})
            with pytest.raises(RuntimeError, match="is held already: release it"):
                await lease.acquire()
        assert await held(service) == {}


async def test_who_is_cancelled_while_ports_are_leased_leaves_none_behind(service: Running) -> None:
    async with AsyncClient(str(service.address)) as client:
        asking = asyncio.create_task(client.lease("Relay/r1").acquire())
        await until(lambda: len(service.engine.ledger.claims), every=0)  # it is decided, and on its way to the disk
        asking.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asking

    assert await held(service) == {}


async def test_who_is_cancelled_while_nobody_answers_does_not_wait_for_it() -> None:
    began = time.monotonic()
    async with AsyncClient("127.0.0.1:1", connect_timeout=60) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.lease("Relay/r1"):
                pass
    assert time.monotonic() - began < 3


async def test_a_cancellation_from_outside_stays_one_and_releases(service: Running) -> None:
    begun = asyncio.Event()

    async def use() -> None:
        async with AsyncClient(str(service.address)) as client, client.lease("Relay/r1"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await held(service) == {}


# -- errors

REFUSALS: list[tuple[type[HostportError], str, dict[str, Any]]] = [
    (InvalidRequestError, "INVALID_TTL", {"ttl": 40 * 86400.0}),
    (RefusedError, "RANGE_EXHAUSTED", {"range": (6000, 6000)}),
]


@pytest.mark.parametrize(("kind", "reason", "wish"), REFUSALS, ids=[reason for _, reason, _ in REFUSALS])
async def test_a_refusal_is_raised_with_its_reason_and_its_field(
    service: Running, kind: type[HostportError], reason: str, wish: dict[str, Any]
) -> None:
    async with AsyncClient(str(service.address)) as client:
        async with client.lease("Relay/holder", Port(number=6000)):
            with pytest.raises(kind) as caught:
                await client.lease("Relay/r1", **wish).acquire()
        assert (type(caught.value), caught.value.reason) == (kind, reason)
        assert [each.reason for each in caught.value.mistakes] == [reason]


async def test_a_fixed_number_that_is_held_is_refused_with_the_holder(service: Running) -> None:
    async with AsyncClient(str(service.address)) as client, client.lease("Relay/holder", Port(number=6000)):
        with pytest.raises(RefusedError, match="of Relay holder") as caught:
            await client.lease("Relay/r1", Port(number=6000)).acquire()
    assert caught.value.reason == "PORT_CONFLICT"


async def test_what_does_not_exist_and_what_does_not_answer_have_classes_of_their_own(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        with pytest.raises(NotFoundError) as missing:
            await client.call("GetAllocation", pb.GetAllocationRequest(id="nope"))
    assert missing.value.reason == "ALLOCATION_NOT_FOUND"
    await server.kill()
    async with AsyncClient(server.address, timeout=0.3) as client:
        with pytest.raises(UnavailableError, match=r"no answer from the allocator.*Connection refused"):
            await client.lease("Relay/r1").acquire()


@pytest.mark.parametrize("owner", ["relay", "/r1", "Relay/", "Pod/web-0"])
async def test_an_owner_that_is_none_is_refused_before_anybody_is_asked(owner: str) -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=r"owner|Pod"):
            await client.lease(owner).acquire()


def test_it_needs_neither_kubernetes_nor_a_command_line() -> None:
    program = "import sys, hostport.client; print(sorted({m.split('.')[0] for m in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "grpc" in loaded
    assert [
        name for name in ("kubernetes", "click", "rich", "tornado", "yaml", "prometheus_client") if name in loaded
    ] == []
