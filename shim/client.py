"""The wire to the allocator: one channel, deadlines, and what an error means for the Pod.

Rules:

* A refusal is an answer: INVALID_ARGUMENT, FAILED_PRECONDITION and RESOURCE_EXHAUSTED in our domain deny the Pod. All
  else, words of ours or not, means that nothing is known, and the webhook's failurePolicy decides.
* Asks share one stream, so that many of them cost little more than one; see `shim.stream`. What the stream cannot do is
  done by a call of its own.
* Calls go to an allocator whose health says that it serves. With replicas there is a connection to each: when another
  takes over, a call goes there at once, and no connection has to be made first. Each is known by the certificate's name
  that the address of the one allocator has.
* Nothing waits past the caller's deadline. Within it a call waits for a connection, and is repeated when the allocator
  went away under it: request_id makes that safe, and the channel's throttle keeps it from becoming a storm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from hostport.contract import DOMAIN, Reason
from hostport.credentials import Credentials
from hostport.files import FileWatch
from hostport.flags import Address
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse, ReportWarningsRequest
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub
from hostport.version import program_version
from shim.handshake import Doctor
from shim.outcomes import Mistake, Refused, Unreachable
from shim.stream import AskStream

ADMISSION_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.FAILED_PRECONDITION: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 403,
}
"""The refusals, by their code, and the status code that the admission answer gives."""

UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]
_CODES = {code.value[0]: code for code in grpc.StatusCode}

CLOSING_GRACE = 30.0
"""Seconds that calls under way have when their channel is replaced or closed: no deadline is longer."""

REPORT_PATIENCE = 5.0
"""Seconds that warnings have to be told. Nobody waits for it."""

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
    ("grpc.primary_user_agent", f"hostport-shim/{program_version()}"),
    # By default the pause between attempts grows to two minutes: as long would a shim stay blind after an outage. There
    # is one allocator and a handful of shims, so asking often costs nobody anything. The minimum is the time that one
    # attempt may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 300),
    # A node that dies says no goodbye.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
)


class AllocatorClient:
    """Asks the allocator. Must be made and used inside one event loop."""

    def __init__(self, address: Address, credentials: Credentials, *, replicas: str = "") -> None:
        """`replicas`: a gRPC target that resolves to every allocator; empty: `address` is the one that serves.

        Raises:
            OSError: a credential file cannot be read.

        """
        self._address = address
        self._target = replicas or str(address)
        self._options: tuple[tuple[str, str | int], ...] = CHANNEL_OPTIONS
        if replicas:
            self._options += (
                ("grpc.default_authority", str(address)),
                ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a new replica has a new address
            )
        self._credentials = credentials
        self._watch = FileWatch(credentials.files)
        self._doctor = Doctor(address, credentials, self._is_connected)
        self._closing: set[asyncio.Task[None]] = set()
        self._channel = self._connect(credentials.load())
        self._stub = AllocatorServiceStub(self._channel)
        self._stream = AskStream(self._stub)

    async def allocate(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        """Asks once; `deadline` is a time of the event loop's clock."""
        clock = asyncio.get_running_loop().time
        if clock() >= deadline:
            return _unreachable("no time was left to ask the allocator")
        try:
            answer = await self._stream.ask(request, deadline)
        except TimeoutError:
            return self._explained(_unreachable("DEADLINE_EXCEEDED: it did not answer in time"))
        if isinstance(answer, AllocateResponse):
            return answer
        if answer is not None and answer.code != UNAVAILABLE:
            return _outcome(_CODES[answer.code], answer.message, answer)
        return self._explained(await self._ask_alone(request, deadline))

    async def report(self, request: ReportWarningsRequest) -> bool:
        """Tells what was warned of. Whether that is done with: also where an older allocator does not know the call."""
        try:
            await self._stub.ReportWarnings(request, timeout=REPORT_PATIENCE)
        except grpc.aio.AioRpcError as error:
            return error.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT}
        return True

    async def _ask_alone(self, request: AllocateRequest, deadline: float) -> AllocateResponse | Refused | Unreachable:
        """A call of its own: waits for a connection, and is repeated."""
        patience = deadline - asyncio.get_running_loop().time()
        with self._doctor.waiting():
            try:
                return await self._stub.Allocate(request, timeout=patience, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                return outcome_of(error)

    def _is_connected(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    def _explained(self, outcome: AllocateResponse | Refused | Unreachable) -> AllocateResponse | Refused | Unreachable:
        """A failure for which the certificates are the reason says so."""
        is_unknown = isinstance(outcome, Unreachable) and outcome.reason == Reason.ALLOCATOR_UNREACHABLE.name
        if not (is_unknown and (trouble := self._doctor.trouble)):
            return outcome
        return Unreachable(Reason.TLS_FAILED.name, f"no TLS with the allocator {self._address}: {trouble}")

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
        self._stream.end()
        await self._doctor.close()
        await asyncio.gather(self._channel.close(grace=None), *self._closing)

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options)


def outcome_of(error: grpc.aio.AioRpcError) -> Refused | Unreachable:
    """What an error means for the Pod."""
    return _outcome(error.code(), error.details() or "", _status(error))


def _outcome(code: grpc.StatusCode, message: str, status: status_pb2.Status) -> Refused | Unreachable:
    details = list(_details(status))
    info = next((each for each in details if isinstance(each, error_details_pb2.ErrorInfo)), None)
    if info is None or info.domain != DOMAIN:
        return _unreachable(f"{code.name}: {message}")
    if code not in ADMISSION_CODES:
        return Unreachable(info.reason, message or code.name)
    violations = [
        Mistake(each.reason or info.reason, each.field, each.description)
        for request in details
        if isinstance(request, error_details_pb2.BadRequest)
        for each in request.field_violations
    ]
    return Refused(ADMISSION_CODES[code], tuple(violations) or (Mistake(info.reason, "", message),))


def _details(status: status_pb2.Status) -> Iterable[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest]:
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            detail = kind()
            if packed.Is(kind.DESCRIPTOR) and packed.Unpack(detail):
                yield detail


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status; an empty one where there is none that can be believed."""
    try:
        return rpc_status.from_call(cast("grpc.Call", error)) or status_pb2.Status()
    except ValueError:
        return status_pb2.Status()


def _unreachable(message: str) -> Unreachable:
    return Unreachable(Reason.ALLOCATOR_UNREACHABLE.name, f"no answer from the allocator: {message}")
