"""The page over HTTP: its files, its views as JSON, its stream. GET and HEAD, nothing else.

/                  the page; as JSON (Accept: application/json) what it shows
/status /nodes /nodes/NAME /claims /decisions    the views, JSON
/events            the stream
/page/FILE         style, script, icon
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from allocator.page.access import PageAccess
from allocator.page.live import FullError, StatusStream, event, until_closed
from allocator.page.queries import QueryError, axis, claims_query, nodes_query
from allocator.page.views import BusyError, View, Views

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
RETRY_SECONDS = 10
RESULTS = frozenset({"granted", "previewed", "refused", "unavailable"})


def load_assets() -> Mapping[str, bytes]:
    """The files of the page, by name."""
    folder = resources.files("allocator.page") / "assets"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}


@dataclass(frozen=True, slots=True)
class StatusPage:
    """Everything that a handler needs."""

    views: Views
    live: StatusStream
    access: PageAccess
    assets: Mapping[str, bytes]


def page(views: Views, access: PageAccess) -> StatusPage:
    """A page on these views, with a stream of its own for live readers."""
    live = StatusStream(lambda: event("status", encode(views.status(live.readers))))
    return StatusPage(views, live, access, load_assets())


def encode(view: View) -> str:
    return json.dumps(view, separators=(",", ":"), ensure_ascii=False)


class PageHandler(RequestHandler):
    """What all of them share: who may ask, what is said around the answer, how mistakes are told."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    def initialize(self, page: StatusPage) -> None:
        self._page = page

    def set_default_headers(self) -> None:
        """The strict headers of every answer. Which server this is, is nobody's business."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuses with 403 whoever may not see the page, before anything is looked up."""
        headers = self.request.headers
        is_opened = headers.get("Sec-Fetch-Mode") == "navigate"  # a link or the address bar: nobody else reads it
        objection = self._page.access.objection(
            peer=self.request.remote_ip or "",
            host=headers.get("Host", ""),
            site="" if is_opened else headers.get("Sec-Fetch-Site", ""),
        )
        if objection:
            self.refuse(403, objection)

    async def head(self, *path: str) -> None:
        await self.get(*path)

    async def get(self, *path: str) -> None:
        """Answers; 400 tells what is wrong with the address, 503 that too many ask."""
        try:
            await self.answer(*path)
        except QueryError as error:
            self.refuse(400, str(error))
        except (BusyError, FullError) as error:
            self.set_header("Retry-After", str(RETRY_SECONDS))
            self.refuse(503, str(error))

    async def answer(self, *path: str) -> None:
        """What a GET brings.

        Raises:
            QueryError: the address has a mistake.
            BusyError, FullError: not now.

        """
        raise NotImplementedError

    def argument(self, name: str) -> str:
        return self.get_query_argument(name, "") or ""

    def show(self, view: View) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(encode(view) + "\n")

    def refuse(self, status: int, why: str) -> None:
        """Ends the answer with a status and one line of plain text."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(why + "\n")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.refuse(status_code, self._reason)


class FileHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        self._file(path[0])

    def _file(self, name: str) -> None:
        content = self._page.assets.get(name)
        if content is None:
            self.refuse(404, "no such file")
            return
        self.set_header("Content-Type", TYPES[name.rpartition(".")[2]])
        self.finish(content)


class RootHandler(FileHandler):
    """The page; or, for who prefers JSON, all of its views together, by the same query."""

    async def answer(self, *path: str) -> None:
        """HTML where it is accepted. JSON has the key of each view: status, nodes, claims, decisions."""
        if not prefers_json(self.request.headers.get("Accept", "")):
            self._file("index.html")
            return
        views = self._page.views
        self.show(
            {
                "status": views.status(self._page.live.readers),
                "nodes": await views.nodes(nodes_query(self.argument)),
                "claims": await views.claims(claims_query(self.argument)),
                "decisions": views.recent(results(self.argument("result"))),
            }
        )


class StatusHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        self.show(self._page.views.status(self._page.live.readers))


class NodesHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        self.show(await self._page.views.nodes(nodes_query(self.argument)))


class NodeHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        """One node by its name in the path; 404 where nobody knows it."""
        view = await self._page.views.node(path[0], axis(self.argument("range")))
        if view is None:
            self.refuse(404, f"no node {path[0][:64]}. /nodes tells the names")
        else:
            self.show(view)


class ClaimsHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        self.show(await self._page.views.claims(claims_query(self.argument)))


class DecisionsHandler(PageHandler):
    async def answer(self, *path: str) -> None:
        self.show(self._page.views.recent(results(self.argument("result"))))


class EventsHandler(PageHandler):
    """Server-sent events: `status`, once a second."""

    def initialize(self, page: StatusPage) -> None:
        super().initialize(page)
        self._closed = asyncio.Event()

    def on_connection_close(self) -> None:
        self._closed.set()

    async def answer(self, *path: str) -> None:
        """Sends events until the reader has gone or does not read."""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        if self.request.method == "HEAD":
            self.finish()
            return
        try:
            await until_closed(self._page.live.follow(self._send), self._closed)
        finally:
            connection = self.request.connection
            if self._headers_written and isinstance(connection, HTTP1Connection):
                connection.stream.close()  # whoever did not read would not read an ending either

    async def _send(self, frame: bytes) -> None:
        self.write(frame)
        try:
            await self.flush()
        except StreamClosedError:
            self._closed.set()


def prefers_json(accept: str) -> bool:
    """Whether JSON is asked for, and HTML is not."""
    return "application/json" in accept and "text/html" not in accept


def results(text: str) -> frozenset[str]:
    """Which results are asked for; nothing: all of them.

    Raises:
        QueryError: there is no such result.

    """
    if text and text not in RESULTS:
        raise QueryError(f"result is {text[:64]!r}: one of {', '.join(sorted(RESULTS))}")
    return frozenset({text} if text else ())


def routes(page: StatusPage) -> list[tuple[str, type[RequestHandler], dict[str, StatusPage]]]:
    """The paths of the module's head, each with its handler, for tornado's Application."""
    handlers: tuple[tuple[str, type[PageHandler]], ...] = (
        (r"/", RootHandler),
        (r"/status", StatusHandler),
        (r"/nodes", NodesHandler),
        (r"/nodes/([^/]+)", NodeHandler),
        (r"/claims", ClaimsHandler),
        (r"/decisions", DecisionsHandler),
        (r"/events", EventsHandler),
        (r"/page/([a-z.]+)", FileHandler),
    )
    return [(path, handler, {"page": page}) for path, handler in handlers]
