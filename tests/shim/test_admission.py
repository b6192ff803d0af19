from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from shimkit import (
    RECORDED,
    FakeAllocator,
    Json,
    answering,
    body,
    container,
    decide,
    granted,
    pod,
    port,
    recorded,
    review,
    run,
    shown,
)

from hostport.contract import Mistake
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import REMEDIES, admit, denial_message, users_field
from shim.outcomes import About, Refusal, Unreachable
from shim.pods import parse_pod
from shim.review import ReviewError

WEB = pod(container("a", port("web")))
ABOUT = About(request_id="u-1", namespace="demo", name="web-3", policy="INDEX")
MISTAKE = Mistake("NO_INDEX", "index", "policy Index needs an index")


def test_a_pod_that_does_not_ask_is_allowed_untouched() -> None:
    allocate, asked = answering()

    answer = decide(pod(annotations={"enabled": "false"}), allocate)

    assert shown(answer) == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1", "allowed": True},
    }
    assert asked == []


def test_a_pod_without_ports_is_allowed_with_a_warning() -> None:
    answer = decide(pod(container("a")), answering()[0])

    why = "no container has a port, so there is nothing to allocate: the Pod is left untouched"
    assert shown(answer)["response"] == {"uid": "u-1", "allowed": True, "warnings": [f"NO_PORTS: {why}"]} | {
        "auditAnnotations": {"warnings": "NO_PORTS"}
    }


def test_an_allocation_becomes_a_patch_and_an_audit_note() -> None:
    answer = decide(WEB, answering(granted(("a", "web", 8080, 7003)))[0])

    response = shown(answer)["response"]
    assert {key: response[key] for key in response if key not in {"patch", "warnings"}} == {
        "uid": "u-1",
        "allowed": True,
        "patchType": "JSONPatch",
        "auditAnnotations": {"allocation-id": "a" * 32, "warnings": "PORT_MOVED"},
    }
    assert (answer.about.namespace, answer.about.name, answer.about.policy) == ("demo", "web-3", "INDEX")
    assert (answer.result, answer.allocation_id, answer.numbers) == ("patched", "a" * 32, (7003,))


@pytest.mark.parametrize("code", [422, 403])
def test_a_refusal_is_an_answer_in_the_users_words(code: int) -> None:
    refused = Refusal(code, (Mistake("HELD_BY_LEASE", "ports[0].host_port", "port 80 is taken"),))

    answer = decide(WEB, answering(refused)[0])

    assert shown(answer)["response"] == {
        "uid": "u-1",
        "allowed": False,
        "status": {
            "status": "Failure",
            "code": code,
            "reason": "HELD_BY_LEASE",
            "message": "HELD_BY_LEASE: spec.containers[0].ports[0].hostPort: port 80 is taken",
        },
        "auditAnnotations": {"reason": "HELD_BY_LEASE"},
    }


def test_several_mistakes_are_one_message() -> None:
    refused = Refusal(422, (MISTAKE, Mistake("NEW_REASON", "", "something of a later version")))

    status = shown(decide(WEB, answering(refused)[0]))["response"]["status"]

    assert status["reason"] == "NO_INDEX"
    assert status["message"] == (
        f"2 mistakes: (1) NO_INDEX: metadata.name: policy Index needs an index. {REMEDIES['NO_INDEX']};"
        " (2) NEW_REASON: something of a later version"
    )


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        pytest.param("range.min", "annotation hostport.io/min-port", id="min"),
        pytest.param("range.max", "annotation hostport.io/max-port", id="max"),
        pytest.param("range", "annotations hostport.io/min-port, hostport.io/max-port", id="range"),
        pytest.param("stride", "annotation hostport.io/stride", id="stride"),
        pytest.param("ports[1]", "spec.initContainers[1].ports[0]", id="a port"),
        pytest.param(
            "ports[1].container_port", "spec.initContainers[1].ports[0].containerPort", id="its containerPort"
        ),
        pytest.param("ports[0].host_ip", "spec.containers[0].ports[0].hostIP", id="its hostIP"),
        pytest.param("ports[0].protocol", "spec.containers[0].ports[0].protocol", id="another leaf"),
        pytest.param("ports[7]", "ports[7]", id="a port that is not there"),
        pytest.param("owner.name", "owner.name", id="anything else"),
    ],
)
def test_a_field_of_the_request_is_named_as_the_user_wrote_it(field: str, expected: str) -> None:
    made = pod(
        container("a", port("web")),
        initContainers=[container("i", port("x")), container("s", port("y"), restartPolicy="Always")],
    )

    assert users_field(field, parse_pod(made)) == expected


def test_an_allocator_out_of_reach_is_no_answer() -> None:
    lost = Unreachable("ALLOCATOR_UNREACHABLE", "gone")
    allocate, _ = answering(lost)

    assert run(admit(body(WEB), allocate, probe=allocate)) == replace(lost, about=ABOUT)


def test_an_answer_that_does_not_fit_is_no_answer() -> None:
    allocate, _ = answering(granted())

    outcome = run(admit(body(WEB), allocate, probe=allocate))

    expected = "the allocator's answer does not fit: asked for 1 ports, got 0"
    assert outcome == Unreachable("ALLOCATOR_UNREACHABLE", expected, ABOUT)


# -- what the allocator would find wrong besides

WRONG = pod(container("a", port("web")), annotations={"dns-policy": "x"})
WRONG_RANGE = pod(container("a", port("web")), annotations={"min-port": "x"})
OURS = ("UNKNOWN_VALUE", "NOT_A_NUMBER")


@pytest.mark.parametrize(
    ("what", "outcome", "reasons"),
    [
        pytest.param(WRONG, Refusal(422, (MISTAKE,)), ["UNKNOWN_VALUE", "NO_INDEX"], id="mistakes are merged"),
        pytest.param(
            WRONG,
            Refusal(422, (Mistake("RANGE_INVERTED", "range", "x"),)),
            ["UNKNOWN_VALUE", "RANGE_INVERTED"],
            id="of the user's own range too",
        ),
        pytest.param(
            WRONG_RANGE,
            Refusal(422, (Mistake("PORT_RESERVED", "range.min", "x"), MISTAKE)),
            ["NOT_A_NUMBER", "NO_INDEX"],
            id="not of a range that nobody asked for",
        ),
        pytest.param(WRONG, Refusal(403, (Mistake("PORT_CONFLICT", "", "x"),)), ["UNKNOWN_VALUE"], id="no conflicts"),
        pytest.param(WRONG, Unreachable("NOT_SERVING", "x"), ["UNKNOWN_VALUE"], id="the allocator is away"),
        pytest.param(WRONG, granted(("a", "web", 8080, 1)), ["UNKNOWN_VALUE"], id="nothing else is wrong"),
    ],
)
def test_a_denied_pod_is_told_what_else_is_wrong(
    what: Json, outcome: AllocateResponse | Refusal | Unreachable, reasons: list[str]
) -> None:
    probe, asked = answering(outcome)

    answer = decide(what, probe)

    message = shown(answer)["response"]["status"]["message"]
    known = {*OURS, "NO_INDEX", "RANGE_INVERTED", "PORT_RESERVED", "PORT_CONFLICT"}
    assert shown(answer)["response"]["status"]["code"] == 422
    assert [reason for reason in sorted(known, key=message.find) if reason in message] == reasons
    assert [request.dry_run for request in asked] == [True]


# -- nothing that anybody sends makes us fail

JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**31, 10**40, 1.5, "", "x", "\ud800", [], [None], [1], {}, {"a": None}, [{}]]
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in below for path in paths(each, (*at, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


REVIEWS = [recorded(path.stem) for path in sorted(RECORDED.glob("*.json"))] + [
    review(
        pod(
            container(
                "a",
                port("web", hostPort=5, hostIP="::"),
                env=[{"name": "HOSTPORT_WEB", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                livenessProbe={"httpGet": {"port": 8080, "host": ""}},
                lifecycle={"preStop": {"tcpSocket": {"port": 1}}},
            ),
            initContainers=[container("i", port("x", 2), restartPolicy="Always")],
            annotations={"min-port": "1", "allocation-id": "x"},
            securityContext={"sysctls": [{"name": "a"}]},
            os={"name": "linux"},
            nodeSelector={"a": "b"},
        )
    )
]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_a_review_holds_it_is_answered_or_the_callers_fault(data: st.DataObject) -> None:
    what: Any = data.draw(st.sampled_from(REVIEWS))
    for _ in range(data.draw(st.integers(1, 3))):
        what = replaced(what, data.draw(st.sampled_from(paths(what))), data.draw(JUNK))

    try:
        answer = run(admit(json.dumps(what).encode(), lenient, probe=lenient))
    except ReviewError:
        return
    assert not isinstance(answer, Unreachable)
    json.dumps(shown(answer)).encode()


async def lenient(request: AllocateRequest) -> AllocateResponse:
    """Grants whatever fits on the wire."""
    request.SerializeToString()
    if not request.HasField("index"):
        request.index = 0
    return await FakeAllocator()(request)


@given(st.binary())
def test_any_bytes_are_answered_or_the_callers_fault(data: bytes) -> None:
    with pytest.raises(ReviewError):
        run(admit(data, lenient, probe=lenient))


def test_hundreds_of_mistakes_are_counted_and_the_first_ones_told() -> None:
    message = denial_message([MISTAKE] * 300)

    assert message.startswith("300 mistakes: (1) ")
    assert message.endswith("; and 280 more")
    assert message.count("policy Index needs an index") == 20
