"""The part of an API server that reviews tokens and access: real HTTP, users and grants that tests write."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from allocator.cluster.client import ApiClient
from allocator.cluster.credentials import Loaded

Json = dict[str, Any]
AUDIENCE = "hostport.io"


def account(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


class ReviewServer:
    """`tokens`: who shows which, for which audiences. `grants`: (user, verb, namespace), "" being all of them."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[Json, set[str]]] = {}
        self.grants: set[tuple[str, str, str]] = set()
        self.asked: list[Json] = []
        self._clients: list[ApiClient] = []
        self.body: Any = None  # answered instead, if set
        self.status = 201
        self.breaks = 0  # requests whose connection is cut off before an answer
        self.open = asyncio.Event()
        self.open.set()

    def add(self, token: str, user: str, *audiences: str, node: str = "") -> None:
        """A token; one that is bound to a Pod on a node says so."""
        status: Json = {"username": user, "uid": f"uid of {user}", "groups": ["system:authenticated"]}
        if node:
            status["extra"] = {"authentication.kubernetes.io/node-name": [node]}
        self.tokens[token] = (status, set(audiences or (AUDIENCE,)))

    def grant(self, user: str, verbs: str, *namespaces: str) -> None:
        self.grants |= {(user, verb, namespace) for verb in verbs.split() for namespace in namespaces}

    def specs(self, kind: str) -> list[Json]:
        return [each["spec"] for each in self.asked if each["kind"] == kind]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._token)
        app.router.add_post("/apis/authorization.k8s.io/v1/subjectaccessreviews", self._access)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        await self._runner.cleanup()

    def client(self) -> ApiClient:
        async def load() -> Loaded:
            return Loaded(Configuration(host=self.url))

        self._clients.append(ApiClient(load))
        return self._clients[-1]

    async def _token(self, request: web.Request) -> web.Response:
        spec = await self._spec(request)
        user, audiences = self.tokens.get(spec["token"], ({}, set()))
        common = sorted(audiences & set(spec["audiences"]))
        return self._answer({"authenticated": True, "user": user, "audiences": common} if common else {"error": "no"})

    async def _access(self, request: web.Request) -> web.Response:
        spec = await self._spec(request)
        asked = spec["resourceAttributes"]
        who, verb, resource = spec["user"], asked["verb"], (asked["group"], asked["resource"])
        is_granted = {(who, verb, asked["namespace"]), (who, verb, "")} & self.grants
        return self._answer({"allowed": bool(is_granted) and resource == ("hostport.io", "portleases")})

    async def _spec(self, request: web.Request) -> Json:
        review: Json = await request.json()
        self.asked.append(review)
        if self.breaks and request.transport is not None:
            self.breaks -= 1
            request.transport.abort()
        await self.open.wait()
        spec: Json = review["spec"]
        return spec

    def _answer(self, status: Json) -> web.Response:
        return web.json_response({"status": status} if self.body is None else self.body, status=self.status)
