"""The allocator's http port: /healthz, /readyz and /metrics, for everybody, and the status page. Read-only, plain text.

Who may see the page is the affair of `page.access`; probes and scrapes are answered always.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from tornado.web import Application, RequestHandler

from allocator.health import HealthSnapshot
from allocator.page.handlers import StatusPage, routes


class HealthHandler(RequestHandler):
    """Alive as long as it answers."""

    def get(self) -> None:
        self.finish("ok\n")


class ReadyHandler(RequestHandler):
    """200 when every check holds, else 503; `?verbose` lists the checks as the API server does."""

    def initialize(self, health: Callable[[], HealthSnapshot]) -> None:
        self._health = health

    def get(self) -> None:
        """The lines of `?verbose`: `[+]` what holds, `[-]` what does not and why, `[!]` what should be known."""
        health = self._health()
        checks = health.checks
        failed = {name: trouble for name, trouble in checks.items() if trouble}
        self.set_status(503 if failed else 200)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if self.get_query_argument("verbose", None) is None and not failed:
            self.finish("ok\n")
            return
        lines = [f"[-]{name} failed: {failed[name]}" if name in failed else f"[+]{name} ok" for name in checks]
        lines += [f"[!]{note}" for note in health.notes]
        self.finish("\n".join([*lines, "readyz check failed" if failed else "readyz check passed", ""]))


class MetricsHandler(RequestHandler):
    def initialize(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self._registry))


def application(health: Callable[[], HealthSnapshot], registry: CollectorRegistry, page: StatusPage) -> Application:
    """The routes of the http port: what probes and scrapes ask for, and the status page."""
    return Application(
        [
            (r"/healthz", HealthHandler),
            (r"/readyz", ReadyHandler, {"health": health}),
            (r"/metrics", MetricsHandler, {"registry": registry}),
            *routes(page),
        ],
        log_function=lambda _handler: None,
    )
