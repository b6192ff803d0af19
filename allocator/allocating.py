"""What Allocate does with one ask, whichever way it came: as a call of its own, or with others on a stream.

Whatever comes of it is counted and told in one canonical line, here and once, when the answer is on its way: nobody
waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
from google.rpc import status_pb2

from allocator.access.guard import Guard
from allocator.core.asks import Ask, Mistake, Refused, Warned
from allocator.core.claims import Claim
from allocator.decisions import Decisions
from allocator.engine import Engine, RequestMark, UnavailableError
from allocator.metrics import Metrics
from allocator.reports import Reports
from allocator.status import Callers
from allocator.wire import digest, parse_allocate, seal, to_status
from hostport.bounds import LONGEST_NAME, LONGEST_REQUEST_ID
from hostport.contract import Notice
from hostport.logs import tell
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_POLICY_NAMES = {value: name.removeprefix("POLICY_") for name, value in pb.Policy.items()}


class Allocating:
    """See the module."""

    def __init__(
        self, engine: Engine, metrics: Metrics, reports: Reports, guard: Guard, decisions: Decisions, callers: Callers
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._reports = reports
        self._guard = guard
        self._decisions = decisions
        self._callers = callers

    async def answer(
        self, request: pb.AllocateRequest, context: Context, is_wanted: Callable[[], bool]
    ) -> pb.AllocateResponse | status_pb2.Status:
        """What was allocated, or why not. `is_wanted` is asked just before the commit."""
        began = time.perf_counter()

        def tell_soon(result: str, **more: Any) -> None:
            seconds = time.perf_counter() - began
            # Not in the next turn of the event loop but in the one after it: a stream's answers leave in the next.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, partial(self._tell, request, result, seconds, **more))

        try:
            response = await self._allocate(request, context, is_wanted)
        except Refused as refused:
            tell_soon("refused", reason=refused.mistakes[0].reason.name, detail=str(refused))
            self._reports.denied(request, refused)
            return to_status(refused.mistakes)
        except UnavailableError as error:
            tell_soon("unavailable", reason=error.reason.name, detail=str(error))
            return to_status([Mistake(error.reason, "", str(error))])
        tell_soon("previewed" if request.dry_run else "granted", got=response.allocation)
        return response

    async def _allocate(
        self, request: pb.AllocateRequest, context: Context, is_wanted: Callable[[], bool]
    ) -> pb.AllocateResponse:
        caller = await self._guard.allocating(context, request.owner)
        self._callers.note(context)
        ask = parse_allocate(request).within(self._engine.lease_namespace)

        def seal_with_notes(claim: Claim, warnings: Sequence[Warned]) -> bytes:
            return seal(claim, [*warnings, *self._notes(ask)], ahead=self._engine.ahead)

        if request.dry_run:
            return pb.AllocateResponse.FromString(self._engine.preview(ask, seal_with_notes))
        mark = RequestMark(caller.own(request.request_id), digest(request)) if request.request_id else None
        sealed = await self._engine.allocate(ask, mark=mark, seal=seal_with_notes, is_wanted=is_wanted)
        return pb.AllocateResponse.FromString(sealed)

    def _notes(self, ask: Ask) -> Iterator[Warned]:
        level = self._engine.enforced.get(ask.owner.namespace) if ask.owner.is_pod else None
        if level:
            message = (
                f"namespace {ask.owner.namespace} enforces Pod Security {level}, which refuses host ports:"
                " the Pod will not be created"
            )
            yield Warned(Notice.POD_SECURITY, message)

    def _tell(
        self,
        request: pb.AllocateRequest,
        result: str,
        seconds: float,
        *,
        reason: str = "",
        detail: str = "",
        got: pb.Allocation | None = None,
    ) -> None:
        """Counts an answer, keeps it for the status page, and writes its canonical line."""
        policy = _POLICY_NAMES.get(request.policy, "UNKNOWN")
        self._metrics.allocations.inc(policy, result, reason)
        self._metrics.allocate_seconds.observe(seconds)
        owner = request.owner
        allocation_id = got.id if got else request.allocation_id[:LONGEST_NAME]
        kind, namespace = owner.kind[:LONGEST_NAME], owner.namespace[:LONGEST_NAME]
        name = owner.name[:LONGEST_NAME] or f"{owner.generate_name[:LONGEST_NAME]}*"
        numbers = [port.host_port for port in got.ports] if got else []
        self._decisions.note(
            at=self._engine.wall(),
            owner=(kind, namespace, name),
            policy=policy,
            result=result,
            reason=reason,
            detail=detail,
            numbers=numbers,
            node=got.node if got else "",
            allocation_id=allocation_id,
            seconds=seconds,
        )
        if not log.isEnabledFor(logging.INFO):
            return
        tell(
            log,
            "allocate",
            request_id=request.request_id[:LONGEST_REQUEST_ID],
            allocation_id=allocation_id,
            kind=kind,
            namespace=namespace,
            name=name,
            policy=policy,
            result=result,
            reason=reason,
            numbers=numbers,
            node=got.node if got else "",
            ms=round(seconds * 1000, 2),
            detail=detail,
        )
