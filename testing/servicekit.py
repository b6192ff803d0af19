"""The real service on a real socket, with a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any
from unittest.mock import patch

import grpc

from allocator import commands
from allocator.access.guard import MOST_CALLS_OF_ONE, AccessRight, Caller, Guard
from allocator.app.build import Collaborators, build
from allocator.cluster.correlator import ObjectEvent
from allocator.commands import add_to_server
from allocator.core.admission import LedgerRules
from allocator.core.asks import NotServedError
from allocator.core.claims import ClaimId, ClusterChange
from allocator.core.ledger import Ledger
from allocator.journal.contract import Journal
from allocator.metrics import AllocatorMetrics
from allocator.slices import at_once
from hostport.contract import Reason
from hostport.contract.limits import MOST_FOREIGN
from hostport.flags import Address
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from testing.clock import FunctionClock
from testing.kit import node
from testing.waiting import until


class Running:
    """An engine behind the service, and a stub that talks to it."""

    def __init__(
        self, journal: Journal, rules: LedgerRules, guard: Guard, metrics: AllocatorMetrics | None = None
    ) -> None:
        self.now = 1000.0
        self.journal = journal
        self.events: list[ObjectEvent] = []
        ids = count(1)
        self.application = build(
            Collaborators(
                ledger=Ledger(rules),
                journal=journal,
                metrics=metrics or AllocatorMetrics(),
                clock=FunctionClock(lambda: self.now),
                new_id=lambda: ClaimId(f"{next(ids):032x}"),
                guard=guard,
                discloses_holders=rules.discloses_holders,
                event=self.events.append,
            )
        )
        self.engine = self.application.engine
        self.decisions = self.application.decisions
        self.metrics = self.application.metrics
        self.registry = self.metrics.registry
        self.health = self.application.health
        self.status = self.application.status
        self.service = self.application.service
        at_once(self.engine.recovery.restore(journal))
        self.engine.is_serving = True

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_to_server(self.service, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.address = Address("127.0.0.1", port)
        self._channel = grpc.aio.insecure_channel(str(self.address))
        self.stub = pb_grpc.AllocatorServiceStub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self._server.stop(None)
        self.engine.changes.save_all()


Start = Callable[..., Awaitable[Running]]


class Reviewer:
    """Knows one user by its token, or cannot be reached."""

    def __init__(self, user: Caller | None = None, *, is_away: bool = False) -> None:
        self._user, self._is_away = user, is_away

    async def caller(self, token: str) -> Caller | None:
        if self._is_away:
            raise NotServedError(
                Reason.ACCESS_UNKNOWN, "who calls could not be found out from the API server (UnreachableError). Retry"
            )
        return self._user

    async def allows(self, caller: Caller, right: AccessRight) -> bool:
        return False


def _knowing(reviewer: Reviewer) -> Callable[[], Guard]:
    return lambda: Guard(reviewer, audience="hostport.io")


def _crowded() -> Guard:
    """A guard that has let in as many calls of a user as it lets in."""
    guard = Guard(Reviewer(Caller(name="carol")), audience="hostport.io")
    guard.limiter.under_way["carol"] = MOST_CALLS_OF_ONE
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
    is_given_up, send = asyncio.Event(), commands.sent

    async def sent(context: commands.Context, answers: Any) -> bool:
        is_sent = await send(context, answers)
        if not is_sent:
            is_given_up.set()
        return is_sent

    async def write(stream: Any) -> None:
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it has ended
            while True:
                await stream.write(message)

    with patch.multiple(commands, UNREAD_SECONDS=0.05, sent=sent):
        stream = service.stub.AllocateStream()
        writing = asyncio.create_task(write(stream))
        try:
            async with asyncio.timeout(60):
                await is_given_up.wait()
            async for _ in stream:
                continue
        finally:
            writing.cancel()


def reporting(*messages: pb.ReportNodeRequest, again: bool = False) -> Callable[[Running], Awaitable[None]]:
    """The agent of a node says something; with `again`, it begins once more on another stream."""

    async def call(service: Running) -> None:
        service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")], lists_pods=False))
        stream, other = service.stub.ReportNode(), service.stub.ReportNode()
        for message in (pb.ReportNodeRequest(node="n1", snapshot=True), *messages):
            await stream.write(message)
        if again:
            await until(lambda: len(service.application.agents) == 1)
            await other.write(pb.ReportNodeRequest(node="n1", snapshot=True))
        async for _ in stream:
            pass

    return call


def opened(low: int, high: int) -> pb.ReportNodeRequest:
    """Consecutive numbers, `high` not among them; the report goes on until it has more than may be."""
    sockets = [pb.Socket(protocol=pb.PROTOCOL_TCP, port=number) for number in range(low, high)]
    return pb.ReportNodeRequest(opened=sockets, more=high <= MOST_FOREIGN + 1)


REPORTS: dict[Reason, Callable[[Running], Awaitable[None]]] = {
    Reason.NODE_NOT_ITS_OWN: reporting(pb.ReportNodeRequest(node="n2")),
    Reason.REPORT_TOO_LARGE: reporting(*[opened(low, low + 1000) for low in range(1, MOST_FOREIGN + 2, 1000)]),
    Reason.REPORT_REPLACED: reporting(again=True),
}
"""What ends the stream of a node's agent, by reason."""
