"""Several allocators of which one serves: asks go there, and to the next one as soon as that serves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2
from standin import StandIn, serving

from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.client import AllocatorClient
from shim.outcomes import Unreachable
from testing.waiting import until

SERVICE = "hostport.v1.AllocatorService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NAME = Address("hostport-allocator.hostport-system.svc", 50051)
"""What the certificate of every replica says; nobody has to resolve it."""


class Replica(StandIn):
    """An allocator that serves or stands by."""

    def __init__(self) -> None:
        super().__init__(health=health.aio.HealthServicer())

    async def serves(self, *, does: bool) -> None:
        assert self.health is not None
        await self.health.set(SERVICE, SERVING if does else NOT_SERVING)


def credentials(authority: trustme.CA, folder: Path) -> tuple[grpc.ServerCredentials, Credentials]:
    issued = authority.issue_cert(NAME.host)
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return grpc.ssl_server_credentials([pair]), Credentials(ca=folder / "ca.pem")


@pytest.mark.parametrize("is_secure", [True, False], ids=["TLS", "plain text"])
async def test_asks_go_to_the_one_that_serves_and_to_the_next_one_at_once(tmp_path: Path, *, is_secure: bool) -> None:
    theirs, ours = credentials(trustme.CA(), tmp_path) if is_secure else (None, Credentials())
    first, second = Replica(), Replica()
    await first.serves(does=True)
    await second.serves(does=False)
    async with serving(first, credentials=theirs) as one, serving(second, credentials=theirs) as other:
        client = AllocatorClient(NAME, ours, replicas=f"ipv4:{one},{other}")
        try:
            before = [await client.allocate(AllocateRequest(), deadline=_in(20)) for _ in range(6)]
            await first.serves(does=False)
            await until(lambda: client._channel.get_state() is not grpc.ChannelConnectivity.READY)
            waiting = asyncio.create_task(client.allocate(AllocateRequest(), deadline=_in(20)))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await second.serves(does=True)
            after = await waiting
            took = time.monotonic() - began
        finally:
            await client.close()

    assert [type(each) for each in (*before, after)] == [AllocateResponse] * 7
    assert (len(first.asked), len(second.asked)) == (6, 1)
    assert took < 10, "half of its deadline"


@pytest.mark.parametrize("is_alone", [True, False], ids=["one allocator", "replicas"])
async def test_while_none_serves_an_ask_waits_until_its_deadline(*, is_alone: bool) -> None:
    """Also where it listens: it reads its journal then, and would answer that it does not serve yet."""
    first = Replica()
    await first.serves(does=False)
    async with serving(first) as address:
        replicas = "" if is_alone else f"ipv4:{address}"
        client = AllocatorClient(address if is_alone else NAME, Credentials(), replicas=replicas)
        try:
            outcome = await client.allocate(AllocateRequest(), deadline=_in(0.3))
        finally:
            await client.close()

    assert isinstance(outcome, Unreachable)
    assert first.asked == []


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
