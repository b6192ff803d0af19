"""HTTP beside the webhook: health and metrics.

Liveness and readiness never ask the allocator: with it gone, a restarted or unlisted shim helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado.web import Application, RequestHandler

from shim.admission import failure
from shim.metrics import ShimMetrics


class _Handler(RequestHandler):
    """Errors are a Status of one line."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.fail(status_code, self._reason.replace(" ", ""), f"{self.request.method} {self.request.path}")

    def fail(self, code: int, reason: str, message: str) -> None:
        self.set_status(code)
        self.set_header("Content-Type", "application/json")
        self.finish(failure(code, reason, message))


class _NotFoundHandler(_Handler):
    """Any path that is none of ours."""

    def prepare(self) -> None:
        self.fail(404, "NotFound", f"there is nothing at {self.request.path!r}")


class _LivenessHandler(_Handler):
    """The process lives."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish("ok\n")


class _ReadinessHandler(_Handler):
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


class _MetricsHandler(_Handler):
    """The metrics in Prometheus' text format."""

    def initialize(self, metrics: ShimMetrics) -> None:
        self._metrics = metrics

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self._metrics.registry))


def side_application(metrics: ShimMetrics, checks: Callable[[], dict[str, bool]]) -> Application:
    """Serves /healthz, /readyz and /metrics. `checks` gives what readiness needs: name → whether it holds."""
    routes: list[Any] = [
        ("/healthz", _LivenessHandler, {}),
        ("/readyz", _ReadinessHandler, {"checks": checks}),
        ("/metrics", _MetricsHandler, {"metrics": metrics}),
    ]
    return Application(routes, default_handler_class=_NotFoundHandler, log_function=_no_access_log)


def _no_access_log(_: RequestHandler) -> None:
    """Answers are counted, denials and failures logged; an access log would only repeat them."""
