"""Clients that ask, retry until they are answered, release, renew, and repeat what was answered already.

Each has a connection and chance of its own; some allocate by calls, others on a stream as shims do. What a client is
told, it tells the model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from hostport.contract.failed_calls import STATUS_CODES
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from shim.client import AskStream

from .model import Ask, Grant, Hold, Model, Outcome
from .server import CHANNEL_OPTIONS

DYNAMIC_RANGE = pb.PortRange(min=20000, max=22400)
INDEX_RANGE = pb.PortRange(min=30000, max=31000)
STATIC_PORTS = range(40000, 40060)
COUNTS = (0, 0, 0, 2, 5, 8)
"""Numbers of a port of Dynamic and Static: none is one number, and more are a block."""

INDEXES = 80
MOST_HELD = 10
RPC_SECONDS = 5.0
HASTY_SECONDS = 0.004  # so short that some calls end between decision and commit
RETRY_SECONDS = 0.02
KEPT_SECONDS = 500.0  # answers are kept for 600 s after their claim has ended
BRIEF_TTL, LONG_TTL = 2, 3600

T = TypeVar("T")

NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""Codes that say nothing about what was decided."""


class Client:
    """One of the clients."""

    def __init__(self, name: str, address: str, model: Model, random: Random, *, has_stream: bool) -> None:
        self._name = name
        self._model = model
        self._random = random
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub: Any = pb_grpc.AllocatorServiceStub(self._channel)
        self._stream = AskStream(self._stub) if has_stream else None
        self._asked: list[Ask] = []
        self._held: list[Grant] = []
        self._serial = 0
        self.is_stopping = False

    async def run(self) -> None:
        """Works until it is told to stop; what is under way is still answered."""
        actions = (self._allocate, self._release, self._renew, self._repeat, self._reuse)
        while not self.is_stopping:
            crowd = len(self._held) / MOST_HELD
            (action,) = self._random.choices(actions, (1.2 - min(crowd, 1.0), crowd, 0.15, 0.2, 0.02))
            await action()

    async def close(self) -> None:
        if self._stream:
            self._stream.end()
        await self._channel.close()

    async def repeat_all(self) -> None:
        """Every request_id of this client once more, as far as its answer is promised to be kept."""
        since = time.time() - KEPT_SECONDS
        for ask in self._asked:
            if ask.request.request_id and ask.outcome is Outcome.GRANTED and ask.answered_at > since:
                await self._repeat_one(ask)

    async def release_id(self, allocation_id: str) -> None:
        request = pb.ReleaseRequest(id=allocation_id)
        await self._until_answered(lambda timeout: self._stub.Release(request, timeout=timeout))

    async def list_all(self) -> list[pb.Allocation]:
        """Every live allocation, in one page: two pages would not be of one moment."""
        request = pb.ListAllocationsRequest(page_size=1000)
        response = await self._until_answered(lambda timeout: self._stub.ListAllocations(request, timeout=timeout))
        if response.next_page_token:
            self._model.violate("more than 1000 allocations live: what is released does not go", ())
        return list(response.allocations)

    # -- actions

    async def _allocate(self) -> None:
        ask = self._model.opened(self._request())
        self._asked.append(ask)
        grant = await self._answered(ask)
        if grant is not None:
            self._held.append(grant)

    async def _release(self) -> None:
        if not self._held:
            return
        grant = self._held.pop(self._random.randrange(len(self._held)))
        self._model.releasing(grant)
        await self.release_id(grant.id)
        self._model.released(grant)

    async def _renew(self) -> None:
        """A lease that holds to its end may end meanwhile: NOT_FOUND is then right."""
        leases = [g for g in self._held if g.ask.request.owner.kind != "Pod" and g.hold is Hold.HELD]
        if not leases:
            return
        grant = self._random.choice(leases)
        ttl = grant.ask.request.ttl
        try:
            response = await self._until_answered(
                lambda timeout: self._stub.Renew(pb.RenewRequest(id=grant.id, ttl=ttl), timeout=timeout)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND or ttl.seconds == LONG_TTL:
                self._model.violate(f"renewing {grant.id} was refused: {error.details()}", grant.ports)
            self._held.remove(grant)
            return
        self._model.renewed(grant, response.allocation)

    async def _repeat(self) -> None:
        """A request that was answered, asked once more: an old one or one of the last."""
        answered = [a for a in self._asked[-200:] if a.request.request_id and a.outcome is Outcome.GRANTED]
        if answered:
            await self._repeat_one(self._random.choice(answered))

    async def _repeat_one(self, ask: Ask) -> None:
        self._model.counts.repeats += 1
        await self._answered(ask)

    async def _reuse(self) -> None:
        """An answered request_id with another body is a mistake, and changes nothing."""
        answered = [a for a in self._asked[-50:] if a.request.request_id and a.outcome is Outcome.GRANTED]
        if not answered:
            return
        ask = self._random.choice(answered)
        request = pb.AllocateRequest()
        request.CopyFrom(ask.request)
        request.priority += 1
        try:
            await self._until_answered(lambda timeout: self._stub.Allocate(request, timeout=timeout))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return
        self._model.violate(f"request_id {request.request_id} was taken with another body", ())

    # -- calls

    async def _answered(self, ask: Ask) -> Grant | None:
        def send(timeout: float) -> Awaitable[pb.AllocateResponse]:
            ask.sent += 1
            return self._sent(ask.request, timeout)

        try:
            response = await self._until_answered(send)
        except grpc.aio.AioRpcError as error:
            self._model.denied(ask, error.code().name)
            return None
        return self._model.granted(ask, response)

    async def _sent(self, request: pb.AllocateRequest, patience: float) -> pb.AllocateResponse:
        """What comes on the stream is told as a call would tell it."""
        deadline = asyncio.get_running_loop().time() + patience
        try:
            answer = await self._stream.ask(request, deadline) if self._stream else None
        except TimeoutError as error:
            raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer on the stream") from error
        if isinstance(answer, Status):
            raise _failed(STATUS_CODES[answer.code], answer.message)
        if answer is not None:
            self._model.counts.streamed += 1
            return answer
        made: pb.AllocateResponse = await self._stub.Allocate(request, timeout=patience)
        return made

    async def _until_answered(self, send: Callable[[float], Awaitable[T]]) -> T:
        """Sends the same again until somebody answers.

        Raises:
            AioRpcError: the answer is a refusal.

        """
        counts = self._model.counts
        counts.requests += 1
        while True:
            hasty = self._random.random() < 0.02
            try:
                return await send(HASTY_SECONDS if hasty else RPC_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in NO_ANSWER:
                    raise
            counts.retries += 1
            await asyncio.sleep(RETRY_SECONDS * self._random.random() * 2)

    # -- requests

    def _request(self) -> pb.AllocateRequest:
        self._serial += 1
        name = f"{self._name}-{self._serial}"
        request = pb.AllocateRequest(request_id=f"r-{name}" if self._random.random() < 0.8 else "")
        make = self._random.choices((self._dynamic, self._indexed, self._lease), (5, 3, 3))[0]
        make(request)
        request.owner.name = name
        return request

    def _dynamic(self, request: pb.AllocateRequest) -> None:
        request.owner.kind, request.owner.namespace = "Pod", "crash"
        request.policy = pb.POLICY_DYNAMIC
        request.range.CopyFrom(DYNAMIC_RANGE)
        request.ports.extend(self._ports())

    def _indexed(self, request: pb.AllocateRequest) -> None:
        request.owner.kind, request.owner.namespace = "Pod", "crash"
        request.policy = pb.POLICY_INDEX
        request.range.CopyFrom(INDEX_RANGE)
        request.index = self._random.randrange(INDEXES)
        request.ports.extend(self._ports(count=0))

    def _lease(self, request: pb.AllocateRequest) -> None:
        request.owner.kind = "Relay"
        request.ttl.CopyFrom(Duration(seconds=BRIEF_TTL if self._random.random() < 0.3 else LONG_TTL))
        if self._random.random() < 0.5:
            request.policy = pb.POLICY_DYNAMIC
            request.range.CopyFrom(DYNAMIC_RANGE)
            request.ports.extend(self._ports())
        else:
            request.policy = pb.POLICY_STATIC
            number, count = self._random.choice(STATIC_PORTS), self._random.choice(COUNTS)
            request.ports.add(host_port=number, protocol=pb.PROTOCOL_UDP, count=count)

    def _ports(self, *, count: int | None = None) -> list[pb.PortRequest]:
        """One to three ports; sometimes TCP and UDP of one number. count: of numbers of each; None: by chance."""
        count = self._random.choice(COUNTS) if count is None else count
        protocols = self._random.choice(((1,), (2,), (1, 1), (1, 2, 1)))
        together = self._random.random() < 0.3
        return [
            pb.PortRequest(
                container="main",
                name=f"p{position}",
                protocol=pb.Protocol.ValueType(protocol),
                container_port=8000 if together and position < 2 and len(set(protocols)) > 1 else 8000 + position,
                count=count,
            )
            for position, protocol in enumerate(protocols)
        ]


def _failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
