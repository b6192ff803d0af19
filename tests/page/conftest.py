"""The page over a ledger that tests fill."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from servicekit import Running
from sitekit import Open, Site
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from allocator import http
from allocator.page.access import Access
from allocator.page.handlers import page
from allocator.page.views import Identity, Views


@pytest.fixture
async def open_site(service: Running) -> AsyncIterator[Open]:
    servers: list[HTTPServer] = []

    async def open_one(access: Access | None = None) -> Site:
        troubles: dict[str, str | None] = {"journal": None}
        identity = Identity(version="1.2.3", instance="here", cluster="none", started=service.now - 60)
        views = Views(
            engine=service.engine, decisions=service.decisions, identity=identity,
            checks=lambda: troubles, notes=list,
        )  # fmt: skip
        shown = page(views, access or Access())
        server = HTTPServer(http.application(lambda: troubles, list, service.registry, shown))
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        servers.append(server)
        return Site(shown, f"127.0.0.1:{sockets[0].getsockname()[1]}", service, troubles)

    yield open_one
    for server in servers:
        server.stop()
        await server.close_all_connections()


@pytest.fixture
async def site(open_site: Open) -> Site:
    return await open_site()
