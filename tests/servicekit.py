"""The real service on a real socket, with a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any
from unittest.mock import patch

import grpc

from allocator import service as service_module
from allocator.access.callers import Caller
from allocator.access.guard import Guard
from allocator.access.rights import Right
from allocator.access.turnstile import MOST_OF_ONE
from allocator.cluster.happenings import Happening
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger, Rules
from allocator.decisions import Decisions
from allocator.engine import Engine, UnavailableError
from allocator.journal.contract import Journal
from allocator.metrics import Metrics, Standing
from allocator.reports import Reports
from allocator.service import AllocatorService
from allocator.slices import at_once
from allocator.status import Status
from hostport.contract import Reason
from hostport.flags import Address
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc


class Running:
    """An engine behind the service, and a stub that talks to it."""

    def __init__(self, journal: Journal, rules: Rules, guard: Guard) -> None:
        self._guard = guard
        self.now = 1000.0
        ids = count(1)
        self.engine = Engine(
            ledger=Ledger(rules), journal=journal, now=lambda: self.now, new_id=lambda: ClaimId(f"{next(ids):032x}")
        )
        at_once(self.engine.restore())
        self.engine.is_serving = True
        self.decisions = Decisions()
        self.metrics = Metrics()
        self.registry = self.metrics.registry
        self.registry.register(Standing(self.engine))
        self.happenings: list[Happening] = []
        self.reports = Reports(discloses_holders=rules.discloses_holders, event=self.happenings.append)
        self.engine.report = self.reports.incident
        self.status = Status(
            self.engine,
            cluster="none",
            journal="memory",
            certificates=self.metrics.certificates,
            trusted=self.metrics.trusted,
        )

    async def start(self) -> None:
        self._server = grpc.aio.server()
        pb_grpc.add_AllocatorServiceServicer_to_server(
            AllocatorService(self.engine, self.metrics, self.reports, self.status, self._guard, self.decisions),
            self._server,
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.address = Address("127.0.0.1", port)
        self._channel = grpc.aio.insecure_channel(str(self.address))
        self.stub = pb_grpc.AllocatorServiceStub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self._server.stop(None)
        self.engine.save_all_changes()


Start = Callable[..., Awaitable[Running]]


class Reviewer:
    """Knows one user by its token, or cannot be reached."""

    def __init__(self, user: Caller | None = None, *, is_away: bool = False) -> None:
        self._user, self._is_away = user, is_away

    async def caller(self, token: str) -> Caller | None:
        if self._is_away:
            raise UnavailableError(
                Reason.ACCESS_UNKNOWN, "who calls could not be found out from the API server (UnreachableError). Retry"
            )
        return self._user

    async def allows(self, caller: Caller, right: Right) -> bool:
        return False


def _knowing(reviewer: Reviewer) -> Callable[[], Guard]:
    return lambda: Guard(reviewer, audience="hostport.io")


def _crowded() -> Guard:
    """A guard that has let in as many calls of a user as it lets in."""
    guard = Guard(Reviewer(Caller(name="carol")), audience="hostport.io")
    guard.turnstile.under_way["carol"] = MOST_OF_ONE
    return guard


CALLERS: dict[Reason, Callable[[], Guard]] = {
    Reason.UNAUTHENTICATED: _knowing(Reviewer()),
    Reason.PERMISSION_DENIED: _knowing(Reviewer(Caller(name="carol"))),
    Reason.TOO_MANY_CALLS: _crowded,
    Reason.ACCESS_UNKNOWN: _knowing(Reviewer(is_away=True)),
}
"""How a caller comes not to be let in."""


async def stream_unread(service: Running) -> None:
    """Asks on a stream and reads no answer, until the service has waited for long enough."""
    ports = [pb.PortRequest(container="c", name=f"port-{at}", container_port=1 + at) for at in range(500)]
    owner = pb.Owner(kind="Pod", namespace="demo", name="db-0")
    request = pb.AllocateRequest(owner=owner, policy=pb.POLICY_PASSTHROUGH, ports=ports, dry_run=True)
    message = pb.AllocateStreamRequest(asks=[pb.AllocateStreamRequest.Ask(tag=at, request=request) for at in range(20)])
    is_given_up, send = asyncio.Event(), service_module._sent

    async def sent(context: service_module.Context, answers: Any) -> bool:
        is_sent = await send(context, answers)
        if not is_sent:
            is_given_up.set()
        return is_sent

    async def write(stream: Any) -> None:
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it has ended
            while True:
                await stream.write(message)

    with patch.multiple(service_module, UNREAD_SECONDS=0.05, _sent=sent):
        stream = service.stub.AllocateStream()
        writing = asyncio.create_task(write(stream))
        try:
            async with asyncio.timeout(60):
                await is_given_up.wait()
            async for _ in stream:
                continue
        finally:
            writing.cancel()
