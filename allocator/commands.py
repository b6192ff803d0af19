"""The calls that change something, on grpc.aio: parse, hand to the engine, answer. Nothing is decided here.

Rules:

* An ask is one Allocate, whichever way it came: as a call of its own, or with others on a stream.
* What becomes of an ask is counted and told in one canonical line, here and once, when the answer is on its way:
  nobody waits for that.
* A response is serialised once, by `wire.encode_response`. The bytes that are journalled go on the wire.
* A refusal leaves as one status with google.rpc details, by `answering` and `_answer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from allocator.access.guard import Guard
from allocator.agents import Agents
from allocator.core.asks import NotServedError, Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId
from allocator.decisions import MOST_DETAIL, MOST_NUMBERS, Decision, Decisions
from allocator.engine import Engine
from allocator.idempotency import Granted, IdempotencyKey
from allocator.journal.contract import NotWantedError
from allocator.metrics import AllocatorMetrics
from allocator.reports import Reports
from allocator.status import Status
from allocator.streams import Streams
from allocator.wire import digest, encode_response, parse_allocate, parse_ttl, to_allocation
from hostport.contract import Mistake, Reason
from hostport.contract.failed_calls import STATUS_CODES
from hostport.contract.limits import LONGEST_NAME, LONGEST_REQUEST_ID
from hostport.contract.status import to_status
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

UNREAD_SECONDS = 30.0

Context = grpc.aio.ServicerContext[Any, Any]

_POLICY_NAMES = {value: name.removeprefix("POLICY_") for name, value in pb.Policy.items()}


class CommandCalls(pb_grpc.AllocatorServiceServicer):
    """See the module, and proto/hostport/v1/allocator.proto for what each call promises."""

    def __init__(
        self,
        engine: Engine,
        metrics: AllocatorMetrics,
        reports: Reports,
        status: Status,
        guard: Guard,
        decisions: Decisions,
        *,
        agents: Agents,
        lease_namespace: str = "",
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._reports = reports
        self._status = status
        self._guard = guard
        self._decisions = decisions
        self._agents = agents
        self._lease_namespace = lease_namespace  # of leases whose owners name none
        self._streams = Streams()

    async def Allocate(  # type: ignore[override]  # noqa: N802 - the stubs know messages alone
        self, request: pb.AllocateRequest, context: Context
    ) -> bytes:
        """Allocates ports; gives a serialised AllocateResponse."""
        outcome = await self._answer(context, request, _wanted(context))
        if isinstance(outcome, status_pb2.Status):
            # gRPC keeps the exception that ends a call, with this frame, until the next look for garbage.
            del request
            await _abort(context, outcome)
        return outcome

    async def AllocateStream(  # type: ignore[override]  # noqa: N802 - the stubs know generators alone
        self, requests: AsyncIterator[pb.AllocateStreamRequest], context: Context
    ) -> None:
        """Answers each ask of a stream as `Allocate` would, in whatever order they are ready.

        A Refused is the status with which the stream ends.
        """
        async with answering(context):
            await self._guard.streaming(context)
            async with aclosing(self._streams.answers(requests, partial(self._answer, context))) as answers:
                async for response in answers:
                    if not await sent(context, response):
                        message = (
                            f"the answers of this stream were not read for {UNREAD_SECONDS:g} s. Open another one, and"
                            " ask again with the same request_ids what was not answered"
                        )
                        raise Refused(Mistake(Reason.STREAM_UNREAD, "", message))

    def finish_streams(self) -> None:
        """They would go on for ever: ends those of shims when they owe no answer, and those of agents at once."""
        self._streams.finish()
        self._agents.finish()

    async def ReportNode(  # type: ignore[override]  # noqa: N802 - the stubs know generators alone
        self, requests: AsyncIterator[pb.ReportNodeRequest], context: Context
    ) -> None:
        """What the agent of a node reports, until it goes or another stream of its node begins."""
        async with answering(context):
            try:
                own = await self._guard.speaking(context)
            except Refused as refused:
                self._agents.refused[refused.mistakes[0].reason] += 1
                raise
            self._engine.check_serving()
            await self._agents.follow(requests, NodeName(own) if own is not None else None, partial(sent, context))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:  # noqa: N802
        """Ends an allocation. One that is gone is released already."""
        async with answering(context):
            claim_id = claim_id_of(request.id)
            await self._guard.ending(context, claim_id, self._engine.ledger.claims.get(claim_id))
            await self._engine.release(claim_id)
        return pb.ReleaseResponse()

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:  # noqa: N802
        """Gives a lease a new end."""
        async with answering(context):
            claim_id = claim_id_of(request.id)
            await self._guard.renewing(context, claim_id, self._engine.ledger.claims.get(claim_id))
            claim = await self._engine.renew(claim_id, parse_ttl(request))
        return pb.RenewResponse(allocation=to_allocation(claim, ahead=self._engine.clock.ahead))

    # -- an ask

    async def _answer(
        self, context: Context, request: pb.AllocateRequest, is_wanted: Callable[[], bool]
    ) -> bytes | status_pb2.Status:
        """A serialised AllocateResponse, or why not. `is_wanted` is asked just before the commit."""
        began = time.perf_counter()
        try:
            granted = await self._allocate(context, request, is_wanted)
        except Refused as refused:
            self._tell_soon(request, "refused", began, reason=refused.mistakes[0].reason, detail=str(refused))
            self._reports.denied(request, refused)
            return to_status(refused.mistakes)
        except NotServedError as error:
            self._tell_soon(request, "unavailable", began, reason=error.reason.name, detail=str(error))
            return to_status([Mistake(error.reason, "", str(error))])
        self._tell_soon(request, "previewed" if request.dry_run else "granted", began, granted=granted)
        return granted.response

    async def _allocate(self, context: Context, request: pb.AllocateRequest, is_wanted: Callable[[], bool]) -> Granted:
        caller = await self._guard.allocating(context, request.owner)
        own_id = caller.own(request.request_id)
        self._status.callers.note(context)
        ask = parse_allocate(request, self._lease_namespace)

        encode = partial(encode_response, asked=ask.constraints)
        if request.dry_run:
            return self._engine.preview(ask, encode)
        key = IdempotencyKey(own_id, digest(request)) if own_id else None
        if not is_wanted():  # nothing is decided for a caller that has gone
            raise NotWantedError
        return await self._engine.allocate(ask, key=key, encode=encode, is_wanted=is_wanted)

    def _tell_soon(self, request: pb.AllocateRequest, result: str, began: float, **more: Any) -> None:
        """Has an answer told not in the next turn of the event loop but after it: a stream's answers leave in that."""
        seconds = time.perf_counter() - began
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, partial(self._tell, request, result, seconds, **more))

    def _tell(
        self,
        request: pb.AllocateRequest,
        result: str,
        seconds: float,
        *,
        reason: str = "",
        detail: str = "",
        granted: Granted | None = None,
    ) -> None:
        """Counts an answer, keeps it for the status page, and writes its canonical line."""
        policy = _POLICY_NAMES.get(request.policy, "UNKNOWN")
        self._metrics.allocations[policy, result, reason].inc()
        self._metrics.allocate_seconds.observe(seconds)
        owner = request.owner
        kind, namespace = owner.kind[:LONGEST_NAME], owner.namespace[:LONGEST_NAME]
        name = owner.name[:LONGEST_NAME] or f"{owner.generate_name[:LONGEST_NAME]}*"
        allocation_id, node, numbers = _contents(granted) if granted else (request.allocation_id[:LONGEST_NAME], "", [])
        told: dict[str, Any] = {
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "policy": policy,
            "result": result,
            "reason": reason,
        }
        self._decisions.total += 1
        self._decisions.ring.append(
            Decision(
                number=self._decisions.total,
                at=self._engine.clock.wall(),
                **told,
                detail=detail[:MOST_DETAIL],
                numbers=tuple(numbers[:MOST_NUMBERS]),
                ports=len(numbers),
                node=node,
                allocation_id=allocation_id,
                seconds=seconds,
            )
        )
        if not log.isEnabledFor(logging.INFO):
            return
        log_event(
            log,
            "allocate",
            request_id=request.request_id[:LONGEST_REQUEST_ID],
            allocation_id=allocation_id,
            **told,
            numbers=numbers,
            node=node,
            ms=round(seconds * 1000, 2),
            detail=detail,
        )


def _contents(granted: Granted) -> tuple[str, str, list[int]]:
    """The id, the node and the numbers of what was granted. Only an answer that was kept has to be read again."""
    claim = granted.claim
    if claim is not None:
        return claim.id, claim.node or "", [port.host_port for port in claim.ports]
    allocation = pb.AllocateResponse.FromString(granted.response).allocation
    return allocation.id, allocation.node, [port.host_port for port in allocation.ports]


def claim_id_of(text: str) -> ClaimId:
    """The id that a request names.

    Raises:
        Refused: it names none.

    """
    if not text:
        raise Refused(Mistake(Reason.INVALID_REQUEST, "id", "id is missing"))
    return ClaimId(text)


def _wanted(context: Context) -> Callable[[], bool]:
    """Whether the caller still waits."""
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
    deadline = None if remaining is None else time.monotonic() + remaining

    def is_wanted() -> bool:
        return not context.cancelled() and (deadline is None or time.monotonic() < deadline)

    return is_wanted


async def sent(context: Context, message: Any) -> bool:
    """Whether a message of a stream was taken within `UNREAD_SECONDS`."""
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(message)
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """Ends a call with the status of what is raised: of Refused, or of NotServedError."""
    try:
        yield
    except Refused as refused:
        await _abort(context, to_status(refused.mistakes))
    except NotServedError as error:
        await _abort(context, to_status([Mistake(error.reason, "", str(error))]))


async def _abort(context: Context, status: status_pb2.Status) -> NoReturn:
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(STATUS_CODES[status.code], status.message, trailers)


# -- the server


def add_to_server(service: pb_grpc.AllocatorServiceServicer, server: grpc.aio.Server) -> None:
    """Serves the calls. In place of the generated function: a response may be bytes that were serialised before.

    No method is registered by itself, as the generated function does: grpc.aio waits for the next call of each method
    that is, and after each call it waits anew for all of them. With nine methods that was a twentieth of a call.
    """
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    description = pb.DESCRIPTOR.services_by_name["AllocatorService"]
    handlers = {
        method.name: kinds[method.client_streaming, method.server_streaming](
            getattr(service, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=_serialise,
        )
        for method in description.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(description.full_name, handlers),))


def _serialise(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()
