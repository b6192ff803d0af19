"""The real service on a real socket, with a clock that tests turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

import grpc

from allocator.cluster.happenings import Happening
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger, Rules
from allocator.engine import Engine
from allocator.journal.contract import Journal
from allocator.metrics import Metrics, Standing
from allocator.reports import Reports
from allocator.service import AllocatorService
from allocator.status import Status
from hostport.flags import Address
from hostport.v1 import allocator_pb2_grpc as pb_grpc


class Running:
    """An engine behind the service, and a stub that talks to it."""

    def __init__(self, journal: Journal, rules: Rules) -> None:
        self.now = 1000.0
        ids = count(1)
        self.engine = Engine(
            ledger=Ledger(rules), journal=journal, now=lambda: self.now, new_id=lambda: ClaimId(f"{next(ids):032x}")
        )
        self.engine.is_serving = True
        self.metrics = Metrics()
        self.registry = self.metrics.registry
        self.registry.register(Standing(self.engine))
        self.happenings: list[Happening] = []
        self.reports = Reports(discloses_holders=rules.discloses_holders, event=self.happenings.append)
        self.engine.report = self.reports.incident
        self.status = Status(self.engine, cluster="none", journal="memory", certificates=self.metrics.certificates)

    async def start(self) -> None:
        self._server = grpc.aio.server()
        pb_grpc.add_AllocatorServiceServicer_to_server(
            AllocatorService(self.engine, self.metrics, self.reports, self.status), self._server
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.address = Address("127.0.0.1", port)
        self._channel = grpc.aio.insecure_channel(str(self.address))
        self.stub = pb_grpc.AllocatorServiceStub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self._server.stop(None)


Start = Callable[..., Awaitable[Running]]
