"""The stream on which asks go to the allocator together: what gathers while a message is sent goes with the next one.

Rules:

* The stream is a short cut and decides nothing. Whatever it cannot do (an allocator that does not know it, a connection
  that broke, a large ask) it leaves to a call of its own, with the same request_id: that an ask may have been granted
  before is then no harm.
* An ask has its own deadline, here and on the other side.
* It is opened by the first ask. Once it has failed it is left alone for `PAUSE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import Any, TypeAlias

import grpc
from google.rpc.status_pb2 import Status

from hostport.gather import gathered
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse, AllocateStreamRequest

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
UNKNOWN_SECONDS = 30.0
"""How long an allocator of an older version is not asked again whether it knows the stream."""

LARGEST_ASK = 1 << 15
"""Bytes. A message with as many as travel together must stay below 1 MiB."""

Answer: TypeAlias = AllocateResponse | Status


class AskStream:
    """One stream at a time. Must be used inside one event loop."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._asks: asyncio.Queue[AllocateStreamRequest | None] = asyncio.Queue()  # each a message of one ask
        self._waiting: dict[int, asyncio.Future[Answer | None]] = {}
        self._tags = itertools.count(1)
        self._running: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def ask(self, request: AllocateRequest, deadline: float) -> Answer | None:
        """What the allocator answers; None where it has to be asked by a call of its own.

        Raises:
            TimeoutError: the deadline, a time of the event loop's clock, has passed.

        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._is_open(now) or request.ByteSize() > LARGEST_ASK:
            return None
        message = AllocateStreamRequest()
        ask = message.asks.add(tag=next(self._tags), request=request)
        seconds = max(0.0, deadline - now)
        ask.timeout.seconds, ask.timeout.nanos = int(seconds), int(seconds % 1 * 1e9)
        answer = self._waiting[ask.tag] = loop.create_future()
        self._asks.put_nowait(message)
        too_late = loop.call_at(deadline, _give_up_on, answer)  # asyncio.timeout_at takes three times as long
        try:
            return await answer
        finally:
            too_late.cancel()
            del self._waiting[ask.tag]

    def end(self) -> None:
        """No more asks. What is under way is answered."""
        self._not_before = float("inf")
        self._asks.put_nowait(None)

    def _is_open(self, now: float) -> bool:
        if now < self._not_before:
            return False
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        return True

    async def _run(self) -> None:
        """Sends and receives until the stream ends, however it ends."""
        call = self._stub.AllocateStream()
        reading = asyncio.create_task(self._read(call))
        writing = asyncio.create_task(self._write(call))
        try:
            await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
            await reading
        except grpc.aio.AioRpcError as error:
            self._failed(error)
        finally:
            writing.cancel()
            call.cancel()
            self._give_up()

    async def _write(self, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader learns why
            while messages := await gathered(self._asks):
                first, *others = messages
                for each in others:  # an ask that travels alone is not copied
                    first.asks.extend(each.asks)
                await call.write(first)
            await call.done_writing()

    async def _read(self, call: Any) -> None:
        async for message in call:
            for each in message.answers:
                waiting = self._waiting.get(each.tag)
                if waiting is not None and not waiting.done():
                    waiting.set_result(each.response if each.HasField("response") else each.status)

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        is_unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED
        pause = UNKNOWN_SECONDS if is_unknown else PAUSE_SECONDS
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)
        log.log(logging.DEBUG if is_unknown else logging.INFO, "asks go one by one: %s", error.code().name)

    def _give_up(self) -> None:
        """Leaves every ask to a call of its own."""
        self._running = None
        while not self._asks.empty():
            self._asks.get_nowait()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)


def _give_up_on(answer: asyncio.Future[Answer | None]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
