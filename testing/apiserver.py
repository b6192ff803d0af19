"""A simulated API server: real HTTP on a port of its own, objects that tests write, faults that tests script.

Each request for which a fault is scripted gets it instead of its answer, in order: `script("watch pods", Fail(500))`.
Requests are named `list pods`, `watch pods`, and so on; `requests` has them all, with the version or page asked for.

Objects can be written, too: `create`, `get`, `update`, `patch` (of the status) and `delete`. As with a real server a
creation loses its status, a write of another version is a conflict, and a deletion may name the uid that it means.

It speaks JSON and, to those who ask for it, protobuf (of Kubernetes' own kinds), unless `speaks_protobuf` is unset.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NoReturn, Protocol

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from allocator.cluster.client import ApiClient
from allocator.cluster.credentials import Loaded
from allocator.cluster.messages import PROTOBUF
from testing.encoding import binary, binary_page, frame, sized

Object = dict[str, Any]
IN_PROTOBUF = {"pods", "nodes", "namespaces", "services"}
KINDS = {
    "pods": "Pod",
    "nodes": "Node",
    "namespaces": "Namespace",
    "services": "Service",
    "portleases": "PortLease",
    "leases": "Lease",
}
VERBS = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
GROUP = "/apis/hostport.io/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1"
PROBE_SECONDS = 10  # a watch that is to be shorter gets its bookmark at once


@dataclass(frozen=True)
class Fail:
    """An HTTP error."""

    status: int
    message: str = "scripted"
    retry_after: float | None = None


@dataclass(frozen=True)
class Hang:
    """The request is accepted; what there is comes, but nothing after it."""

    after: int = 0  # events


@dataclass(frozen=True)
class Cut:
    """So many events, then half of one, then the connection breaks."""

    after: int = 0


@dataclass(frozen=True)
class Lines:
    """These lines instead of events; then the watch ends."""

    lines: tuple[bytes, ...]


@dataclass(frozen=True)
class Lost:
    """A write is done, and the connection breaks before its answer."""


@dataclass(frozen=True)
class Halved:
    """The first bytes of a list; what is left comes when `go` is set."""

    go: asyncio.Event


@dataclass(frozen=True)
class Plain:
    """No fault: the next one in the script is for the request after this."""


def error_event(code: int, message: str = "scripted") -> Lines:
    status = {"kind": "Status", "status": "Failure", "metadata": {}, "code": code, "reason": "R", "message": message}
    return Lines((json.dumps({"type": "ERROR", "object": status}).encode(),))


Fault = Fail | Hang | Cut | Lines | Lost | Halved | Plain


@dataclass(frozen=True)
class Logged:
    """An entry of the history."""

    version: int
    resource: str
    line: bytes


class ApiServer:
    """See the module."""

    def __init__(self) -> None:
        self.version = 100
        self._clients: list[ApiClient] = []
        self.requests: list[str] = []
        self.tokens_seen: list[str | None] = []
        self.wants_token: str | None = None
        self._objects: dict[str, dict[str, Object]] = defaultdict(dict)
        self._history: list[Logged] = []
        self._forgotten = 0
        self._snapshots: dict[str, tuple[int, list[Object]]] = {}
        self.scripts: dict[str, deque[Fault]] = defaultdict(deque)
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.namespaces_gone: set[str] = set()
        self.is_away = False  # every request breaks off
        self.speaks_protobuf = True
        self.encodings: set[tuple[str, bool]] = set()  # what was answered: of which resource, and whether in protobuf
        self.refused: set[str] = set()  # requests, such as `watch leases`, for which the right is missing
        self._uids = count(1)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/{resource}", self._serve)
        app.router.add_get(GROUP + "/{resource}", self._serve)
        for group in (GROUP, LEASES, "/api/v1"):
            app.router.add_get(group + "/namespaces/{namespace}/{resource}", self._serve)
            app.router.add_post(group + "/namespaces/{namespace}/{resource}", self._one)
            app.router.add_route("*", group + "/namespaces/{namespace}/{resource}/{name}", self._one)
        app.router.add_patch(GROUP + "/namespaces/{namespace}/{resource}/{name}/status", self._one)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Closes the clients that were made for it, and ends."""
        for client in self._clients:
            await client.close()
        await self.go_away()

    async def go_away(self) -> None:
        """Answers nobody any more; its clients do not know that."""
        await self._runner.cleanup()

    def client(self) -> ApiClient:
        async def load() -> Loaded:
            configuration = Configuration(host=self.url)
            if self.wants_token:
                configuration.api_key["BearerToken"] = f"Bearer {self.wants_token}"
            return Loaded(configuration)

        self._clients.append(ApiClient(load))
        return self._clients[-1]

    # -- what tests do

    def put(self, resource: str, obj: Object) -> Object:
        """Creates or changes an object; watchers are told."""
        metadata = obj["metadata"]
        key = f"{metadata.get('namespace', '')}/{metadata['name']}"
        kind = "MODIFIED" if key in self._objects[resource] else "ADDED"
        self.version += 1
        stored = {**obj, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        self._objects[resource][key] = stored
        self._log(resource, kind, stored)
        return stored

    def delete(self, resource: str, name: str, namespace: str = "") -> None:
        self.version += 1
        gone = self._objects[resource].pop(f"{namespace}/{name}")
        metadata = {**gone["metadata"], "resourceVersion": str(self.version)}
        self._log(resource, "DELETED", {**gone, "metadata": metadata})

    def vanish(self, resource: str, name: str, namespace: str = "") -> None:
        """It goes without an event, as in a history that is forgotten before it is read."""
        self.version += 1
        del self._objects[resource][f"{namespace}/{name}"]

    def write_elsewhere(self) -> None:
        """Somebody writes something that is none of our business."""
        self.version += 1

    def bookmark(self) -> None:
        for resource, kind in KINDS.items():
            self._log(resource, "BOOKMARK", {"kind": kind, "metadata": {"resourceVersion": str(self.version)}})

    def repeat_history(self, resource: str) -> None:
        """Sends everything once more, as a confused server would."""
        self._history += [entry for entry in self._history if entry.resource == resource]
        self._wake()

    def forget(self) -> None:
        """Compacts: who asks for older versions gets 410."""
        self._forgotten = self.version
        self._snapshots.clear()

    def script(self, request: str, *faults: Fault) -> None:
        self.scripts[request].extend(faults)

    def count(self, prefix: str) -> int:
        return sum(1 for request in self.requests if request.startswith(prefix))

    # -- answers

    def _log(self, resource: str, kind: str, obj: Object) -> None:
        line = json.dumps({"type": kind, "object": obj}).encode()
        self._history.append(Logged(self.version, resource, line))
        self._wake()

    def _wake(self) -> None:
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _one(self, request: web.Request) -> web.StreamResponse:
        """A request about one object."""
        resource, verb = request.match_info["resource"], VERBS[request.method]
        name = f"{verb} {resource}"
        self.requests.append(name)
        fault = self.scripts[name].popleft() if self.scripts[name] else None
        is_binary = self._is_binary(request)
        if isinstance(fault, Fail):
            return _failure(fault, is_binary=is_binary)
        if isinstance(fault, Hang):
            await asyncio.sleep(60)
        body = await request.json() if request.can_read_body else {}
        namespace = request.match_info["namespace"]
        if self.is_away:
            self._break(request)
        answer = getattr(self, f"_{verb}")(resource, namespace, request.match_info.get("name", ""), body)
        if isinstance(fault, Lost):
            self._break(request)
        if isinstance(answer, web.Response):
            return answer
        if is_binary:
            return web.Response(body=binary(KINDS[resource], answer), content_type=PROTOBUF)
        return web.json_response(answer)

    def _is_binary(self, request: web.Request) -> bool:
        """Whether the answer is in protobuf: the first that is asked for and that we have, as a real server does."""
        resource, accepted = request.match_info["resource"], request.headers.get("Accept", "")
        is_binary = self.speaks_protobuf and resource in IN_PROTOBUF and accepted.startswith(PROTOBUF)
        self.encodings.add((resource, is_binary))
        return is_binary

    def _break(self, request: web.Request) -> NoReturn:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._objects[resource].get(f"{namespace}/{name}")

    def all(self, resource: str) -> list[Object]:
        return list(self._objects[resource].values())

    def _create(self, resource: str, namespace: str, _: str, body: Object) -> Object | web.Response:
        name = body["metadata"]["name"]
        if namespace in self.namespaces_gone:
            return _failure(Fail(404, f'namespaces "{namespace}" not found'))
        if self.find(resource, namespace, name):
            return _failure(Fail(409, f'{resource} "{name}" already exists'))
        metadata = {"namespace": namespace, "uid": f"u{next(self._uids)}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        fresh = {key: value for key, value in body.items() if key != "status"}
        return self.put(resource, {**fresh, "metadata": {**body["metadata"], **metadata}})

    def _get(self, resource: str, namespace: str, name: str, _: Object) -> Object | web.Response:
        return self.find(resource, namespace, name) or _failure(Fail(404, f'{resource} "{name}" not found'))

    def _update(self, resource: str, namespace: str, name: str, body: Object) -> Object | web.Response:
        found = self.find(resource, namespace, name)
        if found is None:
            return _failure(Fail(404, f'{resource} "{name}" not found'))
        if body["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
            return _failure(Fail(409, "the object has been modified"))
        return self.put(resource, body)

    def _patch(self, resource: str, namespace: str, name: str, body: Object) -> Object | web.Response:
        found = self.find(resource, namespace, name)
        if found is None:
            return _failure(Fail(404, f'{resource} "{name}" not found'))
        version = body.get("metadata", {}).get("resourceVersion", found["metadata"]["resourceVersion"])
        if version != found["metadata"]["resourceVersion"]:
            return _failure(Fail(409, "the object has been modified"))
        labels = {**found["metadata"].get("labels", {}), **body.get("metadata", {}).get("labels", {})}
        kept = {name: value for name, value in labels.items() if value is not None}
        metadata = found["metadata"] | ({"labels": kept} if labels else {})
        status = {**found.get("status", {}), **body.get("status", {})}
        return self.put(resource, {**found, "metadata": metadata} | ({"status": status} if status else {}))

    def _delete(self, resource: str, namespace: str, name: str, body: Object) -> Object | web.Response:
        found = self.find(resource, namespace, name)
        if found is None:
            return _failure(Fail(404, f'{resource} "{name}" not found'))
        if body.get("preconditions", {}).get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            return _failure(Fail(409, "Precondition failed: UID"))
        self.delete(resource, name, namespace)
        return {"kind": "Status", "status": "Success"}

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.is_away:
            self._break(request)
        resource, query = request.match_info["resource"], request.query
        is_watch = query.get("watch") == "1"
        name = f"{'watch' if is_watch else 'list'} {resource}"
        if selector := query.get("labelSelector"):
            key, _, value = selector.partition("=")
            items = [each for each in self.all(resource) if each["metadata"].get("labels", {}).get(key) == value]
            self.requests.append(f"{name} {selector}")
            return web.json_response({"kind": f"{KINDS[resource]}List", "metadata": {}, "items": items})
        if query.get("fieldSelector") and not is_watch:
            return await self._look_up(request)
        is_probe = is_watch and int(query.get("timeoutSeconds", "300")) < PROBE_SECONDS
        if query.get("limit") == "1" or is_probe:
            name = f"prove {resource}"
        self.requests.append(f"{name} {query.get('resourceVersion') or query.get('continue') or ''}".strip())
        self.tokens_seen.append(request.headers.get("Authorization"))
        is_binary = self._is_binary(request)
        if self.wants_token and request.headers.get("Authorization") != f"Bearer {self.wants_token}":
            return _failure(Fail(401), is_binary=is_binary)
        fault = self.scripts[name].popleft() if self.scripts[name] else None
        if name in self.refused:
            return _failure(Fail(403, "scripted"), is_binary=is_binary)
        if isinstance(fault, Fail):
            return _failure(fault, is_binary=is_binary)
        if not is_watch:
            if isinstance(fault, Hang):
                await asyncio.sleep(60)
            page = self._list(resource, int(query["limit"]), query.get("continue", ""), is_binary=is_binary)
            return await _halved(request, page, fault.go) if isinstance(fault, Halved) else page
        if int(query["resourceVersion"]) < self._forgotten:
            return _failure(Fail(410, "too old resource version"), is_binary=is_binary)
        content_type = f"{PROTOBUF};stream=watch" if is_binary else "application/json"
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        write = partial(_write, response, KINDS[resource] if is_binary else "")
        await self._watch(write, resource, int(query["resourceVersion"]), fault, is_probe=is_probe)
        return response

    async def _look_up(self, request: web.Request) -> web.Response:
        """A list of the one object that a field selector names, or of none."""
        resource, namespace = request.match_info["resource"], request.match_info["namespace"]
        field, _, name = request.query["fieldSelector"].partition("=")
        assert field == "metadata.name", field
        request_name, is_binary = f"look up {resource}", self._is_binary(request)
        self.requests.append(f"{request_name} {namespace}/{name}")
        fault = self.scripts[request_name].popleft() if self.scripts[request_name] else None
        if isinstance(fault, Fail):
            return _failure(fault, is_binary=is_binary)
        found = self.find(resource, namespace, name)
        metadata, items = {"resourceVersion": str(self.version)}, [found] if found else []
        if isinstance(fault, Hang):
            await asyncio.sleep(60)
        if isinstance(fault, Halved):  # what was found may be old by then
            await fault.go.wait()
        if is_binary:
            return web.Response(body=binary_page(KINDS[resource], metadata, items), content_type=PROTOBUF)
        return web.json_response({"kind": f"{KINDS[resource]}List", "metadata": metadata, "items": items})

    def _list(self, resource: str, limit: int, token: str, *, is_binary: bool) -> web.Response:
        start, key = 0, ""
        if token:
            key, _, offset = token.partition(":")
            if key not in self._snapshots:
                return _failure(Fail(410, "the provided continue parameter is too old"), is_binary=is_binary)
            start = int(offset)
        else:
            key = f"{resource}@{self.version}"
            self._snapshots[key] = (self.version, list(self._objects[resource].values()))
        version, items = self._snapshots[key]
        metadata: Object = {"resourceVersion": str(version)}
        if start + limit < len(items):
            metadata |= {"continue": f"{key}:{start + limit}", "remainingItemCount": len(items) - start - limit}
        if is_binary:
            page = binary_page(KINDS[resource], metadata, items[start : start + limit])
            return web.Response(body=page, content_type=PROTOBUF)
        body = {"kind": f"{KINDS[resource]}List", "metadata": metadata, "items": items[start : start + limit]}
        return web.json_response(body, dumps=partial(json.dumps, separators=(",", ":")))  # as the real one

    async def _watch(self, write: Write, resource: str, version: int, fault: Fault | None, *, is_probe: bool) -> None:
        if isinstance(fault, Lines):
            for line in fault.lines:
                await write(line)
            return
        position = sum(1 for entry in self._history if entry.version <= version)
        sent = 0
        while True:
            fresh = [e.line for e in self._history[position:] if e.resource == resource]
            position = len(self._history)
            for line in fresh:
                if isinstance(fault, Cut | Hang) and sent == fault.after:
                    if isinstance(fault, Cut):
                        await write(line, is_cut=True)
                    await asyncio.sleep(60)
                await write(line)
                sent += 1
            if is_probe:
                mark = {"kind": KINDS[resource], "metadata": {"resourceVersion": str(self.version)}}
                await write(json.dumps({"type": "BOOKMARK", "object": mark}).encode())
                return
            async with self._news:
                if position == len(self._history):
                    await self._news.wait()


async def _halved(request: web.Request, page: web.Response, go: asyncio.Event) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": page.content_type})
    await response.prepare(request)
    assert isinstance(page.body, bytes)
    half = len(page.body) // 2
    await response.write(page.body[:half])
    await go.wait()
    await response.write(page.body[half:])
    return response


class Write(Protocol):
    """Sends an event; half of it, and then nothing more, where it is cut."""

    async def __call__(self, line: bytes, *, is_cut: bool = False) -> None: ...


async def _write(response: web.StreamResponse, kind: str, line: bytes, *, is_cut: bool = False) -> None:
    """`kind`: of what is sent in protobuf; empty: in JSON."""
    part = sized(frame(kind, line)) if kind else line + b"\n"
    await response.write(part[: len(part) // 2] if is_cut else part)
    if is_cut and response._req and response._req.transport:
        response._req.transport.abort()


def _failure(fault: Fail, *, is_binary: bool = False) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    body = {"kind": "Status", "status": "Failure", "code": fault.status, "reason": "R", "message": fault.message}
    if is_binary:
        return web.Response(body=binary("Status", body), status=fault.status, headers=headers, content_type=PROTOBUF)
    return web.json_response(body, status=fault.status, headers=headers)
