"""A mini language for Pods and reviews, and a small allocator that is only as clever as the tests need."""

from __future__ import annotations

import base64
import json
from collections.abc import Coroutine
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import jsonpatch

from hostport.v1.allocator_pb2 import (
    POLICY_DYNAMIC,
    POLICY_INDEX,
    POLICY_PASSTHROUGH,
    PROTOCOL_TCP,
    AllocatedPort,
    AllocateRequest,
    AllocateResponse,
    Allocation,
    PortRequest,
    Protocol,
)
from shim.admission import AdmissionAnswer, admit
from shim.outcomes import Allocate, Refusal, Unreachable

RECORDED = Path(__file__).parent.parent / "testdata" / "admission"

Json = dict[str, Any]
_T = TypeVar("_T")


def recorded(name: str) -> Json:
    """A review that a real API server sent."""
    review: Json = json.loads((RECORDED / f"{name}.json").read_text())
    return review


def port(name: str = "", number: int = 8080, protocol: str = "TCP", **more: Any) -> Json:
    return ({"name": name} if name else {}) | {"containerPort": number, "protocol": protocol} | more


def container(name: str = "app", *ports: Json, **more: Any) -> Json:
    return {"name": name, "image": "x"} | ({"ports": list(ports)} if ports else {}) | more


def pod(*containers: Json, annotations: Json | None = None, metadata: Json | None = None, **spec: Any) -> Json:
    """A Pod `web-3` that asks for ports; `annotations` are the `hostport.io/` ones, without the prefix."""
    asked = {f"hostport.io/{name}": value for name, value in ({"enabled": "true"} | (annotations or {})).items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-3", "namespace": "demo", "annotations": asked} | (metadata or {}),
        "spec": {"containers": list(containers), "dnsPolicy": "ClusterFirst"} | spec,
    }


def review(obj: Json | None, **request: Any) -> Json:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "demo",
            "operation": "CREATE",
            "object": obj,
        }
        | request,
    }


def body(what: Json) -> bytes:
    """The bytes of a review, or of the review of a Pod."""
    return json.dumps(what if what.get("kind") == "AdmissionReview" else review(what)).encode()


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waits")


def decide(what: Json, allocate: Allocate) -> AdmissionAnswer:
    answer = run(admit(body(what), allocate, probe=allocate))
    assert isinstance(answer, AdmissionAnswer)
    return answer


def shown(answer: AdmissionAnswer) -> Json:
    """The AdmissionReview that the API server gets."""
    review: Json = json.loads(answer.body)
    return review


def patched(obj: Json, answer: AdmissionAnswer) -> Json:
    """The Pod after the patch as the API server would apply it."""
    response = shown(answer)["response"]
    assert response["allowed"], response
    ops = json.loads(base64.b64decode(response.get("patch", "W10=")))
    result: Json = jsonpatch.apply_patch(deepcopy(obj), ops)
    return result


def answering(*outcomes: AllocateResponse | Refusal | Unreachable) -> tuple[Allocate, list[AllocateRequest]]:
    """An allocator that gives these answers, the last one for ever, and the list of what it was asked."""
    asked: list[AllocateRequest] = []

    async def allocate(request: AllocateRequest) -> AllocateResponse | Refusal | Unreachable:
        asked.append(request)
        return outcomes[min(len(asked), len(outcomes)) - 1]

    return allocate, asked


class FakeAllocator:
    """Numbers by policy without looking at the world, remembers its claims, and takes up its own again."""

    def __init__(self) -> None:
        self.claims: dict[str, list[AllocatedPort]] = {}

    async def __call__(self, request: AllocateRequest) -> AllocateResponse:
        known = self.claims.get(request.allocation_id)
        ports = _taken_up(request, known) if known else _numbered(request)
        claim = request.allocation_id if known else ("" if request.dry_run else f"{len(self.claims) + 1:032x}")
        if claim:
            self.claims[claim] = ports
        return AllocateResponse(allocation=Allocation(id=claim, ports=ports))


def _numbered(request: AllocateRequest) -> list[AllocatedPort]:
    groups: dict[tuple[str, int], int] = {}
    sizes: list[int] = []
    ports = []
    for each in request.ports:
        at = groups.setdefault((each.container, each.container_port), len(groups))
        sizes += [each.count or 1] if at == len(sizes) else []
        is_default = request.host_network and each.host_port == each.container_port
        is_unset = is_default or each.former
        number = 0 if is_unset and request.policy in {POLICY_INDEX, POLICY_DYNAMIC} else each.host_port
        if request.policy == POLICY_INDEX:
            number = number or request.range.min + request.index + request.stride * at
        if request.policy == POLICY_PASSTHROUGH:
            number = number or each.container_port
        ports.append(_allocated(each, each.container_port, number or 20000 + sum(sizes[:at])))
    return ports


def _taken_up(request: AllocateRequest, known: list[AllocatedPort]) -> list[AllocatedPort]:
    """By container, name, protocol and number; what appeared since is held as it stands."""
    ports = []
    for each in request.ports:
        if not each.host_port and not request.host_network:
            continue  # it is on no host
        mine = [
            old
            for old in known
            if (old.container, old.name, old.protocol, old.host_port)
            == (each.container, each.name, each.protocol, each.host_port)
        ]
        if not mine:
            mine = [_allocated(each, each.container_port, each.container_port)]
            mine[0].appeared = True
        ports.append(mine[0])
    return ports


def _allocated(each: PortRequest, old: int, number: int) -> AllocatedPort:
    return AllocatedPort(
        container=each.container,
        name=each.name,
        protocol=each.protocol,
        container_port=old,
        host_port=number,
        count=each.count,
    )


def granted(*ports: tuple[str, str, int, int], id: str = "a" * 32) -> AllocateResponse:  # noqa: A002 - its name
    """An answer; each port is (container, name, old, number), over TCP, or over UDP where the name ends in `/UDP`."""
    return AllocateResponse(
        allocation=Allocation(
            id=id,
            ports=[
                AllocatedPort(
                    container=where,
                    name=name.removesuffix("/UDP"),
                    protocol=Protocol.Value("PROTOCOL_UDP") if name.endswith("/UDP") else PROTOCOL_TCP,
                    container_port=old,
                    host_port=number,
                )
                for where, name, old, number in ports
            ],
        )
    )
