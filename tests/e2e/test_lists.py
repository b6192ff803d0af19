"""What our way to list and to watch relies on, of a real API server: in JSON, and in protobuf by our own numbers.

With HOSTPORT_RECORD set, what the server sends becomes the recording that the unit tests read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from allocator.cluster.client import ApiClient, ApiError, complete_parts
from allocator.cluster.credentials import loader
from allocator.cluster.decoding import WatchEvent
from allocator.cluster.kubernetes import NAMESPACES, NODES, PODS, SERVICES
from allocator.cluster.messages import PROTOBUF, ProtobufFrame, head_of_page
from allocator.cluster.projection import JSON, SeenPod
from allocator.cluster.reflector import watch_params
from allocator.cluster.sinks import ValueInterner
from e2e.control_plane import ControlPlane, create_namespace
from testing.recording import RECORDING, assert_same

NAMESPACE = "encodings"
ACCEPTS = {"JSON": JSON, "protobuf": f"{PROTOBUF}, {JSON}"}

T = TypeVar("T")

REQUIREMENTS = [{"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}]
TERM = {"matchExpressions": REQUIREMENTS, "matchFields": [{**REQUIREMENTS[0], "key": "metadata.name", "values": ["x"]}]}
PORT = {"name": "web", "hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "10.0.0.1"}
CONTAINER = {"image": "i", "ports": [PORT], "resources": {}}
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "owner-uid", "controller": True}
METADATA: dict[str, Any] = {
    "namespace": NAMESPACE,
    "generateName": "every-field-",
    "labels": {"app": "every-field"},
    "annotations": {"hostport.io/allocation-id": "abc", "other": "ü"},
    "ownerReferences": [OWNER],
    "finalizers": ["example.com/stays"],  # so that it is still there when it has been deleted
}
POD: dict[str, Any] = {
    "metadata": METADATA,
    "spec": {
        "containers": [{**CONTAINER, "name": "c"}],
        "initContainers": [{**CONTAINER, "name": "i", "restartPolicy": "Always", "ports": [{"containerPort": 81}]}],
        "nodeSelector": {"zone": "a"},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [TERM, TERM]}}
        },
        "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"}],
        "priorityClassName": "every-field",  # of which priority and preemptionPolicy are made
    },
}
PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
PRIORITY = {"metadata": {"name": "every-field"}, "value": 1000, "preemptionPolicy": "Never"}
STATUS = {
    "phase": "Failed",
    "reason": "NodePorts",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "3 node(s)"}],
}
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z"}
ON_A_NODE = {
    "metadata": METADATA,
    "spec": {
        "nodeName": "every-field",  # where no kubelet writes a status
        "hostNetwork": True,
        "containers": [{**CONTAINER, "name": "c", "ports": [{"containerPort": 80}]}],
    },
}
NODE = {
    "metadata": {"name": "every-field", "labels": {"disk": "ssd"}},
    "spec": {"unschedulable": True, "taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]},
}
SERVICE = {
    "metadata": {"name": "every-field"},
    "spec": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",  # of which healthCheckNodePort is made
        "selector": {"app": "every-field"},
        "ports": [
            {"name": "number", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            {"name": "text", "port": 81, "targetPort": "web"},
        ],
    },
}


def asking(plane: ControlPlane, ask: Callable[[ApiClient], Awaitable[T]]) -> T:
    """What is asked of the API server by our own client."""

    async def run() -> T:
        client = ApiClient(loader(str(plane.kubectl.kubeconfig)))
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def paths(plane: ControlPlane) -> Iterator[dict[str, str]]:
    """Where objects with every field that we read are: two Pods, a Node, a Service, a Namespace, lists, an error."""
    create_namespace(plane, NAMESPACE, labels={"pod-security.kubernetes.io/enforce": "privileged"})
    paths = {"Node": "/api/v1/nodes/every-field", "Namespace": f"/api/v1/namespaces/{NAMESPACE}"}
    assert plane.api.ask("POST", PRIORITY_CLASSES, PRIORITY).status == 201
    assert plane.api.ask("POST", "/api/v1/nodes", NODE).status == 201
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    for key, pod in (("Pod", POD), ("Pod on a node", ON_A_NODE)):
        made = plane.api.ask("POST", pods, pod)
        assert made.status == 201, made.text
        paths[key] = f"{pods}/{made.json['metadata']['name']}"
    merge = "application/merge-patch+json"
    told = plane.api.ask("PATCH", paths["Pod"] + "/status", {"status": STATUS}, content_type=merge)
    assert told.status == 200, told.text
    told = plane.api.ask(
        "PATCH", paths["Pod on a node"] + "/status", {"status": {"conditions": [READY]}}, content_type=merge
    )
    assert told.status == 200, told.text
    assert plane.api.ask("DELETE", paths["Pod"], {"gracePeriodSeconds": 30}).status in {200, 202}
    services = f"/api/v1/namespaces/{NAMESPACE}/services"
    assert plane.api.ask("POST", services, SERVICE).status == 201
    paths["Service"] = f"{services}/every-field"
    version = plane.api.ask("GET", "/api/v1/namespaces?limit=1").json["metadata"]["resourceVersion"]
    lists = (("PodList", PODS), ("NodeList", NODES), ("NamespaceList", NAMESPACES), ("ServiceList", SERVICES))
    for kind, collection in lists:
        paths[kind] = f"{collection.path}?limit=1&resourceVersion={version}&resourceVersionMatch=Exact"
    paths["Status"] = "/api/v1/namespaces?limit=1&continue=nonsense"
    yield paths
    for path in (paths["Node"], f"{PRIORITY_CLASSES}/every-field"):
        plane.api.ask("DELETE", path)
    for key in ("Pod", "Pod on a node"):
        plane.api.ask("PATCH", paths[key], {"metadata": {"finalizers": None}}, content_type=merge)
    plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_every_field_that_we_read_has_the_servers_number(plane: ControlPlane, paths: dict[str, str]) -> None:
    answers = {
        key: {
            "json": _without_managers(plane.api.ask("GET", path).json),
            "protobuf": base64.b64encode(plane.api.ask("GET", path, accept=PROTOBUF).body).decode(),
        }
        for key, path in paths.items()
    }
    if os.environ.get("HOSTPORT_RECORD"):
        RECORDING.parent.mkdir(exist_ok=True)
        RECORDING.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    assert_same(answers)


def _without_managers(answer: Any) -> Any:
    """Nobody reads who wrote which field, and it is long."""
    for obj in (answer, *answer.get("items", ())):
        obj["metadata"].pop("managedFields", None)
    return answer


@pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS)
def test_the_first_bytes_of_a_page_tell_of_the_next(plane: ControlPlane, accept: str) -> None:
    async def read(client: ApiClient) -> tuple[bool, list[bytes]]:
        async with client.stream("/api/v1/nodes", {"limit": "1"}, 5, accept=accept) as answer:
            return answer.is_binary, [chunk async for chunk in answer.chunks]

    is_binary, body = asking(plane, read)
    page = NODES.reader.page(b"".join(body))

    assert is_binary is (accept != JSON)
    assert page.metadata.continue_
    assert head_of_page(body[0]) == page.metadata


@pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS)
def test_a_watch_tells_what_has_changed(plane: ControlPlane, paths: dict[str, str], accept: str) -> None:
    path = paths["Pod on a node"]

    async def read(client: ApiClient) -> WatchEvent[SeenPod]:
        since = await _version(client)
        await _label(client, path)
        async for event in _events(client, since, accept):
            return event
        raise AssertionError("the watch told nothing")

    event = asking(plane, read)
    now = PODS.reader.one(plane.api.ask("GET", path).body)

    assert (event.type, event.version, event.object.title) == ("MODIFIED", now.version, now.title)
    assert ValueInterner().pod(event.object) == ValueInterner().pod(now)


@pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS)
def test_a_short_watch_proves_that_no_pod_changed(plane: ControlPlane, paths: dict[str, str], accept: str) -> None:
    async def read(client: ApiClient) -> tuple[int, WatchEvent[SeenPod]]:
        since = await _version(client)
        await _label(client, paths["Namespace"])
        until = await _version(client)
        async for event in _events(client, since, accept):
            if event.type == "BOOKMARK" or event.object.title.startswith(
                "encodings/"
            ):  # those of other tests go on ending
                return int(until), event
        raise AssertionError("the watch told nothing")

    until, event = asking(plane, read)

    assert event.type == "BOOKMARK"
    assert int(event.version) >= until


async def _version(client: ApiClient) -> str:
    return PODS.reader.page(await client.get(PODS.path, {"limit": "1"})).metadata.resource_version


async def _events(client: ApiClient, since: str, accept: str) -> AsyncIterator[WatchEvent[SeenPod]]:
    async with client.stream(PODS.path, watch_params(since, 3), 8, accept=accept) as answer:
        async for parts in complete_parts(answer):
            for part in parts:
                assert isinstance(part, ProtobufFrame) is (accept != JSON)
                yield PODS.reader.event(part)


async def _label(client: ApiClient, path: str) -> None:
    await client.send("PATCH", path, {}, {"metadata": {"labels": {"changed": secrets.token_hex(4)}}})


@pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS)
def test_an_error_is_read_in_the_encoding_that_was_asked_for(plane: ControlPlane, accept: str) -> None:
    async def read(client: ApiClient) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await client.get(PODS.path, {"limit": "1", "continue": "nonsense"}, accept=accept)
        return caught.value

    error = asking(plane, read)

    assert (error.status, error.reason) == (400, "BadRequest")
    assert "continue" in error.message
