"""POST /mutate, POST /binding: an AdmissionReview in, an AdmissionReview out.

Every new Pod waits for this path, so that it stands on Tornado's HTTP server itself: the routes, templates and cookies
of its handlers would cost as much as reading the review.

Rules:

* Every request is answered, with a Status of one line where it is no review, and before the API server gives up: the
  deadline counts from the headers, whatever has to be done.
* What is refused for its form is still read to its end, up to a bound, so that the client reads the answer rather than
  a reset connection.
* More than `max_concurrent` requests whose bodies are whole, or more bytes of bodies than `MOST_BYTES`, are turned away
  at once, since a queue would only make all of them late. What is announced costs nothing: bytes count when they come.
* A body has as long to come as its answer has: after that the API server has given up.
* The answer to a second question asks the API server to end the connection. It then has none on which the next second
  question could go to a shim that has died.
* An answer that is not read counts as a body does, until it is or the server hangs up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from functools import partial
from http.client import responses
from typing import Any, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from hostport.contract import Reason
from hostport.logs import log_fields
from shim.admission import AdmissionAnswer, admit, failure
from shim.binding import AddressBy, answer_binding, nobody_knows
from shim.limiter import SMALL_BODY, AdmissionLimiter, Permit, TurnLimiter, patience_of
from shim.metrics import ShimMetrics
from shim.outcomes import About, AllocateBy, Unreachable
from shim.reporting import WarningReporter
from shim.review import ReviewError

log = logging.getLogger(__name__)

PATH, BINDING_PATH = "/mutate", "/binding"

AGAIN_PORT = 444
"""Of the Service: to it comes what the API server asks a second time, since the first question had no answer."""

LARGEST_REVIEW = 3 << 20
"""Bytes. The API server's own limit for an object is 3 MiB; etcd's is 1.5."""

LARGEST_DRAIN = 16 << 20
"""Bytes that are read of a body that is refused. Beyond, the connection is closed."""

MOST_AT_ONCE = 8
"""Reviews that are read in one turn of the event loop, before what they ask for leaves."""

PROBE_PATIENCE = 0.5
"""Seconds that a denial waits to hear what else is wrong."""

NOBODY = About(request_id="")
"""Whom a request is about that was no review."""


class Webhook(HTTPServerConnectionDelegate):
    """What the HTTP server hands its requests to."""

    def __init__(
        self,
        *,
        limiter: AdmissionLimiter,
        allocate: AllocateBy,
        metrics: ShimMetrics,
        reporter: WarningReporter,
        address: AddressBy = nobody_knows,
        own_network: bool = False,
        steers: bool = False,
    ) -> None:
        """What the requests share.

        Args:
            limiter: how much is taken on at a time.
            allocate: how to ask the allocator.
            metrics: what is counted.
            address: how to ask where clients dial a node.
            reporter: who tells the owners of Pods what was warned of.
            own_network: whether a Pod that does not say keeps a network of its own.
            steers: whether Pods are kept off nodes where their numbers are held without a Pod.

        """
        self.limiter = limiter
        self.allocate = allocate
        self.metrics = metrics
        self.reporter = reporter
        self.address = address
        self.own_network = own_network
        self.steers = steers
        self.answering: set[asyncio.Task[None]] = set()
        self.turn_limiter = TurnLimiter(MOST_AT_ONCE)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Request(self, cast("HTTP1Connection", request_conn))


class _Refusal(msgspec.Struct, frozen=True):
    """An answer that is no review: the HTTP code, a word and a sentence."""

    code: int
    reason: str
    message: str


class _Request(HTTPMessageDelegate):
    """One request, from its headers to its answer. The methods are called by Tornado, in this order."""

    def __init__(self, webhook: Webhook, connection: HTTP1Connection) -> None:
        self._webhook = webhook
        self._connection = connection
        self._method = self._path = self._query = ""
        self._body = bytearray()
        self._size = 0
        self._is_second = False
        self._arrived = self._deadline = 0.0
        self._permit: Permit | None = None
        self._why_not: _Refusal | None = None
        self._too_late: asyncio.TimerHandle | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        loop = asyncio.get_running_loop()
        self._arrived = loop.time()
        self._method, target, _ = cast("RequestStartLine", start_line)
        self._path, _, self._query = target.partition("?")
        self._deadline = self._arrived + patience_of(self._query)
        self._is_second = headers.get("Host", "").endswith(f":{AGAIN_PORT}")
        # A body has as long to come as its answer has.
        self._too_late = loop.call_at(self._deadline, self._connection.close)
        length = _content_length(headers)
        self._why_not = self._judge(headers, length)
        if self._why_not is None:
            is_small = 0 < length <= SMALL_BODY  # without a length it may be any
            self._permit = self._webhook.limiter.permit(self._peer(), is_small=is_small)
        elif self._why_not.code in {404, 405} or length > LARGEST_DRAIN:  # all else is read to its end first
            self._refuse(self._why_not)

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._permit is None or self._why_not is not None or self._size > LARGEST_REVIEW:
            return
        if self._permit.charge(len(chunk)):
            self._body += chunk
        else:
            self._why_not = _too_many()
            self._body.clear()
            self._permit.forget_body()

    def finish(self) -> None:
        """The body is whole."""
        self._end_wait()
        if self._why_not is None and self._size > LARGEST_REVIEW:
            self._why_not = _too_large()
        if self._why_not is None and self._permit is not None and not self._permit.enter():
            self._why_not = _too_many()
        if self._why_not is not None:
            self._refuse(self._why_not)
            return
        self._webhook.turn_limiter.begin(self._begin, self._size)

    def _begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self._answer())
        self._webhook.answering.add(task)
        task.add_done_callback(self._webhook.answering.discard)

    def on_connection_close(self) -> None:
        """The client has left before its body was whole. Once it is, the request is under way until it is answered."""
        self._leave()

    def _end_wait(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()

    def _judge(self, headers: HTTPHeaders, length: int) -> _Refusal | None:
        if self._path not in {PATH, BINDING_PATH}:
            return _Refusal(404, "NotFound", f"there is nothing at {self._path!r}")
        if self._method != "POST":
            return _Refusal(405, "MethodNotAllowed", f"{self._method} is not allowed here: POST an AdmissionReview")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = f"the content type must be application/json, not {kind!r}"
            return _Refusal(415, "UnsupportedMediaType", message)
        return _too_large() if length > LARGEST_REVIEW else None

    async def _answer(self) -> None:
        try:
            if self._path == BINDING_PATH:
                await self._bind()
            else:
                self._settle(await self._admit())
        except ReviewError as error:
            self._refuse(_Refusal(400, "BadRequest", str(error)))
        except Exception:
            log.exception("a review was not answered")
            self._webhook.metrics.answers["failed", "InternalError"].inc()
            self._send(500, failure(500, "InternalServerError", f"{self._method} {self._path}"))

    def _admit(self) -> Awaitable[AdmissionAnswer | Unreachable]:
        """A denial waits a moment to hear what else is wrong; an allocation waits as long as the API server does."""
        webhook, permit = self._webhook, cast("Permit", self._permit)
        soon = min(self._deadline, asyncio.get_running_loop().time() + PROBE_PATIENCE)
        return admit(
            bytes(self._body),
            partial(permit.ask, webhook.allocate, self._deadline),
            probe=partial(permit.ask, webhook.allocate, soon),
            own_network=webhook.own_network,
            steers=webhook.steers,
        )

    async def _bind(self) -> None:
        """Whatever is not known, the Pod gets its node."""
        answer = await answer_binding(bytes(self._body), partial(self._webhook.address, deadline=self._deadline))
        self._send(200, answer.body)
        result = "addressed" if answer.address else "unaddressed"
        self._webhook.metrics.answers[result, ""].inc()
        more = {"ms": self._milliseconds(), "node": answer.node, "address": answer.address}
        _log_admission(answer.about, result, more)

    def _settle(self, outcome: AdmissionAnswer | Unreachable) -> None:
        if isinstance(outcome, Unreachable):
            self._refuse(_Refusal(503, outcome.reason, outcome.message), outcome.about or NOBODY)
            return
        self._send(200, outcome.body)
        asyncio.get_running_loop().call_soon(self._account_for, outcome, self._milliseconds())

    def _account_for(self, outcome: AdmissionAnswer, ms: float) -> None:
        """When the answers of this turn of the event loop are on their way: nobody waits for that."""
        self._webhook.reporter.report(outcome)
        self._webhook.metrics.answers[outcome.result, outcome.reason].inc()
        if log.isEnabledFor(logging.INFO):
            _log_admission(
                outcome.about,
                outcome.result,
                {
                    "ms": ms,
                    "reason": outcome.reason,
                    "allocation_id": outcome.allocation_id,
                    "numbers": outcome.numbers,
                    "warnings": [warning.reason for warning in outcome.warnings],
                    "detail": outcome.detail,
                },
            )

    def _refuse(self, why: _Refusal, about: About = NOBODY) -> None:
        if why.code != 404:
            more = {
                "ms": self._milliseconds(),
                "reason": why.reason,
                "detail": why.message,
                "code": why.code,
                "client": self._peer(),
            }
            _log_admission(about, "failed", more, logging.WARNING)
            self._webhook.metrics.answers["failed", why.reason].inc()
        allow = {"Allow": "POST"} if why.code == 405 else {}
        self._send(why.code, failure(why.code, why.reason, " ".join(why.message.split())), **allow)

    def _send(self, code: int, body: bytes, **more: str) -> None:
        headers = HTTPHeaders()
        headers["Content-Type"], headers["Content-Length"] = "application/json", str(len(body))
        if more:
            headers.update(more)
        if self._is_second or self._webhook.limiter.is_draining:
            headers["Connection"] = "close"
        line = ResponseStartLine("HTTP/1.1", code, responses.get(code, "Unknown"))
        self._connection.write_headers(line, headers, b"" if self._method == "HEAD" else body)
        self._connection.finish()
        self._leave_when_read(len(body))
        self._webhook.metrics.seconds.observe(asyncio.get_running_loop().time() - self._arrived)

    def _leave_when_read(self, size: int) -> None:
        """What the system does not take of an answer is ours until the client reads: it counts, or there is none."""
        stream = self._connection.stream
        if not stream.writing():
            self._leave()
            return
        if self._permit is not None and not self._permit.answered(size):
            stream.close()
        if stream.closed():
            self._leave()
        else:
            stream.write(b"").add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        self._end_wait()
        if self._permit is not None:
            self._permit.leave()

    def _peer(self) -> str:
        return str(getattr(self._connection.context, "remote_ip", ""))

    def _milliseconds(self) -> float:
        """Since the headers."""
        return round((asyncio.get_running_loop().time() - self._arrived) * 1000, 2)


def _log_admission(about: About, result: str, more: Mapping[str, Any], level: int = logging.INFO) -> None:
    """The canonical line of an admission. `more`: its further fields."""
    fields = {
        "request_id": about.request_id,
        "namespace": about.namespace,
        "name": about.name,
        "policy": about.policy,
        "dry_run": about.is_dry_run,
        "result": result,
        **more,
    }
    log_fields(log, "admission", fields, level)


def _content_length(headers: HTTPHeaders) -> int:
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


def _too_many() -> _Refusal:
    return _Refusal(503, Reason.TOO_MANY_REQUESTS, "too many requests are under way")


def _too_large() -> _Refusal:
    return _Refusal(413, "RequestEntityTooLarge", f"the body is larger than {LARGEST_REVIEW} bytes")
