"""AllocateStream: asks come in as they come, each is answered for itself, and answers that wait leave together.

Rules:

* An ask on a stream is an Allocate call: with its own deadline, its own access check, its own answer. Nothing that
  becomes of one concerns another.
* Streams take turns: of each that has asks one is begun, then of the next one, and only a few in one turn of the event
  loop. So it does not matter to others how many one of them sends.
* An ask counts until its answer is sent. A stream with as many asks, or as many bytes, as it may have is not read any
  further, so that its sender has to wait.
* A stream that ends early cancels what it asked: what is not durable by then is not granted.
* When the allocator stops, a stream takes no more asks, answers those that it has, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from google.rpc import code_pb2, status_pb2

from allocator.stream_pb2 import EncodedStreamResponse
from hostport.gather import gathered
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

MOST_ASKS = 1024
MOST_BYTES = 4 << 20
"""What a stream may have under way, its answers that were not sent yet among it."""

FIRST_BEGUN, MOST_BEGUN = 8, 32
LONG_SECONDS = 0.002
"""Asks that are begun in one turn of the event loop, of all streams: few at first, for they may take milliseconds each,
then more where as many took less time than this, and fewer where they took longer."""

Answering = Callable[[pb.AllocateRequest, Callable[[], bool]], Awaitable[bytes | status_pb2.Status]]
"""What becomes of an ask, a serialised AllocateResponse or why not. It is given whether the caller still waits."""

_Answer = EncodedStreamResponse.Answer
_Ask = pb.AllocateStreamRequest.Ask


class _Message:
    """Asks that came together and wait. `share`: how many bytes each of them counts for."""

    __slots__ = ("arrived", "asks", "left", "share")

    def __init__(self, request: pb.AllocateStreamRequest) -> None:
        self.asks: Iterator[_Ask] = iter(request.asks)
        self.left = len(request.asks)
        self.share = request.ByteSize() // self.left
        self.arrived = time.monotonic()


class _Stream:
    """One stream, while it is open."""

    def __init__(self, answer: Answering, turns: _Turns) -> None:
        self._answer = answer
        self._turns = turns
        self.is_open = True
        self.answers: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._waiting: deque[_Message] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asks = 0  # that are not answered yet, or whose answers were not sent yet
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._is_done = asyncio.Event()
        self._is_done.set()

    async def read(self, requests: AsyncIterator[pb.AllocateStreamRequest]) -> None:
        """Enters each message into the line of those who take turns; when all is answered, ends `answers` with None."""
        try:
            async for request in requests:
                if not request.asks:
                    continue
                message = _Message(request)
                self._count(message.left, message.left * message.share)
                self._is_done.clear()
                self._waiting.append(message)
                self._turns.enter(self)
                while self._asks >= MOST_ASKS or self._bytes >= MOST_BYTES:  # not read any further: its sender waits
                    self._has_room.clear()
                    await self._has_room.wait()
        finally:
            await self._is_done.wait()
            self.answers.put_nowait(None)

    def begin_one(self) -> bool:
        """Begins the ask that waits the longest. Returns whether others wait."""
        if self._waiting:
            message = self._waiting[0]
            ask = next(message.asks)
            task = asyncio.create_task(self._ask(ask, message.share, self._wanted(ask, message.arrived)))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            message.left -= 1
            if not message.left:
                self._waiting.popleft()
        return bool(self._waiting)

    def sent(self, answers: list[_Answer]) -> None:
        """These answers have left: their asks count no more."""
        self._count(-len(answers), -sum(answer.ByteSize() for answer in answers))

    def close(self) -> None:
        """Nobody waits any more."""
        self.is_open = False  # what is not durable by now is not granted
        self._waiting.clear()
        if not self._tasks:
            self._is_done.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks and not self._waiting:
            self._is_done.set()

    def _count(self, asks: int, size: int) -> None:
        self._asks += asks
        self._bytes += size
        if self._asks < MOST_ASKS and self._bytes < MOST_BYTES:
            self._has_room.set()

    async def _ask(self, ask: _Ask, size: int, is_wanted: Callable[[], bool]) -> None:
        answer = _Answer(tag=ask.tag)
        try:
            result = await self._answer(ask.request, is_wanted)
        except Exception:
            log.exception("an ask was not answered")  # as gRPC does with a call
            result = status_pb2.Status(code=code_pb2.UNKNOWN, message="a fault of the allocator's: see its log")
        if isinstance(result, bytes):
            answer.response = result
        else:
            answer.status = result.SerializeToString()
        self._count(0, answer.ByteSize() - size)  # from now on it counts by its answer, until that is sent
        self.answers.put_nowait(answer)

    def _wanted(self, ask: _Ask, arrived: float) -> Callable[[], bool]:
        patience = ask.timeout.ToMicroseconds() / 1e6 if ask.HasField("timeout") else math.inf
        deadline = arrived + patience
        return lambda: self.is_open and time.monotonic() < deadline


class _Turns:
    """Whose ask is begun next."""

    def __init__(self) -> None:
        self._streams: deque[_Stream] = deque()  # those with asks that wait
        self._most = self._left = FIRST_BEGUN  # in a turn of the event loop, and in this one
        self._is_counting = False
        self._began = 0.0

    def enter(self, stream: _Stream) -> None:
        """A stream has asks that wait. Where few have been begun in this turn, they are begun at once."""
        if stream not in self._streams:
            self._streams.append(stream)
        self._begin()

    def _begin(self) -> None:
        if not self._is_counting:
            self._is_counting, self._began = True, time.thread_time()
            asyncio.get_running_loop().call_soon(self._next_turn)
        while self._left and self._streams:
            stream = self._streams.popleft()
            if stream.begin_one():
                self._streams.append(stream)
            self._left -= 1

    def _next_turn(self) -> None:
        """The asks that were begun have been decided, or wait for something."""
        self._is_counting = False
        took = time.thread_time() - self._began
        if took > LONG_SECONDS:
            self._most = max(1, self._most // 2)
        elif not self._left:  # as many as may be begun were, and took no long
            self._most = min(MOST_BEGUN, self._most + 1)
        self._left = self._most
        if self._streams:
            self._begin()


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Task[None]] = set()
        self._turns = _Turns()

    def finish(self) -> None:
        """Takes no more asks, so that every stream ends with the answers that it owes."""
        for reader in self._readers:
            reader.cancel()

    async def answers(
        self, requests: AsyncIterator[pb.AllocateStreamRequest], answer: Answering
    ) -> AsyncGenerator[EncodedStreamResponse]:
        """One stream, until it ends. What was given has been sent when the next is asked for."""
        stream = _Stream(answer, self._turns)
        reader = asyncio.create_task(stream.read(requests))
        self._readers.add(reader)
        try:
            while ready := await gathered(stream.answers):
                yield EncodedStreamResponse(answers=ready)
                stream.sent(ready)
            if reader.done() and not reader.cancelled() and (error := reader.exception()):
                raise error  # what came was no message
        finally:
            stream.close()
            reader.cancel()
            self._readers.discard(reader)
