"""The page on a real socket, and what a reader sees of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from allocator.page.handlers import StatusPage
from testing.servicekit import Running


@dataclass(slots=True)
class Site:
    """Where the page is, and a reader."""

    page: StatusPage
    address: str
    service: Running
    troubles: dict[str, str | None] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> HTTPResponse:
        return await self.ask("GET", path, **headers)

    async def ask(self, method: str, path: str, **headers: str) -> HTTPResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"" if method in {"POST", "PUT", "PATCH"} else None
        return await AsyncHTTPClient().fetch(
            f"http://{self.address}{path}", method=method, headers=names, raise_error=False, body=body
        )

    async def view(self, path: str) -> Any:
        answer = await self.get(path, Accept="application/json")
        assert answer.code == 200, answer.body
        return json.loads(answer.body)


Open = Callable[..., Awaitable[Site]]
