"""HTTP: reviews come in at /mutate; health and metrics are served beside it.

Rules:

* Every request is answered, with a Status of one line where it is no review, and before the API server gives up: the
  deadline counts from the headers, whatever has to be done.
* What is refused for its form is still read to its end, up to a bound, so that the client reads the answer rather than
  a reset connection.
* A request counts as under way from its headers to its answer; more than `max_concurrent` of them, or more bytes of
  bodies than `MOST_BYTES`, are turned away at once, since a queue would only make all of them late.
* Liveness and readiness never ask the allocator: with it gone, a restarted or unlisted shim helps nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado.web import Application, RequestHandler, stream_request_body

from hostport.contract import Reason
from hostport.flags import duration
from hostport.logs import tell
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import Answer, admit
from shim.answers import failure
from shim.metrics import Metrics
from shim.outcomes import About, Refused, Unreachable
from shim.review import ReviewError

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode

LARGEST_REVIEW = 3 << 20
"""Bytes. The API server's own limit for an object is 3 MiB; etcd's is 1.5."""

MOST_BYTES = 64 << 20
"""Bytes of all bodies that are under way. A Pod has some thousand; a thousand of 3 MiB would be the end of us."""

LARGEST_DRAIN = 16 << 20
"""Bytes that are read of a body that is refused. Beyond, the connection is closed."""

DEFAULT_PATIENCE, LONGEST_PATIENCE = 10.0, 30.0
"""Seconds: `timeoutSeconds` of a webhook is 10 unless set, and never above 30."""

MARGIN = 0.3
"""Seconds before the API server's deadline in which our answer must travel."""

PROBE_PATIENCE = 0.5
"""Seconds that a denial waits to hear what else is wrong."""


NOBODY = About(request_id="")
"""Whom a request is about that was no review."""


class Allocator(Protocol):
    """What is asked, with a deadline of the event loop's clock."""

    async def allocate(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        """Never raises for what an allocator may answer."""


def patience(timeout: str) -> float:
    """Seconds until the answer is due, from the `?timeout=` that the API server sends."""
    try:
        given = duration(timeout) or DEFAULT_PATIENCE
    except ValueError:
        given = DEFAULT_PATIENCE
    given = min(given, LONGEST_PATIENCE)
    return given - MARGIN if given >= 2 * MARGIN else given / 2


class Desk:
    """What the handlers share: whom to ask, what to count, how many at once."""

    def __init__(self, *, allocator: Allocator, metrics: Metrics, max_concurrent: int) -> None:
        self.metrics = metrics
        self.is_draining = False
        self._allocator = allocator
        self._max_concurrent = max_concurrent
        self._in_flight = 0
        self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def admit(self, body: bytes, *, deadline: float) -> Answer | Unreachable:
        soon = min(deadline, asyncio.get_running_loop().time() + PROBE_PATIENCE)
        return await admit(body, partial(self._ask, deadline=deadline), probe=partial(self._ask, deadline=soon))

    async def _ask(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._allocator.allocate(request, deadline=deadline)
        finally:
            self.metrics.rpc_seconds.observe(clock() - began)

    def enter(self, size: int) -> bool:
        """Counts a request with a body of so many bytes in; False when there are too many."""
        if self._in_flight >= self._max_concurrent or self._bytes + size > MOST_BYTES:
            return False
        self._in_flight += 1
        self._bytes += size
        self.metrics.in_flight.inc()
        self._idle.clear()
        return True

    def leave(self, size: int) -> None:
        self._in_flight -= 1
        self._bytes -= size
        self.metrics.in_flight.dec()
        if not self._in_flight:
            self._idle.set()

    async def drained(self, *, patience: float) -> bool:
        """Waits until nothing is under way; False when that takes too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), patience)
        except TimeoutError:
            return False
        return True


class _Handler(RequestHandler):
    """Speaks JSON; errors are a Status of one line."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.fail(status_code, self._reason.replace(" ", ""), f"{self.request.method} {self.request.path}")

    def fail(self, code: int, reason: str, message: str) -> None:
        self.set_status(code)
        self.send(failure(code, reason, " ".join(message.split())))

    def send(self, what: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(_encode(what) + b"\n")


class NotFoundHandler(_Handler):
    """Any path that is none of ours."""

    def prepare(self) -> None:
        self.fail(404, "NotFound", f"there is nothing at {self.request.path!r}")


@stream_request_body
class MutateHandler(_Handler):
    """POST /mutate: an AdmissionReview in, an AdmissionReview out."""

    def initialize(self, desk: Desk) -> None:
        self._desk = desk
        self._body = bytearray()
        self._size = 0
        self._expected = 0
        self._arrived = asyncio.get_running_loop().time()
        self._is_counted = False
        self._is_answering = False
        self._why_not: tuple[int, str, str] | None = None

    def prepare(self) -> None:
        self._why_not = self._judge_headers()
        if self._why_not is None:
            self._expected = self._length() or LARGEST_REVIEW  # without a length it may be any
            self._is_counted = self._desk.enter(self._expected)
            if not self._is_counted:
                self._why_not = 503, Reason.TOO_MANY_REQUESTS.name, "too many requests are under way"
        elif self._why_not[0] == 405 or self._length() > LARGEST_DRAIN:
            self._refuse(*self._why_not)

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._why_not is None and self._size <= LARGEST_REVIEW:
            self._body += chunk

    async def post(self) -> None:
        self._is_answering = True
        if self._why_not is None and self._size > LARGEST_REVIEW:
            self._why_not = self._too_large()
        if self._why_not is not None:
            self._refuse(*self._why_not)
            return
        try:
            outcome = await self._desk.admit(bytes(self._body), deadline=self._deadline())
        except ReviewError as error:
            self._refuse(400, "BadRequest", str(error))
            return
        self._answer(outcome)

    def write_error(self, status_code: int, **more: Any) -> None:
        self._count("failed", "InternalError")  # a fault of ours: Tornado has logged it
        super().write_error(status_code, **more)

    def on_finish(self) -> None:
        self._leave()
        self._desk.metrics.seconds.observe(asyncio.get_running_loop().time() - self._arrived)

    def on_connection_close(self) -> None:
        if not self._is_answering:  # while the allocator is asked the request is still under way
            self._leave()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._desk.leave(self._expected)

    def _judge_headers(self) -> tuple[int, str, str] | None:
        if self.request.method != "POST":
            self.set_header("Allow", "POST")
            return 405, "MethodNotAllowed", f"{self.request.method} is not allowed here: POST an AdmissionReview"
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "UnsupportedMediaType", f"the content type must be application/json, not {kind!r}"
        return self._too_large() if self._length() > LARGEST_REVIEW else None

    def _length(self) -> int:
        length = self.request.headers.get("Content-Length", "")
        return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0

    def _too_large(self) -> tuple[int, str, str]:
        return 413, "RequestEntityTooLarge", f"the body is larger than {LARGEST_REVIEW} bytes"

    def _deadline(self) -> float:
        timeouts = self.request.query_arguments.get("timeout", [b""])
        return self._arrived + patience(timeouts[-1].decode("ascii", "replace"))

    def _answer(self, outcome: Answer | Unreachable) -> None:
        if isinstance(outcome, Unreachable):
            self._refuse(503, outcome.reason, outcome.message, outcome.about or NOBODY)
            return
        self._count(outcome.result, outcome.reason)
        if log.isEnabledFor(logging.INFO):
            self._tell(
                outcome.about,
                outcome.result,
                reason=outcome.reason,
                allocation_id=outcome.allocation_id,
                numbers=outcome.numbers,
                detail=outcome.detail,
            )
        self.send(outcome.review)

    def _refuse(self, code: int, reason: str, message: str, about: About = NOBODY) -> None:
        self._tell(
            about, "failed", logging.WARNING, reason=reason, detail=message, code=code, client=self.request.remote_ip
        )
        self._count("failed", reason)
        self.fail(code, reason, message)

    def _tell(self, about: About, result: str, level: int = logging.INFO, **more: Any) -> None:
        """The canonical line of an admission."""
        tell(
            log,
            "admission",
            level,
            request_id=about.request_id,
            namespace=about.namespace,
            name=about.name,
            policy=about.policy,
            dry_run=about.is_dry_run,
            result=result,
            ms=round((asyncio.get_running_loop().time() - self._arrived) * 1000, 2),
            **more,
        )

    def _count(self, result: str, reason: str) -> None:
        self._desk.metrics.answers.inc(result, reason)
        if self._desk.is_draining:
            self.set_header("Connection", "close")


class HealthHandler(_Handler):
    """The process lives."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish("ok\n")


class ReadyHandler(_Handler):
    """Whether reviews should be sent here: every check must hold. `?verbose` shows them."""

    def initialize(self, checks: Callable[[], dict[str, bool]]) -> None:
        self._checks = checks

    def get(self) -> None:
        checks = self._checks()
        is_ready = all(checks.values())
        self.set_status(200 if is_ready else 503)
        self.set_header("Content-Type", "text/plain")
        lines = [f"[{'+' if holds else '-'}] {name}" for name, holds in checks.items()]
        is_short = is_ready and "verbose" not in self.request.query_arguments and self.request.query != "verbose"
        self.finish("ok\n" if is_short else "\n".join([*lines, "ok" if is_ready else "not ready"]) + "\n")


class MetricsHandler(_Handler):
    """The metrics in Prometheus' text format."""

    def initialize(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self._metrics.registry))


def mutate_application(desk: Desk) -> Application:
    return Application(
        [("/mutate", MutateHandler, {"desk": desk})], default_handler_class=NotFoundHandler, log_function=_no_access_log
    )


def side_application(metrics: Metrics, checks: Callable[[], dict[str, bool]]) -> Application:
    routes: list[Any] = [
        ("/healthz", HealthHandler, {}),
        ("/readyz", ReadyHandler, {"checks": checks}),
        ("/metrics", MetricsHandler, {"metrics": metrics}),
    ]
    return Application(routes, default_handler_class=NotFoundHandler, log_function=_no_access_log)


def _no_access_log(_: RequestHandler) -> None:
    """Answers are counted, denials and failures logged; an access log would only repeat them."""
