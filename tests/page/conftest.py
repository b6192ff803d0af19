"""The page over a ledger that tests fill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from allocator import http
from allocator.health import HealthSnapshot, InstanceInfo
from allocator.page.access import PageAccess
from allocator.page.handlers import page
from allocator.page.views import Views
from testing.servicekit import Running
from testing.sitekit import Open, Site


@pytest.fixture
async def open_site(service: Running) -> AsyncIterator[Open]:
    servers: list[HTTPServer] = []

    async def open_one(access: PageAccess | None = None) -> Site:
        troubles: dict[str, str | None] = {"journal": None}
        service.health.info = InstanceInfo(version="1.2.3", name="here", cluster="none", started=service.now - 60)

        def health() -> HealthSnapshot:
            return replace(service.health.snapshot(), checks=troubles)

        views = Views(engine=service.engine, decisions=service.decisions, info=service.health.info, health=health)
        shown = page(views, access or PageAccess())
        server = HTTPServer(http.application(health, service.registry, shown))
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
