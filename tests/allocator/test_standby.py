"""Two allocators on one cluster: one serves, the other stands by with a warm view. Real processes, a simulated cluster."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from test_failures import FLAGS, NAMESPACE, ROOT, kubernetes, server
from test_service import two_ports

from allocator.journal.sqlite import SqliteJournal
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as rpc
from testing.apiserver import ApiServer

__all__ = ["server"]

SERVICE = "hostport.v1.AllocatorService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Replica:
    """A running allocator, whose Pod stands in the cluster."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, address: str) -> None:
        self.name, self.process = name, process
        self._channel = grpc.aio.insecure_channel(address)
        self.stub: Any = rpc.AllocatorServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def health(self) -> tuple[int, int]:
        """For the kubelet, and for callers."""
        both = [
            await self._health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in ("", SERVICE)
        ]
        return both[0].status, both[1].status

    async def until(self, *health: int) -> None:
        async with asyncio.timeout(15):
            while await self.health() != health:
                await asyncio.sleep(0.02)

    async def until_it_waits_for(self, words: str) -> None:
        async with asyncio.timeout(15):
            while words not in (await self.stub.GetStatus(pb.GetStatusRequest())).waiting_for:
                await asyncio.sleep(0.02)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    async def close(self) -> None:
        await self._channel.close()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


Start = Callable[[str], Any]


@pytest.fixture
async def start(server: ApiServer, tmp_path: Path) -> AsyncIterator[Start]:
    flags = [flag for flag in kubernetes(server, tmp_path) if not flag.startswith(("--pod", "--certificates"))]
    server.put("nodes", {"kind": "Node", "metadata": {"name": "n1"}})
    async with AsyncExitStack() as stack:

        async def begin(name: str) -> Replica:
            uid = f"uid-{name}"
            server.put(
                "pods", {"kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid}, "spec": {}}
            )
            more = (f"--pod-name={name}", f"--pod-uid={uid}", f"--journal=sqlite:{tmp_path}/{name}.db")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "allocator", "serve", *FLAGS, *flags, *more,
                stderr=asyncio.subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            assert process.stderr is not None
            async for line in process.stderr:
                if found := re.search(r"listening on grpc (\S+),", line.decode()):
                    break
            replica = Replica(name, process, found[1] if found else "")
            draining = asyncio.create_task(process.stderr.read())
            stack.callback(draining.cancel)
            stack.push_async_callback(replica.close)
            return replica

        yield begin


def admitted(server: ApiServer, allocation: pb.Allocation, uid: str) -> None:
    """The Pod of an allocation is stored."""
    port = {"containerPort": allocation.ports[0].host_port, "hostPort": allocation.ports[0].host_port}
    metadata = {
        "name": allocation.owner.name,
        "namespace": allocation.owner.namespace,
        "uid": uid,
        "annotations": {"hostport.io/allocation-id": allocation.id},
    }
    server.put(
        "pods",
        {
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"hostNetwork": True, "containers": [{"name": "c", "ports": [port]}]},
        },
    )


async def test_who_stands_by_is_ready_answers_nobody_and_says_who_serves(start: Start) -> None:
    first = await start("first")
    await first.until(SERVING, SERVING)
    second = await start("second")
    await second.until(SERVING, NOT_SERVING)

    with pytest.raises(grpc.aio.AioRpcError, match="this allocator stands by, first serves; retry there"):
        await second.stub.Allocate(two_ports())
    status = await second.stub.GetStatus(pb.GetStatusRequest())
    assert (status.serving, status.lease.served_by, status.waiting_for) == (
        False, "first", "its turn: it stands by, and first serves",
    )  # fmt: skip
    assert (await first.stub.GetStatus(pb.GetStatusRequest())).lease.served_by == ""


@pytest.mark.parametrize("is_watched", [True, False], ids=["the Lease is watched", "the right to watch is missing"])
async def test_after_an_orderly_stop_the_other_serves_within_a_second_and_knows_everything(
    start: Start, server: ApiServer, *, is_watched: bool
) -> None:
    if not is_watched:
        server.refused.add("watch leases")
    first = await start("first")
    await first.until(SERVING, SERVING)
    second = await start("second")
    await second.until(SERVING, NOT_SERVING)
    granted = (await first.stub.Allocate(two_ports())).allocation
    lease = pb.AllocateRequest(
        owner=pb.Owner(kind="Service", namespace="demo", name="s"),
        policy=pb.POLICY_STATIC,
        ports=[pb.PortRequest(host_port=9500)],
        constraints=pb.NodeConstraints(node_name="n1"),
    )
    leased = (await first.stub.Allocate(lease)).allocation
    admitted(server, granted, "uid-db")

    stopping = asyncio.create_task(first.stop())
    await first_refusal(first)
    began = time.monotonic()
    await second.until(SERVING, SERVING)
    took = time.monotonic() - began

    assert await stopping == 0
    assert took < (1.0 if is_watched else 2.5)
    held = {port.host_port: port.owner.name for port in (await second.stub.GetNode(pb.GetNodeRequest(name="n1"))).ports}
    assert held[9500] == "s"
    assert granted.ports[0].host_port in held
    assert (await second.stub.GetAllocation(pb.GetAllocationRequest(id=leased.id))).allocation.id == leased.id


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """As by a backup, or by somebody with `sqlite3`."""
    SqliteJournal(journal).open_now().close()
    with closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield


async def test_who_waits_for_its_journal_neither_stands_by_nor_takes_the_lease_until_that_has_passed(
    start: Start, tmp_path: Path
) -> None:
    first = await start("first")
    await first.until(SERVING, SERVING)
    with locked(tmp_path / "second.db"):
        second = await start("second")
        await second.until_it_waits_for("database is locked")
        assert await second.health() == (NOT_SERVING, NOT_SERVING)
        await first.stop()  # in order: whoever may takes over at once
        third = await start("third")
        await third.until(SERVING, SERVING)
        assert await second.health() == (NOT_SERVING, NOT_SERVING)

    await second.until(SERVING, NOT_SERVING)
    await second.until_it_waits_for("its turn: it stands by, and third serves")


async def first_refusal(replica: Replica) -> None:
    """Returns when it does not serve any more."""
    async with asyncio.timeout(30):
        while True:
            try:
                if (await replica.health())[1] != SERVING:
                    return
            except grpc.aio.AioRpcError:
                return
            await asyncio.sleep(0.01)
