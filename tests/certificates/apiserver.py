"""An API server as far as certificates need one: objects with versions, JSON patches, and every version that ever was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jsonpatch

from allocator.cluster.client import ApiError, UnreachableError

Object = dict[str, Any]
NAMESPACE = "hostport-system"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
CA = f"{CORE}/secrets/hostport-ca"
SHIM_TLS = f"{CORE}/secrets/hostport-shim-tls"
CONFIG_MAP = f"{CORE}/configmaps/hostport-ca"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/hostport-operator"
PLACES = (CA, SHIM_TLS, CONFIG_MAP, WEBHOOK)


@dataclass(frozen=True)
class Version:
    """An object from a moment on; None: there was none."""

    since: float
    object: Object | None


@dataclass
class Objects:
    """`fault`: what happens to the requests of a path: `get` or `write` fails, or the answer to a write is `lost`."""

    now: Callable[[], float]
    history: dict[str, list[Version]] = field(default_factory=dict)
    fault: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    meanwhile: Callable[[str], None] = lambda _: None  # what others do before a write arrives
    _version: int = 100

    def get(self, path: str) -> Object | None:
        versions = self.history.get(path)
        return copy.deepcopy(versions[-1].object) if versions else None

    def put(self, path: str, obj: Object | None) -> None:
        if obj is not None:
            self._version += 1
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.history.setdefault(path, []).append(Version(self.now(), obj))

    def within(self, path: str, seconds: float) -> list[Object]:
        """Every version that was the newest at some moment of the last so many seconds."""
        versions = self.history.get(path, [])
        until = [*(each.since for each in versions[1:]), float("inf")]
        return [
            each.object
            for each, end in zip(versions, until, strict=True)
            if each.object is not None and end > self.now() - seconds
        ]

    async def send(self, method: str, path: str, params: Any = None, body: Any = None) -> bytes:
        self.requests.append(f"{method} {path}")
        if method == "GET":
            return self._answer(path)
        self.meanwhile(path)
        target = f"{path}/{body['metadata']['name']}" if method == "POST" else path
        fault = self.fault.get(target)
        if fault == "write":
            raise ApiError(500, "InternalError", "scripted")
        self.put(target, self._changed(method, self.get(target), body))
        if fault == "lost":
            raise UnreachableError("scripted")
        return json.dumps(self.get(target)).encode()

    def _answer(self, path: str) -> bytes:
        if self.fault.get(path) == "get":
            raise ApiError(500, "InternalError", "scripted")
        found = self.get(path)
        if found is None:
            raise ApiError(404, "NotFound", path)
        return json.dumps(found).encode()

    def _changed(self, method: str, old: Object | None, body: Any) -> Any:
        if method == "POST":
            if old is not None:
                raise ApiError(409, "AlreadyExists", "scripted")
            return body
        if old is None:
            raise ApiError(404, "NotFound", "scripted")
        if method == "PATCH":
            try:
                return jsonpatch.apply_patch(old, body)
            except jsonpatch.JsonPatchException as error:
                raise ApiError(422, "Invalid", str(error)) from error
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return body


def webhook_configuration(webhooks: int = 1) -> Object:
    """As it is applied: without caBundle."""
    service = {"name": "hostport-shim", "namespace": NAMESPACE, "path": "/mutate"}
    return {
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "hostport-operator"},
        "webhooks": [{"name": f"w{at}", "clientConfig": {"service": service}} for at in range(webhooks)],
    }
