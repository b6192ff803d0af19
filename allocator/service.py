"""AllocatorService on grpc.aio: parse, hand to the engine, answer. Nothing is decided here.

Every refusal leaves as one status with google.rpc details; the mapping from our errors to statuses is `_answering`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from google.rpc import status_pb2
from msgspec.structs import replace

from allocator.access.guard import Guard
from allocator.access.rights import Verb, unseen
from allocator.allocating import Allocating
from allocator.core.asks import Mistake, Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, State
from allocator.core.ledger import Ledger
from allocator.core.ordered import Ordered
from allocator.decisions import Decisions
from allocator.engine import Engine, UnavailableError
from allocator.metrics import Metrics
from allocator.reports import Reports
from allocator.slices import Pace, slices
from allocator.status import Status
from allocator.streams import Streams
from allocator.watchers import Change, Watcher, Watchers
from allocator.wire import (
    STATES,
    Held,
    held_ports,
    merged,
    parse_slot,
    parse_ttl,
    to_allocation,
    to_status,
    to_timestamp,
    write_held_port,
)
from hostport.contract import Reason
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

DEFAULT_PAGE, MAX_PAGE = 100, 1000
AT_ONCE = 128
"""Claims that are looked at before the clock is."""
UNREAD_SECONDS = 30.0

MOST_TOGETHER = 256
"""Events in a message."""

W = pb.WatchAllocationsResponse

Context = grpc.aio.ServicerContext[Any, Any]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class AllocatorService(pb_grpc.AllocatorServiceServicer):
    """See proto/hostport/v1/allocator.proto for what each call promises."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        reports: Reports,
        status: Status,
        guard: Guard,
        decisions: Decisions,
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._status = status
        self._reports = reports
        self._allocating = Allocating(engine, metrics, reports, guard, decisions, status.callers)
        self._streams = Streams()
        self._watchers = Watchers(engine.ledger)
        self._turn = asyncio.Lock()  # of those who look at much

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateResponse:  # noqa: N802
        result = await self._allocating.answer(request, context, _wanted(context))
        if isinstance(result, status_pb2.Status):
            # gRPC keeps the exception that ends a call, with this frame, until the next look for garbage.
            del request
            await _abort(context, result)
        return result

    async def AllocateStream(  # type: ignore[override]  # noqa: N802 - the stubs know generators alone
        self, requests: AsyncIterator[pb.AllocateStreamRequest], context: Context
    ) -> None:

        async def answer(
            request: pb.AllocateRequest, is_wanted: Callable[[], bool]
        ) -> pb.AllocateResponse | status_pb2.Status:
            return await self._allocating.answer(request, context, is_wanted)

        async with _answering(context):
            await self._guard.streaming(context)
            async with aclosing(self._streams.answers(requests, answer)) as answers:
                async for response in answers:
                    if not await _sent(context, response):
                        message = (
                            f"the answers of this stream were not read for {UNREAD_SECONDS:g} s. Open another one, and"
                            " ask again with the same request_ids what was not answered"
                        )
                        raise Refused(Mistake(Reason.STREAM_UNREAD, "", message))

    def finish_streams(self) -> None:
        """They would go on for ever: ends them when they owe no answer."""
        self._streams.finish()

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:  # noqa: N802
        async with _answering(context):
            claim_id = _claim_id(request.id)
            await self._guard.ending(context, claim_id, self._engine.ledger.get(claim_id))
            await self._engine.release(claim_id)
        return pb.ReleaseResponse()

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:  # noqa: N802
        async with _answering(context):
            claim_id = _claim_id(request.id)
            await self._guard.renewing(context, claim_id, self._engine.ledger.get(claim_id))
            claim = await self._engine.renew(claim_id, parse_ttl(request))
        return pb.RenewResponse(allocation=to_allocation(claim, ahead=self._engine.ahead))

    async def GetAllocation(  # noqa: N802
        self, request: pb.GetAllocationRequest, context: Context
    ) -> pb.GetAllocationResponse:
        async with _answering(context):
            claim_id = _claim_id(request.id)
            await self._guard.seeing(context, claim_id, self._engine.ledger.get(claim_id))
            self._engine.check_serving()
            claim = self._engine.ledger.get(claim_id)
            if claim is None:
                raise unseen(claim_id)
        return pb.GetAllocationResponse(
            allocation=self._allocation(claim),
            candidate_count=self._engine.ledger.candidate_count(claim),
            range=pb.PortRange(min=claim.range[0], max=claim.range[1]) if claim.range else None,
        )

    async def ListAllocations(  # noqa: N802
        self, request: pb.ListAllocationsRequest, context: Context
    ) -> pb.ListAllocationsResponse:
        async with _answering(context):
            await self._guard.listing(context, request.namespace)
            self._engine.check_serving()
            size, after = _page(request)
            found, token = await self._found(request, size, after)
        return pb.ListAllocationsResponse(allocations=found, next_page_token=token)

    async def _found(
        self, request: pb.ListAllocationsRequest, size: int, after: str
    ) -> tuple[list[pb.Allocation], str]:
        """A page and the token of the next. Claims that come and go meanwhile may be in it or not."""
        ledger, found, pace = self._engine.ledger, list[pb.Allocation](), Pace(self._turn)
        within = _on_node(ledger, request.node) if request.node else None
        while ids := within.after(after, AT_ONCE) if within else ledger.ids_after(after, AT_ONCE):
            for claim in filter(None, map(ledger.get, ids)):
                if not _selects(request, claim):
                    continue
                if len(found) == size:
                    return found, _token(found[-1].id)
                found.append(self._allocation(claim))
                await pace.rest()
            after = ids[-1]
            await pace.rest()
            self._engine.check_serving()
        return found, ""

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:  # noqa: N802
        async with _answering(context):
            await self._guard.looking_everywhere(context, Verb.LIST)
            self._engine.check_serving()
            size, after = _page(request)
            names = self._engine.ledger.node_names_after(after, size + 1)
            nodes, pace = list[pb.Node](), Pace(self._turn)
            for name in names[:size]:
                nodes.append(self._node(name))
                await pace.rest()
        token = _token(names[size - 1]) if len(names) > size else ""
        return pb.ListNodesResponse(nodes=nodes, next_page_token=token)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:  # noqa: N802
        async with _answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
            self._engine.check_serving()
            name = self._known_name(request.name, "name")
            response, pace = pb.GetNodeResponse(node=self._node(name)), Pace(self._turn)
            await pace.rest()
            held: list[list[Held]] = []
            for claims in slices(self._claims_on(name), lambda claim: len(claim.ports)):
                held.append(held_ports(claims))
                await pace.rest()
            for each in merged(held):
                write_held_port(each, response.ports.add())
                await pace.rest()
        return response

    async def WatchAllocations(  # type: ignore[override]  # noqa: N802 - the stubs know generators alone
        self, request: pb.WatchAllocationsRequest, context: Context
    ) -> None:
        async with _answering(context):
            await self._guard.listing(context, request.namespace)
            self._engine.check_serving()
            with self._watchers.watch(partial(_is_watched, request)) as watcher:
                pace = Pace(self._turn)
                await self._send_snapshot(watcher, context, pace, is_batched=request.batches)
                await _send(context, [W(type=W.TYPE_SYNCED)], pace, is_batched=False)
                while not watcher.is_behind:
                    changes = await watcher.changes()
                    await pace.begin()
                    events = []
                    for change in changes:
                        events.append(self._change(change))
                        if pace.is_over or len(events) == MOST_TOGETHER:
                            break
                    await _send(context, events, pace, is_batched=request.batches)
            raise _behind()

    async def _send_snapshot(self, watcher: Watcher, context: Context, pace: Pace, *, is_batched: bool) -> None:
        events = list[W]()
        while (claims := watcher.snapshot()) is not None:
            for claim in claims:
                events.append(self._event(W.TYPE_SNAPSHOT, claim))
                if pace.is_over or len(events) == MOST_TOGETHER:
                    await _send(context, events, pace, is_batched=is_batched)
                    events.clear()
                    await pace.begin()
            await pace.rest()
        await _send(context, events, pace, is_batched=is_batched)

    def _change(self, change: Change) -> W:
        if change.is_end:
            return self._event(W.TYPE_RELEASED, replace(change.claim, state=State.RELEASED))
        return self._event(W.TYPE_CHANGED, change.claim)

    def _event(self, kind: W.Type.ValueType, claim: Claim) -> W:
        return W(type=kind, allocation=self._allocation(claim))

    async def ExplainPort(  # noqa: N802
        self, request: pb.ExplainPortRequest, context: Context
    ) -> pb.ExplainPortResponse:
        async with _answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
            self._engine.check_serving()
            protocol, number = parse_slot(request)
            name = self._known_name(request.node, "node")
        return pb.ExplainPortResponse(
            holders=[
                pb.ExplainPortResponse.Holder(
                    allocation=self._allocation(claim), since=to_timestamp(claim.settled_at or claim.created)
                )
                for claim in self._engine.ledger.holders(name, protocol, number)
            ]
        )

    async def ReportWarnings(  # noqa: N802
        self, request: pb.ReportWarningsRequest, context: Context
    ) -> pb.ReportWarningsResponse:
        async with _answering(context):
            await self._guard.reporting(context)
            self._engine.check_serving()
            self._reports.warned(request)
        return pb.ReportWarningsResponse()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: N802
        async with _answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
        return self._status.response()

    def _known_name(self, name: str, field: str) -> NodeName:
        if not self._engine.ledger.has_node(name):
            message = f"no node {name[:64]}. ListNodes tells the names"
            raise Refused(Mistake(Reason.NODE_NOT_FOUND, field, message))
        return NodeName(name)

    def _allocation(self, claim: Claim) -> pb.Allocation:
        engine = self._engine
        return to_allocation(claim, ahead=engine.ahead, unplaceable=engine.ledger.is_unplaceable(claim))

    def _claims_on(self, name: NodeName) -> list[Claim]:
        ledger = self._engine.ledger
        return list(filter(None, map(ledger.get, ledger.ids_on(name))))

    def _node(self, name: NodeName) -> pb.Node:
        held = self._engine.ledger.held_by_slot(name)
        return pb.Node(
            name=name,
            known=self._engine.ledger.is_known_node(name),
            allocation_count=len({claim.id for claims in held for claim in claims}),
            held_port_count=len(held),
        )


# -- watches


async def _send(context: Context, events: list[W], pace: Pace, *, is_batched: bool) -> None:
    """Sends events, in one message where that is batched.

    Many messages one after the other keep the loop and gRPC's own thread busy without a long turn: others rest between.

    Raises:
        Refused: the watcher takes nothing for so long that its queue only grows.

    """
    if is_batched and events:
        first, *further = events
        first.further.extend(further)
        events = [first]
    for event in events:
        if not await _sent(context, event):
            raise _behind()
        await pace.rest()


async def _sent(context: Context, message: Any) -> bool:
    """Whether a message of a stream was taken in time."""
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(message)
    except TimeoutError:
        return False
    return True


def _behind() -> Refused:
    message = "this watcher did not read its events in time, so that some are missing. Watch again"
    return Refused(Mistake(Reason.WATCH_BEHIND, "", message))


# -- errors


@asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turns our errors into statuses, at the edge and nowhere else."""
    try:
        yield
    except Refused as refused:
        await _abort(context, to_status(refused.mistakes))
    except UnavailableError as error:
        await _abort(context, to_status([Mistake(error.reason, "", str(error))]))


async def _abort(context: Context, status: status_pb2.Status) -> NoReturn:
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailers)


def _wanted(context: Context) -> Callable[[], bool]:
    """Whether the caller still waits."""
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
    deadline = None if remaining is None else time.monotonic() + remaining

    def is_wanted() -> bool:
        return not context.cancelled() and (deadline is None or time.monotonic() < deadline)

    return is_wanted


# -- pages


def _page(request: pb.ListAllocationsRequest | pb.ListNodesRequest) -> tuple[int, str]:
    """(page size, the last key of the page before).

    Raises:
        Refused: the size is negative or the token is not one of ours.

    """
    if request.page_size < 0:
        message = f"page_size {request.page_size} is negative"
        raise Refused(Mistake(Reason.INVALID_PAGE, "page_size", message))
    size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    if not request.page_token:
        return size, ""
    try:
        kind, after = base64.urlsafe_b64decode(request.page_token.encode()).decode().split(":", 1)
    except ValueError:
        kind, after = "", ""
    if kind != "after":
        message = f"page_token {request.page_token[:64]!r} is not one that this service gave"
        raise Refused(Mistake(Reason.INVALID_PAGE, "page_token", message))
    return size, after


def _token(after: str) -> str:
    """Of the page that begins beyond a key, whatever comes and goes until it is asked for."""
    return base64.urlsafe_b64encode(f"after:{after}".encode()).decode()


def _on_node(ledger: Ledger, name: str) -> Ordered[ClaimId]:
    """The claims on a node, in the order of ids."""
    found: Ordered[ClaimId] = Ordered()
    for claim_id in ledger.ids_on(NodeName(name)):
        found.add(claim_id)
    return found


def _is_watched(request: pb.WatchAllocationsRequest, claim: Claim) -> bool:
    return request.node in ("", claim.node) and request.namespace in ("", claim.owner.namespace)


def _selects(request: pb.ListAllocationsRequest, claim: Claim) -> bool:
    return (
        request.node in ("", claim.node)
        and request.namespace in ("", claim.owner.namespace)
        and request.owner_name in ("", claim.owner.name)
        and request.state in (pb.STATE_UNSPECIFIED, STATES[claim.state])
    )


def _claim_id(text: str) -> ClaimId:
    if not text:
        raise Refused(Mistake(Reason.INVALID_REQUEST, "id", "id is missing"))
    return ClaimId(text)
