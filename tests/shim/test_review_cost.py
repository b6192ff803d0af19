"""What the largest reviews cost: the CPU of one turn of the event loop, whatever stands in a body of 3 MiB."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostport.contract import Reason
from hostport.contract.limits import LARGEST_ANSWER, MOST_PORTS, Bound
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import AdmissionAnswer, admit
from shim.allocation_request import rough_patch_bytes
from shim.annotations import PodSettings
from shim.outcomes import Refusal, Unreachable
from shim.patch import build_patch
from shim.pods import parse_pod
from shim.publishing import Publication
from shim.review import PatchOptions, ReviewError, ToAllocate, parse_review
from shim.sizes import patch_bytes
from shim.webhook import LARGEST_REVIEW
from testing.costing import milliseconds

Json = dict[str, Any]
MOST_MILLISECONDS = 50
HEAD = (
    b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE",'
    b'"kind":{"group":"","version":"v1","kind":"Pod"},"dryRun":true,"object":'
)
ASKS = b'{"metadata":{"name":"web-0","namespace":"demo","annotations":{"hostport.io/enabled":"true","hostport.io/policy":"Dynamic"}}'
PORTS = b'"ports":[{"containerPort":1}]'


def sparse(item: bytes) -> bytes:
    """An item so wide that the braces of a full body are as many as may be, about."""
    return item.ljust(98 * item.count(b"{"))


def full(before: bytes, item: bytes, after: bytes = b"", *, most: int = LARGEST_REVIEW) -> bytes:
    """A review with as many of an item as there is room for; `%d` in it counts."""
    start, end = HEAD + before, after + b"}}}"
    room = most - len(start) - len(end)
    if b"%d" not in item:
        return start + b",".join([item] * (room // (len(item) + 1))) + end
    items: list[bytes] = []
    size = 0
    while size < room - len(item) - 8:
        items.append(item.replace(b"%d", b"%x" % len(items)))
        size += len(items[-1]) + 1
    return start + b",".join(items) + end


def in_spec(before: bytes, item: bytes, after: bytes) -> bytes:
    return full(ASKS + b',"spec":{"containers":[{"name":"c",' + PORTS + b"}]," + before, item, after + b"}")


def in_container(before: bytes, item: bytes, after: bytes) -> bytes:
    return full(ASKS + b',"spec":{"containers":[{"name":"c",' + before, item, after + b"}]}")


def in_metadata(before: bytes, item: bytes, after: bytes) -> bytes:
    spec = b'},"spec":{"containers":[{"name":"c",' + PORTS + b"}]}"
    return full(b'{"metadata":{"name":"web-0",' + before, item, after + spec)


TERM = b'"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":['
BODIES: dict[str, Callable[[], bytes]] = {
    "lists": partial(in_spec, b'"x":[', b"[]", b"]"),
    "nested lists": partial(in_spec, b'"x":[', b"[" * 400 + b"]" * 400, b"]"),
    "objects": partial(in_spec, b'"x":[', b"{}", b"]"),
    "slow numbers": partial(in_spec, b'"x":[', b"1.2345678901234567e-300", b"]"),
    "long numbers": partial(in_spec, b'"x":[', b"9" * 4300, b"]"),
    "escaped text": partial(in_spec, b'"x":["', b"\\n" * 1000, b'"]'),
    "text that is not ASCII": partial(in_spec, b'"x":["', "é".encode() * 1000, b'"]'),
    "annotations": partial(in_metadata, b'"annotations":{"hostport.io/enabled":"true",', b'"%d":""', b"}"),
    "annotations up to the bound": partial(
        in_metadata, b'"annotations":{"hostport.io/enabled":"true",', b'"hostport.io/allocated-%d":"' + b"x" * 733 + b'"', b"}"
    ),
    "labels": partial(in_metadata, b'"annotations":{"hostport.io/enabled":"true"},"labels":{', b'"%d":""', b"}"),
    "managed fields": partial(
        in_metadata, b'"annotations":{"hostport.io/enabled":"true"},"managedFields":[', sparse(b'{"operation":"Update"}'), b"]"
    ),
    "owners": partial(
        in_metadata, b'"annotations":{"hostport.io/enabled":"true"},"ownerReferences":[', sparse(b'{"uid":"u"}'), b"]"
    ),
    "node selector": partial(in_spec, b'"nodeSelector":{', b'"%d":""', b"}"),
    "tolerations": partial(in_spec, b'"tolerations":[', b"{}", b"]"),
    "tolerations below the bound on braces": partial(in_spec, b'"tolerations":[', sparse(b'{"key":"xxxx"}'), b"]"),
    "terms": partial(in_spec, TERM, sparse(b'{"matchFields":[]}'), b"]}}}"),
    "expressions": partial(in_spec, TERM + b'{"matchExpressions":[', sparse(b'{"key":"a","values":["b"]}'), b"]}]}}}"),
    "values": partial(
        in_spec, TERM + b'{"matchExpressions":[{"key":"a","operator":"In","values":[', b'"%d"', b"]}]}]}}}"
    ),
    "containers": partial(full, ASKS + b',"spec":{"containers":[', sparse(b'{"name":"c"}'), b"]}"),
    "containers with probes": partial(
        full, ASKS + b',"spec":{"containers":[', sparse(b'{"livenessProbe":{"grpc":{"port":1}}}'), b"]}"
    ),
    "variables": partial(in_container, PORTS + b',"env":[', sparse(b'{"name":"HOSTPORT_%d","value":"00"}'), b"]"),
    "sources": partial(
        in_container, PORTS + b',"env":[', b'{"name":"HOSTPORT_A","valueFrom":[' + b"1.2345678901234567e-300," * 20 + b"1]}", b"]"
    ),
    "words": partial(in_container, PORTS + b',"args":[', b'"%d"', b"]"),
    "volumes": partial(in_spec, b'"volumes":[', sparse(b'{"name":"metadata.annotations"}'), b"]"),
    "ports": partial(in_container, b'"ports":[', sparse(b'{"containerPort":1' + b"9" * 29 + b"}"), b"]"),
    "ports with long numbers": partial(in_container, b'"ports":[', b'{"containerPort":' + b"9" * 4300 + b"}", b"]"),
    "a long name": partial(in_container, PORTS + b',"name":"', b"x" * 1000, b'"'),
    "no JSON at the end": lambda: in_spec(b'"x":["', b"x" * 1000, b'"')[:-1],
}  # fmt: skip


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES.keys())
def test_reading_the_largest_body_costs_less_than_a_turn_may(make: Callable[[], bytes]) -> None:
    body = make()
    assert len(body) <= LARGEST_REVIEW

    def read() -> None:
        with suppress(ReviewError):
            parse_review(body)

    assert milliseconds(read) < MOST_MILLISECONDS


# -- what is let in


def answer_to(request: AllocateRequest) -> AllocateResponse:
    """What an allocator gives: five digits for each port."""
    response = AllocateResponse()
    response.allocation.id = "" if request.dry_run else "f" * 32
    for at, port in enumerate(request.ports):
        got = response.allocation.ports.add()
        got.container, got.name, got.protocol = port.container, port.name, port.protocol
        got.container_port, got.host_port = port.container_port, 60000 - at
    return response


async def allocate(request: AllocateRequest) -> AllocateResponse | Refusal | Unreachable:
    return answer_to(request)


def review(ports: int, containers: int, variables: int = 0, name: str = "p", *, more: Json | None = None) -> bytes:
    """A dry run of a Pod: its first container has the ports, each container has so many variables."""
    annotations = {"hostport.io/enabled": "true", "hostport.io/policy": "Dynamic"} | (more or {})
    made: list[Json] = [
        {"name": f"c{at}", "livenessProbe": {"tcpSocket": {"port": 1}}}
        | ({"env": [{"name": f"HOSTPORT_P{n % 500}", "value": "1"} for n in range(variables)]} if variables else {})
        for at in range(containers)
    ]
    made[0]["ports"] = [{"name": f"{name}{at}", "containerPort": at + 1} for at in range(ports)]
    obj = {"metadata": {"name": "web-0", "annotations": annotations}, "spec": {"containers": made}}
    asked = {"uid": "u", "operation": "CREATE", "kind": {"version": "v1", "kind": "Pod"}, "namespace": "demo"}
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": asked | {"dryRun": True, "object": obj},
        }
    ).encode()


def containers_for(ports: int, variables: int, name: str) -> int:
    """As many containers as a Pod may have with these ports."""
    most = min(Bound.CONTAINERS.most, Bound.ENV.most // max(variables, 1))

    def is_refused(count: int) -> bool:
        return not isinstance(parse_review(review(ports, count, variables, name)), ToAllocate)

    return bisect_left(range(1, most + 1), True, key=is_refused)


@pytest.mark.parametrize(
    ("ports", "variables", "name"),
    [
        pytest.param(1, 0, "p", id="as many containers as may be"),
        pytest.param(1, 8, "p", id="as many variables as may be"),
        pytest.param(MOST_PORTS, 0, "p", id="as many ports as may be"),
        pytest.param(MOST_PORTS, 256, "p", id="as many ports, and variables that are replaced"),
        pytest.param(8, 4096, "p", id="as many variables as may be in one container"),
        pytest.param(40, 0, "p" * 240, id="long names"),
        pytest.param(40, 0, "\x01" * 240, id="names that are written as escapes"),
        pytest.param(100, 0, "p", id="100 ports"),
    ],
)
def test_the_largest_patch_is_built_within_a_turn_and_sent(ports: int, variables: int, name: str) -> None:
    body = review(ports, containers_for(ports, variables, name), variables, name)

    sent: list[tuple[str, int]] = []

    def answered() -> None:
        answer = asyncio.run(admit(body, allocate, probe=allocate))
        assert isinstance(answer, AdmissionAnswer)
        sent.append((answer.result, len(answer.body)))

    assert milliseconds(answered) < MOST_MILLISECONDS
    assert [result for result, _ in sent] == ["patched"] * len(sent)
    assert max(size for _, size in sent) <= LARGEST_ANSWER


MANY = Bound.ANNOTATIONS.most - 10
ASKED_OF_NAMES = {
    "publish annotations": {f"hostport.io/publish-q{at}": "env:A" for at in range(MANY)},
    "publish targets": {f"hostport.io/publish-p{at}": "env:A," * 300 + "env:A" for at in range(128)},
    "publish annotations as many as may be": {f"hostport.io/publish-q{at}": "env:A" for at in range(128)},
    "block annotations": {f"hostport.io/block-q{at}": "4" for at in range(MANY)},
    "block annotations as many as may be": {f"hostport.io/block-q{at}": "4" for at in range(128)},
    "annotations that nobody knows": {f"hostport.io/q{at}": "4" for at in range(MANY)},
    "annotations of another life": {f"hostport.io/allocated-q{at}": "4" for at in range(MANY)},
}


@pytest.mark.parametrize("more", ASKED_OF_NAMES.values(), ids=ASKED_OF_NAMES)
def test_annotations_that_name_ports_are_read_within_a_turn(more: Json) -> None:
    body = review(MOST_PORTS, 1, more=more)

    assert milliseconds(lambda: asyncio.run(admit(body, allocate, probe=allocate))) < MOST_MILLISECONDS


NUMBERS = "1 2 3 " * 10_000


@pytest.mark.parametrize("rewrites", [False, True], ids=["looked at", "rewritten"])
@pytest.mark.parametrize(
    ("ports", "words"),
    [
        pytest.param(3, [NUMBERS], id="one text full of numbers"),
        pytest.param(MOST_PORTS, [NUMBERS], id="and of as many ports as may be"),
        pytest.param(3, ["x:1 " * 15_000], id="peers"),
        pytest.param(3, ["nc -z x 1 " * 6_000], id="peers behind programs"),
        pytest.param(3, [("x" * 240 + ":1 ") * 250], id="peers with long names"),
        pytest.param(MOST_PORTS, ["1"] * 2_000, id="many short words"),
    ],
)
def test_texts_are_read_within_a_turn(ports: int, words: list[str], rewrites: bool) -> None:
    made = json.loads(review(ports, 1, more={"hostport.io/rewrite": "true"} if rewrites else {}))
    made["request"]["object"]["spec"]["containers"][0]["args"] = words
    body = json.dumps(made).encode()

    results: list[str] = []

    def answered() -> None:
        answer = asyncio.run(admit(body, allocate, probe=allocate))
        assert isinstance(answer, AdmissionAnswer)
        results.append(answer.result)

    assert milliseconds(answered) < MOST_MILLISECONDS
    assert set(results) == {"patched"}


async def test_512_ports_in_5000_containers_are_refused_with_what_is_too_much() -> None:
    answer = await admit(review(512, 5000), allocate, probe=allocate)

    assert isinstance(answer, AdmissionAnswer)
    assert (answer.result, answer.detail) == (
        "denied",
        "TOO_COMPLEX: spec.containers: 5,000 containers and init containers are more than 512. Split the Pod",
    )


async def test_a_patch_that_would_be_too_large_is_refused_before_anybody_is_asked() -> None:
    async def nobody(request: AllocateRequest) -> AllocateResponse | Refusal | Unreachable:
        raise AssertionError("nothing may be allocated for it")

    answer = await admit(review(512, 512), nobody, probe=nobody)

    assert isinstance(answer, AdmissionAnswer)
    assert answer.reason == Reason.TOO_COMPLEX.name
    assert "bytes of the patch" in answer.detail


async def test_without_variables_it_is_let_in() -> None:
    without = {"hostport.io/inject-env": "false"}

    answer = await admit(review(512, 512, more=without), allocate, probe=allocate)

    assert isinstance(answer, AdmissionAnswer)
    assert answer.result == "patched"


NAMES = st.text(st.sampled_from(["a", "-", "ß", "é", "\x01", '"', "\\", "/", "~", "漢"]), max_size=20)
PORTS_OF_ANY = st.fixed_dictionaries({"name": NAMES, "containerPort": st.integers(1, 5) | st.integers(1, 65535)})
VARIABLES = st.fixed_dictionaries(
    {"name": st.sampled_from(["HOSTPORT_HOST_IP", "HOSTPORT_A", "HOSTPORT_7", "A"]), "value": NAMES | st.just("1 2")}
)
WORDS = st.lists(st.sampled_from(["1 2 3", ":1", "x:2", "1,1,1", '"1"\\1\x01', "ß"]), max_size=3)
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES, "ports": st.lists(PORTS_OF_ANY, max_size=6)},
    optional={
        "args": WORDS,
        "command": WORDS,
        "env": st.lists(VARIABLES, max_size=4),
        "livenessProbe": st.just({"httpGet": {"port": 80}, "tcpSocket": {"port": 81}}),
    },
)
STALE = st.dictionaries(NAMES.map(lambda name: f"hostport.io/allocated-{name}"), NAMES, max_size=4)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(CONTAINERS, min_size=1, max_size=6), STALE, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 3)
)
def test_a_patch_is_never_larger_than_it_was_foretold(
    containers: list[Json], stale: Json, inject_env: bool, rewrites: bool, own_network: bool, targets: int
) -> None:
    raw = {"metadata": {"annotations": stale}, "spec": {"containers": containers}}
    pod = parse_pod(raw)
    kinds = [("env", "A"), ("annotation", "x" * 253 + "/" + "y" * 63), ("label", "z" * 253 + "/" + "y" * 63)]
    published = tuple(Publication(*kinds[at], (0,)) for at in range(targets if pod.ports else 0))
    request = AllocateRequest()
    for port in pod.ports:
        request.ports.add(container=port.container, name=port.name, protocol=1, container_port=port.container_port)

    options = PatchOptions(
        settings=PodSettings(inject_env=inject_env, rewrites=rewrites, own_network=own_network), publications=published
    )
    ops, _ = build_patch(pod, answer_to(request), options)

    foretold = patch_bytes(pod, inject_env=inject_env, rewrites=rewrites, targets=len(published))
    assert len(msgspec.json.encode(ops)) <= foretold
    assert foretold <= rough_patch_bytes(pod, rewrites=rewrites, targets=len(published))
