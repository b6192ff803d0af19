"""The wire to the allocator: one channel, one stream of requests, deadlines, and what an error means for the Pod.

Rules:

* A refusal is an answer: INVALID_ARGUMENT, FAILED_PRECONDITION and RESOURCE_EXHAUSTED in our domain deny the Pod. All
  else, words of ours or not, means that nothing is known, and the webhook's failurePolicy decides.
* Requests share one stream, so that many of them cost little more than one: what gathers while a message is sent goes
  with the next one. The stream is a short cut and decides nothing. Whatever it cannot do (an allocator that does not
  know it, a broken connection, a large request) is left to a call of its own, with the same request_id: that it may
  have been granted before is then no harm.
* Calls go to an allocator whose health says that it serves. With replicas there is a connection to each: when another
  takes over, a call goes there at once, and no connection has to be made first. Each is known by the certificate's name
  that the address of the one allocator has.
* Nothing waits past the caller's deadline. Within it a call waits for a connection, and is repeated when the allocator
  went away under it: request_id makes that safe, and the channel's throttle keeps it from becoming a storm.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.rpc.status_pb2 import Status

from hostport.channels import channel_options
from hostport.contract import Mistake, Reason
from hostport.contract.failed_calls import STATUS_CODES, status_of
from hostport.contract.status import read_status
from hostport.contract.words import REFUSAL_STATUSES
from hostport.credentials import Credentials
from hostport.files import FileWatch
from hostport.flags import Address
from hostport.gather import gathered
from hostport.v1.allocator_pb2 import (
    AllocateRequest,
    AllocateResponse,
    AllocateStreamRequest,
    GetNodeAddressRequest,
    GetNodeAddressResponse,
    ReportWarningsRequest,
)
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub
from shim.outcomes import Outcome, Refusal, Unreachable
from shim.tls import TlsDiagnosis

UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]

CLOSING_GRACE = 30.0
"""Seconds that calls under way have when their channel is replaced or closed: no deadline is longer."""

ADDRESS_PATIENCE, REPORT_PATIENCE = 1.0, 5.0
"""Seconds to tell the address of a node, for which a Pod waits, and what was warned of, for which nobody does."""

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "hostport.v1.AllocatorService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    # An allocator that listens and does not serve yet, or stands by, is waited for as one that does not listen.
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "hostport.v1.AllocatorService"},
}

CHANNEL_OPTIONS = (
    *channel_options("hostport-shim", ping=10, patience=5),
    # By default the pause between attempts grows to two minutes: as long would a shim stay blind after an outage. There
    # is one allocator and a handful of shims, so asking often costs nobody anything. The minimum is the time that one
    # attempt may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
)


class AllocatorClient:
    """Asks the allocator. Must be made and used inside one event loop."""

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        replicas: str = "",
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Connects in the background.

        Args:
            address: the allocator's.
            credentials: what is shown to it, and whom to trust.
            replicas: a gRPC target that resolves to every allocator; empty: `address` is the one that serves.
            observe: is told the seconds that each question took, connecting and repeating included.

        Raises:
            OSError: a credential file cannot be read.

        """
        self._address = address
        self._observe = observe
        self._target = replicas or str(address)
        self._options: tuple[tuple[str, str | int], ...] = CHANNEL_OPTIONS
        if replicas:
            self._options += (
                ("grpc.default_authority", str(address)),
                ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a new replica has a new address
            )
        self._credentials = credentials
        self._watch = FileWatch(credentials.files)
        self._doctor = TlsDiagnosis(address, credentials, self._is_connected)
        self._closing: set[asyncio.Task[None]] = set()
        self._channel = self._connect(credentials.load())
        self._stub = AllocatorServiceStub(self._channel)
        self._stream = AskStream(self._stub)

    async def allocate(self, request: AllocateRequest, *, deadline: float) -> Outcome:
        """Asks once; `deadline` is a time of the event loop's clock."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            if began >= deadline:
                return _unreachable("no time was left to ask the allocator")
            answer = await self._stream.ask(request, deadline)
            if isinstance(answer, AllocateResponse):
                return answer
            if answer is not None and answer.code != UNAVAILABLE:
                return _outcome(STATUS_CODES[answer.code], answer.message, answer)
            return self._explained(await self._ask_alone(request, deadline))
        except TimeoutError:
            return self._explained(_unreachable("DEADLINE_EXCEEDED: it did not answer in time"))
        finally:
            self._observe(clock() - began)

    async def report(self, request: ReportWarningsRequest) -> bool:
        """Tells what was warned of. Whether that is done with: also where an older allocator does not know the call."""
        try:
            await self._stub.ReportWarnings(request, timeout=REPORT_PATIENCE)
        except grpc.aio.AioRpcError as error:
            return error.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT}
        return True

    async def address(self, node: str, *, deadline: float) -> GetNodeAddressResponse | None:
        """Where clients dial a node; None where that is not known, or nobody says in time: a Pod waits for its node."""
        patience = min(ADDRESS_PATIENCE, deadline - asyncio.get_running_loop().time())
        try:
            return await self._stub.GetNodeAddress(GetNodeAddressRequest(node=node), timeout=max(0.0, patience))
        except grpc.aio.AioRpcError as error:
            log.info("no address of node %s: %s %s", node, error.code().name, error.details())
            return None

    async def _ask_alone(self, request: AllocateRequest, deadline: float) -> Outcome:
        """A call of its own: waits for a connection, and is repeated."""
        patience = deadline - asyncio.get_running_loop().time()
        with self._doctor.waiting():
            try:
                return await self._stub.Allocate(request, timeout=patience, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                return outcome_of(error)

    def _is_connected(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    def _explained(self, outcome: Outcome) -> Outcome:
        """A failure for which the certificates are the reason says so."""
        is_unknown = isinstance(outcome, Unreachable) and outcome.reason == Reason.ALLOCATOR_UNREACHABLE
        if not (is_unknown and (trouble := self._doctor.trouble)):
            return outcome
        return Unreachable(Reason.TLS_FAILED, f"no TLS with the allocator {self._address}: {trouble}")

    def refresh(self) -> None:
        """Takes up credentials that changed on disk: a new channel, while calls end on the old one."""
        if not (self._watch.changed() or self._credentials.is_due()):
            return
        credentials = self._credentials.load()
        if self._watch.changed():
            self._watch.forget()  # swapped while they were read, so half of them may be old: the next look reads again
            return
        old, self._channel = self._channel, self._connect(credentials)
        self._stub = AllocatorServiceStub(self._channel)
        self._stream.end()
        self._stream = AskStream(self._stub)
        closing = asyncio.get_running_loop().create_task(old.close(grace=CLOSING_GRACE))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Ends the stream and the channel. Calls that are under way fail; a channel that was replaced ends first."""
        self._stream.end()
        await self._doctor.close()
        await asyncio.gather(self._channel.close(grace=None), *self._closing)

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options)


def outcome_of(error: grpc.aio.AioRpcError) -> Refusal | Unreachable:
    """What an error means for the Pod."""
    return _outcome(error.code(), error.details() or "", status_of(error))


def _outcome(code: grpc.StatusCode, message: str, status: Status) -> Refusal | Unreachable:
    told = read_status(status)
    if told is None:
        return _unreachable(f"{code.name}: {message}")
    refused = REFUSAL_STATUSES.get(code.value[0])
    if refused is None:
        return Unreachable(told.reason, message or code.name)
    return Refusal(refused, told.mistakes or (Mistake(told.reason, "", message),))


def _unreachable(message: str) -> Unreachable:
    return Unreachable(Reason.ALLOCATOR_UNREACHABLE, f"no answer from the allocator: {message}")


log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
UNKNOWN_SECONDS = 30.0
"""How long an allocator of an older version is not asked again whether it knows the stream."""

LARGEST_ASK = 1 << 15
"""Bytes. A message with as many as travel together must stay below 1 MiB."""

StreamAnswer: TypeAlias = AllocateResponse | Status


class AskStream:
    """One stream at a time. Must be used inside one event loop."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._asks: asyncio.Queue[AllocateStreamRequest | None] = asyncio.Queue()  # each a message of one ask
        self._waiting: dict[int, asyncio.Future[StreamAnswer | None]] = {}
        self._tags = itertools.count(1)
        self._running: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def ask(self, request: AllocateRequest, deadline: float) -> StreamAnswer | None:
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


def _give_up_on(answer: asyncio.Future[StreamAnswer | None]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
