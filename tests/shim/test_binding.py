"""With the write that gives a Pod its node the Pod is told where clients dial that node."""

from __future__ import annotations

import base64
import json
import logging
from copy import deepcopy

import jsonpatch
import pytest
from shimkit import Json, recorded, run
from standin import StandIn
from test_shim_web import running
from tornado.httputil import HTTPHeaders

from hostport.v1.allocator_pb2 import GetNodeAddressResponse
from shim.binding import BindingAnswer, answer_binding
from shim.outcomes import About
from shim.review import ReviewError
from shim.webhook import LARGEST_REVIEW
from testing.costing import milliseconds

ADDRESS = GetNodeAddressResponse(address="198.51.100.7", ipv4="198.51.100.7")
BOTH = GetNodeAddressResponse(address="198.51.100.7", ipv4="198.51.100.7", ipv6="2001:db8::7")
NAME = GetNodeAddressResponse(address="media-7.example.org")
IP, V4, V6 = "hostport.io/external-ip", "hostport.io/external-ip-v4", "hostport.io/external-ip-v6"


def bound(review: Json, found: GetNodeAddressResponse | None = ADDRESS) -> BindingAnswer:
    async def address_of(node: str) -> GetNodeAddressResponse | None:
        assert node == "n1"
        return found

    return run(answer_binding(json.dumps(review).encode(), address_of))


def response(answer: BindingAnswer) -> Json:
    shown: Json = json.loads(answer.body)
    assert (shown["apiVersion"], shown["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    inner: Json = shown["response"]
    return inner


def told(review: Json, answer: BindingAnswer) -> Json:
    """The annotations of the Binding after the patch, as the API server would apply it."""
    inner = response(answer)
    assert inner["allowed"]
    ops = json.loads(base64.b64decode(inner.get("patch", "W10=")))
    patched = jsonpatch.apply_patch(deepcopy(review["request"]["object"]), ops)
    assert {**patched, "metadata": {}} == {**review["request"]["object"], "metadata": {}}, "nothing else is touched"
    found: Json = patched["metadata"].get("annotations", {})
    return found


def binding(brings: Json | None = None) -> Json:
    """The binding that a real API server sent, with some annotations."""
    review = recorded("binding")
    if brings is not None:
        review["request"]["object"]["metadata"]["annotations"] = brings
    return review


def test_a_recorded_binding_gets_the_address_of_its_node() -> None:
    review = binding()
    answer = bound(review)

    assert told(review, answer) == {IP: "198.51.100.7", V4: "198.51.100.7"}
    assert response(answer)["uid"] == review["request"]["uid"]
    assert (answer.node, answer.address) == ("n1", "198.51.100.7")
    assert answer.about == About(request_id=review["request"]["uid"], namespace="games", name="badint-0")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (BOTH, {IP: "198.51.100.7", V4: "198.51.100.7", V6: "2001:db8::7"}),
        (NAME, {IP: "media-7.example.org"}),
        (None, {}),
    ],
    ids=["two families", "a name", "not known"],
)
def test_what_is_known_is_told(found: GetNodeAddressResponse | None, expected: Json) -> None:
    review = binding()

    assert told(review, bound(review, found)) == expected


@pytest.mark.parametrize(
    ("brings", "expected"),
    [
        ({}, {IP: "198.51.100.7", V4: "198.51.100.7"}),
        ({"a/b": "c"}, {"a/b": "c", IP: "198.51.100.7", V4: "198.51.100.7"}),
        ({IP: "6.6.6.6", V4: "6.6.6.6", V6: "66::6"}, {IP: "198.51.100.7", V4: "198.51.100.7"}),
        ({IP: "198.51.100.7", V4: "198.51.100.7"}, {IP: "198.51.100.7", V4: "198.51.100.7"}),
    ],
    ids=["none", "of others", "forged", "what is right already"],
)
def test_annotations_that_a_binding_brings_are_ours_or_left_alone(brings: Json, expected: Json) -> None:
    review = binding(brings)

    assert told(review, bound(review)) == expected


@pytest.mark.parametrize(
    ("brings", "expected"),
    [({}, {}), ({"a/b": "c"}, {"a/b": "c"}), ({"a/b": "c", IP: "6.6.6.6", V4: "6.6.6.6", V6: "66::6"}, {"a/b": "c"})],
    ids=["none", "of others", "forged"],
)
def test_a_forged_address_is_removed_where_none_is_known(brings: Json, expected: Json) -> None:
    review = binding(brings)

    assert told(review, bound(review, None)) == expected


@pytest.mark.parametrize(
    "change",
    [{"target": {"kind": "Machine", "name": "n1"}}, {"target": {"kind": "Node", "name": ""}}, {"kind": "Pod"}],
    ids=["another target", "no node", "no binding"],
)
def test_what_is_no_binding_to_a_node_passes_and_asks_nobody(change: Json) -> None:
    review = binding()
    review["request"]["object"] |= change

    assert "patch" not in response(bound(review, ADDRESS if change.get("kind") else None))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"request": {}}', b'{"request": {"uid": 1}}', b'{"request": {"uid": "u", "object": 1}}'],
)
def test_what_is_no_review_is_the_callers_fault(body: bytes) -> None:
    async def address_of(node: str) -> None:
        raise AssertionError(node)

    with pytest.raises(ReviewError, match="malformed"):
        run(answer_binding(body, address_of))


# -- over the wire


@pytest.mark.parametrize(
    ("addresses", "is_absent", "expected", "result"),
    [
        ({"n1": ADDRESS}, False, {IP: "198.51.100.7", V4: "198.51.100.7"}, "addressed"),
        ({}, False, {}, "unaddressed"),
        ({}, True, {}, "unaddressed"),
    ],
    ids=["known", "unknown", "nobody to ask"],
)
async def test_the_shim_asks_the_allocator_and_lets_every_binding_pass(
    addresses: dict[str, GetNodeAddressResponse],
    is_absent: bool,
    expected: Json,
    result: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    review = binding()
    async with running(StandIn(addresses=addresses), is_absent=is_absent) as served:
        headers = HTTPHeaders({"Content-Type": "application/json"})
        asked = await served.ask(
            "/binding?timeout=2s", method="POST", body=json.dumps(review).encode(), headers=headers
        )
        metrics = (await served.side("/metrics")).body.decode()

    answer = BindingAnswer(body=asked.body, about=About(request_id=""), node="n1")
    assert (asked.code, told(review, answer)) == (200, expected)
    assert f'hostport_shim_answers_total{{reason="",result="{result}"}} 1.0' in metrics
    (line,) = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "admission"]
    assert (line["namespace"], line["name"], line["node"], line["address"], line["result"]) == (
        *("games", "badint-0", "n1", expected.get(IP, "")),
        result,
    )


async def test_what_is_no_binding_review_is_refused_over_the_wire() -> None:
    async with running() as served:
        headers = HTTPHeaders({"Content-Type": "application/json"})
        answer = await served.ask("/binding", method="POST", body=b"{}", headers=headers)

    assert answer.code == 400


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(b"[]", id="lists"),
        pytest.param(b"{}", id="objects"),
        pytest.param(b"1.2345678901234567e-300", id="slow numbers"),
        pytest.param(b"9" * 4300, id="long numbers"),
    ],
)
@pytest.mark.parametrize("key", [b"a", IP.encode()], ids=["another's annotation", "ours"])
def test_reading_the_largest_body_costs_less_than_a_turn_may(key: bytes, item: bytes) -> None:
    head = (
        b'{"request":{"uid":"u","object":{"kind":"Binding","target":{"name":"n1"},"metadata":{"annotations":{"%s":['
        % key
    )
    body = head + b",".join([item] * ((LARGEST_REVIEW - len(head) - 8) // (len(item) + 1))) + b"]}}}}}"

    async def address_of(node: str) -> GetNodeAddressResponse | None:
        return ADDRESS

    assert milliseconds(lambda: run(answer_binding(body, address_of))) < 50
