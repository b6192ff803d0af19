"""AllocateStream: asks come in as they come, each is answered for itself, and answers that wait leave together.

Rules:

* An ask on a stream is an Allocate call: with its own deadline, its own access check, its own answer. Nothing that
  becomes of one concerns another.
* A stream that ends early cancels what it asked: what is not durable by then is not granted.
* When the allocator stops, a stream takes no more asks, answers those that it has, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from google.rpc import code_pb2, status_pb2

from hostport.gather import gathered
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

Answering = Callable[[pb.AllocateRequest, Callable[[], bool]], Awaitable[pb.AllocateResponse | status_pb2.Status]]
"""What becomes of an ask, which can be asked whether the caller still waits."""


class _Stream:
    """One stream, while it is open."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.is_open = True
        self.answers: asyncio.Queue[pb.AllocateStreamResponse.Answer | None] = asyncio.Queue()

    async def read(self, requests: AsyncIterator[pb.AllocateStreamRequest]) -> None:
        """Starts what is asked, and ends the answers with the last one."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            async for request in requests:
                for ask in request.asks:
                    task = asyncio.create_task(self._ask(ask))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
        finally:
            if under_way:
                await asyncio.wait(under_way)
            self.answers.put_nowait(None)

    async def _ask(self, ask: pb.AllocateStreamRequest.Ask) -> None:
        answer = pb.AllocateStreamResponse.Answer(tag=ask.tag)
        try:
            result = await self._answer(ask.request, self._wanted(ask))
        except Exception:
            log.exception("an ask was not answered")  # as gRPC does with a call
            result = status_pb2.Status(code=code_pb2.UNKNOWN, message="a fault of the allocator's: see its log")
        if isinstance(result, status_pb2.Status):
            answer.status.CopyFrom(result)
        else:
            answer.response.CopyFrom(result)
        self.answers.put_nowait(answer)

    def _wanted(self, ask: pb.AllocateStreamRequest.Ask) -> Callable[[], bool]:
        patience = ask.timeout.ToMicroseconds() / 1e6 if ask.HasField("timeout") else math.inf
        deadline = time.monotonic() + patience
        return lambda: self.is_open and time.monotonic() < deadline


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Task[None]] = set()

    def finish(self) -> None:
        """Takes no more asks, so that every stream ends with the answers that it owes."""
        for reader in self._readers:
            reader.cancel()

    async def answers(
        self, requests: AsyncIterator[pb.AllocateStreamRequest], answer: Answering
    ) -> AsyncIterator[pb.AllocateStreamResponse]:
        """One stream, until it ends."""
        stream = _Stream(answer)
        reader = asyncio.create_task(stream.read(requests))
        self._readers.add(reader)
        try:
            while ready := await gathered(stream.answers):
                yield pb.AllocateStreamResponse(answers=ready)
            if reader.done() and not reader.cancelled() and (error := reader.exception()):
                raise error  # what came was no message
        finally:
            stream.is_open = False
            reader.cancel()
            self._readers.discard(reader)
