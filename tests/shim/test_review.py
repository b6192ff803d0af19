from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from shimkit import RECORDED, Json, body, container, pod, port, recorded, review

from hostport.contract import policies as contract
from hostport.v1.allocator_pb2 import (
    POLICY_DYNAMIC,
    POLICY_INDEX,
    POLICY_STATIC,
    WHEN_FULL_PENDING,
    AllocateRequest,
    NodeConstraints,
    NodeRequirement,
    NodeTerm,
    Toleration,
)
from shim.annotations import PodSettings
from shim.outcomes import About
from shim.review import Denied, NotOurs, PatchOptions, ReviewError, ToAllocate, parse_review


def asked(what: Json) -> ToAllocate:
    found = parse_review(body(what))
    assert isinstance(found, ToAllocate), found
    return found


def denied(what: Json) -> Denied:
    found = parse_review(body(what))
    assert isinstance(found, Denied), found
    return found


def mistakes(what: Json) -> list[tuple[str, str]]:
    return [(each.reason, each.field) for each in denied(what).mistakes]


def index_of(found: ToAllocate) -> int | None:
    return found.request.index if found.request.HasField("index") else None


# -- what a real API server sends


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("statefulset-pod-0", (POLICY_INDEX, 10000, 11000, 0), id="the README's example, replica 0"),
        pytest.param("statefulset-pod-1", (POLICY_INDEX, 10000, 11000, 1), id="the README's example, replica 1"),
        pytest.param("indexed-job-pod-0", (POLICY_INDEX, 7000, 8000, 0), id="a job's index, though the name is empty"),
        pytest.param("bare-pod-dry-run", (POLICY_INDEX, 7000, 8000, 0), id="a bare Pod's name ends in its index"),
        pytest.param("deployment-pod", (POLICY_DYNAMIC, 7000, 8000, None), id="a Deployment's Pod has no name"),
        pytest.param("daemonset-pod", (POLICY_DYNAMIC, 7000, 8000, None), id="a DaemonSet's Pod"),
        pytest.param("node-name-pod", (POLICY_DYNAMIC, 7000, 7010, None), id="min and max"),
        pytest.param("host-network-template-pod", (POLICY_DYNAMIC, 7000, 8000, None), id="hostNetwork in the template"),
        pytest.param("static-pod", (POLICY_STATIC, 7000, 8000, None), id="Static has no index"),
    ],
)
def test_a_recorded_pod_becomes_a_request(name: str, expected: tuple[int, int, int, int | None]) -> None:
    found = asked(recorded(name))

    request = found.request
    assert (request.policy, request.range.min, request.range.max, index_of(found)) == expected
    assert request.stride == 100
    assert request.request_id == found.about.request_id == recorded(name)["request"]["uid"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("binding", "a subresource", id="pods/binding CREATE"),
        pytest.param("delete-pod", "not a CREATE", id="DELETE"),
    ],
)
def test_a_recorded_review_that_creates_no_pod_is_left_alone(name: str, why: str) -> None:
    what = recorded(name)

    assert parse_review(body(what)) == NotOurs(about=About(request_id=what["request"]["uid"]), why=why)


def test_every_recorded_review_is_tested_here() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {
        "bare-pod-dry-run",
        "binding",
        "daemonset-pod",
        "delete-pod",
        "deployment-pod",
        "host-network-template-pod",
        "indexed-job-pod-0",
        "node-name-pod",
        "statefulset-pod-0",
        "statefulset-pod-1",
        "static-pod",
    }


def test_a_statefulsets_pod_is_asked_for_whole() -> None:
    assert MessageToDict(asked(recorded("statefulset-pod-1")).request, preserving_proto_field_name=True) == {
        "request_id": "b52efe5e-3c5c-479f-b095-08cfa11139d6",
        "owner": {
            "kind": "Pod",
            "namespace": "demo",
            "name": "distributed-db-1",
            "generate_name": "distributed-db-",
            "controller_uid": "d6ec3554-40b8-4595-9827-f3d40f5584af",
        },
        "policy": "POLICY_INDEX",
        "range": {"min": 10000, "max": 11000},
        "stride": 100,
        "index": 1,
        "ports": [
            {"container": "node", "name": "primary", "protocol": "PROTOCOL_TCP", "container_port": 8080},
            {"container": "node", "name": "metrics", "protocol": "PROTOCOL_TCP", "container_port": 9090},
        ],
        "constraints": {
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
            ]
        },
        "may_preempt": True,
        "controller": {"api_version": "apps/v1", "kind": "StatefulSet", "name": "distributed-db"},
    }


def test_a_daemonsets_pod_names_its_node_in_match_fields() -> None:
    only_n1 = NodeRequirement(key="metadata.name", operator="In", values=["n1"])

    found = asked(recorded("daemonset-pod")).request

    assert list(found.constraints.required_affinity) == [NodeTerm(match_fields=[only_n1])]
    assert len(found.constraints.tolerations) == 6


def test_a_dry_run_says_so() -> None:
    assert asked(recorded("bare-pod-dry-run")).request.dry_run
    assert not asked(recorded("statefulset-pod-0")).request.dry_run


def test_host_network_of_the_template_is_told() -> None:
    request = asked(recorded("host-network-template-pod")).request

    assert (request.host_network, request.ports[0].host_port) == (True, 8080)
    assert not asked(recorded("static-pod")).request.host_network


# -- what is left alone


@pytest.mark.parametrize(
    ("what", "why"),
    [
        pytest.param(review(pod(annotations={"enabled": "false"})), "hostport.io/enabled is not true", id="false"),
        pytest.param(review({"metadata": {}}), "hostport.io/enabled is not true", id="no annotation"),
        pytest.param(review({"metadata": None, "spec": 5}), "hostport.io/enabled is not true", id="a strange Pod"),
        pytest.param(review(pod(), operation="UPDATE"), "not a CREATE", id="UPDATE"),
        pytest.param(review(pod(), subResource="eviction"), "a subresource", id="eviction"),
        pytest.param(review(pod(), kind={"version": "v1", "kind": "Binding"}), "not a Pod", id="a Binding"),
        pytest.param(review(pod(), kind={"group": "x", "version": "v1", "kind": "Pod"}), "not a Pod", id="not core"),
        pytest.param(review(pod(), kind=None), "not a Pod", id="no kind"),
        pytest.param(
            review(pod(container("a", port()), annotations={"policy": "Nope"}, metadata={"annotations": None})),
            "hostport.io/enabled is not true",
            id="annotations null",
        ),
        pytest.param(
            review(
                pod(metadata={"annotations": {"hostport.io/enabled": "true", "kubernetes.io/config.mirror": "x"}}),
            ),
            "a mirror Pod",
            id="a mirror Pod",
        ),
    ],
)
def test_who_does_not_ask_is_left_alone(what: Json, why: str) -> None:
    assert parse_review(body(what)) == NotOurs(about=About(request_id="u-1"), why=why)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(pod(container("app")), id="no ports"),
        pytest.param(pod(container("app", ports=None)), id="ports null"),
        pytest.param(pod(container("app", ports=[])), id="ports empty"),
        pytest.param(pod(containers=None), id="containers null"),
        pytest.param(pod(container("app"), initContainers=[container("init", port())]), id="ordinary init container"),
        pytest.param(pod(container("app"), hostUsers=False), id="and what hostNetwork forbids does not matter"),
    ],
)
def test_a_pod_without_ports_is_left_alone_with_a_warning(what: Json) -> None:
    found = parse_review(body(what))

    assert isinstance(found, NotOurs)
    assert [warning.reason for warning in found.warnings] == ["NO_PORTS"]


def test_annotation_mistakes_come_before_the_missing_ports() -> None:
    assert mistakes(pod(container("app"), annotations={"policy": "index"})) == [
        ("UNKNOWN_POLICY", "annotation hostport.io/policy")
    ]


# -- bodies that are no review

DEEP = '{"x":' + "[" * 3_000_000  # more than any stack holds: from Python 3.14 on that alone is the bound


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "the body is not JSON: Input data was truncated", id="empty"),
        pytest.param(b"hello", "the body is not JSON: JSON is malformed", id="no JSON"),
        pytest.param(b'{"a": NaN}', "the body is not JSON: JSON is malformed", id="NaN"),
        pytest.param(
            b'{"a": ' + b"9" * 5000 + b"}",
            "the body is not JSON: Integer value out of range",
            id="a number without end",
        ),
        pytest.param(b'{"kind": "\xff"}', "the body is not UTF-8: invalid start byte at byte 10", id="no UTF-8"),
        pytest.param(json.dumps({"a": 1}).encode("utf-16"), "the body is not UTF-8", id="UTF-16"),
        pytest.param(DEEP.encode(), "the body is nested too deeply", id="deep"),
        pytest.param(b"[]", "the body must be an object, not a list", id="a list"),
        pytest.param(b"{}", 'expected AdmissionReview of admission.k8s.io/v1, got kind "" of ""', id="empty object"),
        pytest.param(
            body(review(pod()) | {"apiVersion": "admission.k8s.io/v1beta1"}),
            'expected AdmissionReview of admission.k8s.io/v1, got kind "AdmissionReview" of "admission.k8s.io/v1beta1"',
            id="another version",
        ),
        pytest.param(json.dumps(pod()).encode(), 'got kind "Pod" of "v1"', id="another kind"),
        pytest.param(
            body({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}),
            "the AdmissionReview has no request",
            id="no request",
        ),
        pytest.param(body(review(pod(), uid="")), "request.uid must have 1 to 128 characters", id="no uid"),
        pytest.param(body(review(pod(), uid="u" * 129)), "request.uid must have 1 to 128 characters", id="a long uid"),
        pytest.param(body(review(None)), "the CREATE of a Pod has no request.object", id="no object"),
        pytest.param(body(review(pod(), operation=5)), "request.operation must be a string, not 5", id="operation"),
    ],
)
def test_a_body_that_is_no_review_is_the_callers_fault(data: bytes, message: str) -> None:
    with pytest.raises(ReviewError) as raised:
        parse_review(data)

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        pytest.param(pod(containers="x"), 'spec.containers must be a list, not the string "x"', id="containers text"),
        pytest.param(pod(containers=[None]), "spec.containers[0] must be an object, not null", id="container null"),
        pytest.param(
            pod(container("a", ports={})), "spec.containers[0].ports must be a list, not an object", id="ports"
        ),
        pytest.param(
            pod(container("a", port(number="80"))),  # type: ignore[arg-type]
            'spec.containers[0].ports[0].containerPort must be an integer, not the string "80"',
            id="a port in quotes",
        ),
        pytest.param(
            pod(container("a", port(number=True))),
            "spec.containers[0].ports[0].containerPort must be an integer, not true",
            id="a boolean port",
        ),
        pytest.param(
            pod(container("a", port(hostPort=80.0))),
            "spec.containers[0].ports[0].hostPort must be an integer, not 80.0",
            id="a fraction",
        ),
        pytest.param(
            pod(container("a", port(), env=[{"name": 5}])),
            "spec.containers[0].env[0].name must be a string, not 5",
            id="env",
        ),
        pytest.param(
            pod(container("a", port(), env=[{"valueFrom": {"fieldRef": {"apiVersion": {}}}}])),
            "spec.containers[0].env[0].valueFrom.fieldRef.apiVersion must be a string, not an object",
            id="env from a field",
        ),
        pytest.param(
            pod(container("a", port(), livenessProbe={"httpGet": [1]})),
            "spec.containers[0].livenessProbe.httpGet must be an object, not a list",
            id="probe",
        ),
        pytest.param(
            pod(container("a", port()), metadata={"annotations": {"hostport.io/enabled": True}}),
            'metadata.annotations["hostport.io/enabled"] must be a string, not true',
            id="an annotation that is no text",
        ),
        pytest.param(
            pod(container("a", port("\ud800"))),
            "the body is not JSON: JSON is malformed: unexpected end of escaped utf-16 surrogate pair",
            id="surrogate",
        ),
        pytest.param(
            pod(container("a", port()), priority=2**31), "spec.priority must be a 32-bit integer", id="priority"
        ),
        pytest.param(
            pod(container("a", port()), tolerations=[5]),
            "spec.tolerations[0] must be an object, not 5",
            id="toleration",
        ),
    ],
)
def test_an_impossible_type_is_named(what: Json, message: str) -> None:
    with pytest.raises(ReviewError) as raised:
        parse_review(body(what))

    assert message in str(raised.value)


# -- annotations


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, (7000, 8000, 100), id="none"),
        pytest.param({"min-port": "10000"}, (10000, 11000, 100), id="min alone"),
        pytest.param({"min-port": "65000"}, (65000, 65535, 100), id="min alone near the end"),
        pytest.param({"max-port": "9000"}, (7000, 9000, 100), id="max alone"),
        pytest.param({"min-port": "1", "max-port": "65535", "stride": "65535"}, (1, 65535, 65535), id="the limits"),
        pytest.param({"min-port": "007000"}, (7000, 8000, 100), id="leading zeros"),
        pytest.param({"future": "yes", "allocated-web": "x"}, (7000, 8000, 100), id="unknown ones are ignored"),
    ],
)
def test_range_and_stride_are_always_explicit(annotations: Json, expected: tuple[int, int, int]) -> None:
    request = asked(pod(container("a", port()), annotations=annotations)).request

    assert (request.range.min, request.range.max, request.stride) == expected


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, (7000, 8000), id="none"),
        pytest.param({"policy": "Dynamic", "min-port": "9000"}, (9000, 10000), id="Dynamic has a range"),
        pytest.param({"policy": "Passthrough"}, None, id="Passthrough has none"),
        pytest.param({"policy": "Static"}, None, id="Static has none"),
    ],
)
def test_the_patch_is_told_what_bounds_the_numbers(annotations: Json, expected: tuple[int, int] | None) -> None:
    assert asked(pod(container("a", port()), annotations=annotations)).options.settings.range == expected


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, PodSettings(), id="none"),
        pytest.param({"dns-policy": "Keep"}, PodSettings(keep_dns=True), id="Keep"),
        pytest.param({"inject-env": "false"}, PodSettings(inject_env=False), id="no env"),
        pytest.param({"inject-env": "true"}, PodSettings(), id="env"),
    ],
)
def test_options_are_for_the_patch(annotations: Json, expected: PodSettings) -> None:
    assert asked(pod(container("a", port()), annotations=annotations)).options == PatchOptions(settings=expected)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1h", 3600.0), ("0s", 0.0), ("1.5", 1.5)], ids=str
)
def test_a_cool_down_is_passed_on(text: str, seconds: float) -> None:
    found = asked(pod(container("a", port()), annotations={"policy": "Dynamic", "cool-down": text}))

    assert found.request.cool_down.ToTimedelta().total_seconds() == seconds


def test_without_a_cool_down_the_allocators_counts() -> None:
    assert not asked(pod(container("a", port()))).request.HasField("cool_down")


@pytest.mark.parametrize("text", ["soon", "61m", "-1s", "", "10 m"])
def test_a_cool_down_that_is_none_is_denied(text: str) -> None:
    assert mistakes(pod(container("a", port()), annotations={"policy": "Dynamic", "cool-down": text})) == [
        ("INVALID_COOL_DOWN", "annotation hostport.io/cool-down")
    ]


def test_when_full_is_passed_on() -> None:
    found = asked(pod(container("a", port()), annotations={"when-full": "Pending"}))

    assert found.request.when_full == WHEN_FULL_PENDING


POLICIES = ", ".join(contract.POLICIES)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        pytest.param(
            "enabled",
            "True",
            "ENABLED_VALUE: annotation hostport.io/enabled: "
            '"True" is neither "true" nor "false": write one of them, in lower case and in quotes',
            id="enabled True",
        ),
        pytest.param(
            "enabled",
            "",
            "ENABLED_VALUE: annotation hostport.io/enabled: "
            '"" is neither "true" nor "false": write one of them, in lower case and in quotes',
            id="enabled empty",
        ),
        pytest.param(
            "policy",
            "Pasthrough",
            "UNKNOWN_POLICY: annotation hostport.io/policy: "
            f'"Pasthrough" is none of {POLICIES}; did you mean "Passthrough"?',
            id="a near miss",
        ),
        pytest.param(
            "policy",
            "DYNAMIC",
            f'UNKNOWN_POLICY: annotation hostport.io/policy: "DYNAMIC" is none of {POLICIES}; did you mean "Dynamic"?',
            id="capitals",
        ),
        pytest.param(
            "policy",
            "",
            f'UNKNOWN_POLICY: annotation hostport.io/policy: "" is none of {POLICIES}',
            id="an empty policy",
        ),
        pytest.param(
            "min-port",
            "7k",
            'NOT_A_NUMBER: annotation hostport.io/min-port: "7k" is not a number: write decimal digits in quotes',
            id="no number",
        ),
        pytest.param(
            "max-port",
            "+8000",
            'NOT_A_NUMBER: annotation hostport.io/max-port: "+8000" is not a number: write decimal digits in quotes',
            id="a sign",
        ),
        pytest.param(
            "stride",
            "१००",
            'NOT_A_NUMBER: annotation hostport.io/stride: "\\u0967\\u0966\\u0966" is not a number: '
            "write decimal digits in quotes",
            id="digits of another script",
        ),
        pytest.param(
            "stride",
            " 5\n",
            'NOT_A_NUMBER: annotation hostport.io/stride: " 5\\n" is not a number: write decimal digits in quotes',
            id="space and newline",
        ),
        pytest.param(
            "min-port",
            "0",
            'NUMBER_OUT_OF_RANGE: annotation hostport.io/min-port: "0" is not in 1..65535',
            id="zero",
        ),
        pytest.param(
            "max-port",
            "65536",
            'NUMBER_OUT_OF_RANGE: annotation hostport.io/max-port: "65536" is not in 1..65535',
            id="too large",
        ),
        pytest.param(
            "stride",
            "9" * 5000,
            'NUMBER_OUT_OF_RANGE: annotation hostport.io/stride: "' + "9" * 63 + '\\u2026" is not in 1..65535',
            id="without end",
        ),
        pytest.param(
            "max-port",
            "6000",
            "RANGE_INVERTED: annotation hostport.io/max-port: min-port 7000 (the default, as hostport.io/min-port "
            "is not set) is greater than max-port 6000: swap them, or set both",
            id="max below the default min",
        ),
        pytest.param(
            "dns-policy",
            "keep",
            'UNKNOWN_VALUE: annotation hostport.io/dns-policy: "keep" is not Keep, the only value; did you mean "Keep"?',
            id="dns-policy",
        ),
        pytest.param(
            "inject-env",
            "no",
            'UNKNOWN_VALUE: annotation hostport.io/inject-env: "no" is none of true, false',
            id="inject-env",
        ),
        pytest.param(
            "when-full",
            "Wait",
            'UNKNOWN_VALUE: annotation hostport.io/when-full: "Wait" is none of Deny, Pending',
            id="when-full",
        ),
    ],
)
def test_a_wrong_annotation_is_denied_with_the_remedy(annotation: str, value: str, expected: str) -> None:
    found = denied(pod(container("a", port()), annotations={annotation: value}))

    assert [str(each) for each in found.mistakes] == [expected]


def test_both_bounds_inverted_name_both_values() -> None:
    found = denied(pod(container("a", port()), annotations={"min-port": "9000", "max-port": "8000"}))

    expected = "min-port 9000 is greater than max-port 8000: swap them, or set both"
    assert [each.message for each in found.mistakes] == [expected]


def test_several_mistakes_are_reported_together() -> None:
    wrong = {"enabled": "yes", "policy": "Static!", "min-port": "x", "stride": "0", "dns-policy": "y"}

    found = mistakes(pod(container("a", port(hostPort=70000)), annotations=wrong, hostUsers=False))

    assert found == [
        ("ENABLED_VALUE", "annotation hostport.io/enabled"),
        ("UNKNOWN_POLICY", "annotation hostport.io/policy"),
        ("NOT_A_NUMBER", "annotation hostport.io/min-port"),
        ("NUMBER_OUT_OF_RANGE", "annotation hostport.io/stride"),
        ("UNKNOWN_VALUE", "annotation hostport.io/dns-policy"),
        ("NUMBER_OUT_OF_RANGE", "spec.containers[0].ports[0].hostPort"),
        ("HOST_NETWORK_FORBIDDEN", "spec.hostUsers"),
    ]


# -- the index

POD_INDEX = "apps.kubernetes.io/pod-index"
COMPLETION = "batch.kubernetes.io/job-completion-index"


def indexed(name: str = "", labels: Json | None = None, annotation: str | None = None, **annotations: str) -> Json:
    made = pod(container("a", port()), annotations=annotations)
    made["metadata"] |= {"name": name, "generateName": "web-5-", "labels": labels}
    if annotation is not None:
        made["metadata"]["annotations"][COMPLETION] = annotation
    return made


@pytest.mark.parametrize(
    ("what", "index"),
    [
        pytest.param(indexed("web-1", {POD_INDEX: "2", COMPLETION: "3"}, "4"), 2, id="pod-index comes first"),
        pytest.param(indexed("web-1", {COMPLETION: "3"}, "4"), 4, id="then the job's annotation"),
        pytest.param(indexed("web-1", {COMPLETION: "3"}), 3, id="then the job's label"),
        pytest.param(indexed("web-1"), 1, id="then the name"),
        pytest.param(indexed("web-007"), 7, id="leading zeros"),
        pytest.param(indexed("web-0"), 0, id="zero is an index"),
        pytest.param(indexed("web1"), None, id="no dash"),
        pytest.param(indexed("web-1a"), None, id="no number at the end"),
        pytest.param(indexed("web-1\n"), None, id="newline"),
        pytest.param(indexed(""), None, id="generateName is no name"),
    ],
)
def test_the_index_has_one_source(what: Json, index: int | None) -> None:
    assert index_of(asked(what)) == index


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        pytest.param(indexed("w-1", {POD_INDEX: "x"}), ("NOT_A_NUMBER", f"label {POD_INDEX}"), id="a label"),
        pytest.param(indexed("w-1", {POD_INDEX: ""}), ("NOT_A_NUMBER", f"label {POD_INDEX}"), id="an empty label"),
        pytest.param(indexed("w-1", {POD_INDEX: None}), ("NOT_A_NUMBER", f"label {POD_INDEX}"), id="a null label"),
        pytest.param(indexed("w-1", {}, "-1"), ("NOT_A_NUMBER", f"annotation {COMPLETION}"), id="a negative number"),
        pytest.param(indexed("w-20240101120000"), ("NUMBER_BEYOND_RANGE", "metadata.name"), id="a time stamp"),
    ],
)
def test_a_source_that_is_there_is_never_passed_over(what: Json, expected: tuple[str, str]) -> None:
    assert mistakes(what) == [expected]
    assert denied(what).probe is None


def test_other_policies_need_no_index() -> None:
    found = asked(indexed("w-20240101120000", {POD_INDEX: "x"}, policy="Dynamic"))

    assert index_of(found) is None


# -- ports


def test_restartable_init_containers_ports_come_last() -> None:
    what = pod(
        container("one", port("a", 1)),
        container("two", port("b", 2, "UDP", hostPort=9, hostIP="10.0.0.1")),
        initContainers=[
            container("init", port("x", 3)),
            container("proxy", port("c", 4, "SCTP"), restartPolicy="Always"),
        ],
    )

    assert [MessageToDict(each) for each in asked(what).request.ports] == [
        {"container": "one", "name": "a", "protocol": "PROTOCOL_TCP", "containerPort": 1},
        {
            "container": "two",
            "name": "b",
            "protocol": "PROTOCOL_UDP",
            "containerPort": 2,
            "hostPort": 9,
            "hostIp": "10.0.0.1",
        },
        {"container": "proxy", "name": "c", "protocol": "PROTOCOL_SCTP", "containerPort": 4},
    ]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        pytest.param(port(number=0), ("NUMBER_OUT_OF_RANGE", "containerPort"), id="zero"),
        pytest.param({"containerPort": None}, ("NUMBER_OUT_OF_RANGE", "containerPort"), id="null"),
        pytest.param({}, ("NUMBER_OUT_OF_RANGE", "containerPort"), id="missing"),
        pytest.param(port(number=-1), ("NUMBER_OUT_OF_RANGE", "containerPort"), id="negative"),
        pytest.param(port(number=10**30), ("NUMBER_OUT_OF_RANGE", "containerPort"), id="huge"),
        pytest.param(port(hostPort=65536), ("NUMBER_OUT_OF_RANGE", "hostPort"), id="hostPort"),
        pytest.param(port(protocol="HTTP"), ("UNKNOWN_VALUE", "protocol"), id="protocol"),
    ],
)
def test_an_impossible_port_is_denied(bad: Json, expected: tuple[str, str]) -> None:
    reason, leaf = expected

    assert mistakes(pod(container("a", bad))) == [(reason, f"spec.containers[0].ports[0].{leaf}")]
    assert denied(pod(container("a", bad))).probe is None


# -- what hostNetwork forbids


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"hostUsers": False}, "spec.hostUsers", id="user namespaces"),
        pytest.param({"hostnameOverride": "x"}, "spec.hostnameOverride", id="hostnameOverride"),
        pytest.param(
            {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.core.somaxconn"}]}},
            "spec.securityContext.sysctls[1]",
            id="a net sysctl",
        ),
        pytest.param(
            {"securityContext": {"sysctls": [{"name": "net/core/somaxconn"}]}},
            "spec.securityContext.sysctls[0]",
            id="a net sysctl with slashes",
        ),
        pytest.param({"os": {"name": "windows"}}, "spec.os.name", id="Windows"),
        pytest.param(
            {"nodeSelector": {"kubernetes.io/os": "windows"}}, "spec.nodeSelector[kubernetes.io/os]", id="Windows nodes"
        ),
        pytest.param({"initContainers": [container("istio-init")]}, "spec.initContainers[0].name", id="istio-init"),
        pytest.param(
            {"initContainers": [container("istio-proxy", restartPolicy="Always")]},
            "spec.initContainers[0].name",
            id="istio-proxy as a sidecar",
        ),
        pytest.param(
            {"initContainers": [container("i", port(number=1, hostPort=2))]},
            "spec.initContainers[0].ports[0].hostPort",
            id="an init container's own hostPort",
        ),
        pytest.param(
            {"initContainers": [container("i", port("a", 1), port("b", 1, "UDP"), port("c", 1))]},
            "spec.initContainers[0].ports[2]",
            id="an init container's socket under two names",
        ),
    ],
)
def test_what_host_network_forbids_is_named_by_its_field(spec: Json, field: str) -> None:
    assert mistakes(pod(container("a", port()), **spec)) == [("HOST_NETWORK_FORBIDDEN", field)]


def test_an_istio_proxy_container_is_forbidden() -> None:
    found = mistakes(pod(container("a", port()), container("istio-proxy")))

    assert found == [("HOST_NETWORK_FORBIDDEN", "spec.containers[1].name")]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"hostUsers": True, "hostnameOverride": None, "os": {"name": "linux"}}, id="the allowed values"),
        pytest.param({"securityContext": {"sysctls": [{"name": "kernel.net.x"}]}}, id="another sysctl"),
        pytest.param({"initContainers": [container("i", port(number=2, hostPort=2))]}, id="equal numbers"),
    ],
)
def test_the_rest_is_not_forbidden(spec: Json) -> None:
    asked(pod(container("a", port()), **spec))


# -- where the Pod may run


def test_constraints_are_passed_on_whole() -> None:
    spec: dict[str, Any] = {
        "nodeName": "n1",
        "nodeSelector": {"disk": "ssd", "empty": None},
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
                        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}]},
                    ]
                },
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}],
            }
        },
        "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        "priority": -5,
        "preemptionPolicy": "Never",
    }

    request = asked(pod(container("a", port()), **spec)).request

    assert (request.priority, request.may_preempt) == (-5, False)
    assert request.constraints == NodeConstraints(
        node_name="n1",
        node_selector={"disk": "ssd", "empty": ""},
        required_affinity=[
            NodeTerm(match_expressions=[NodeRequirement(key="zone", operator="In", values=["a", "b"])]),
            NodeTerm(match_fields=[NodeRequirement(key="metadata.name", operator="NotIn", values=["n2"])]),
        ],
        tolerations=[Toleration(key="gpu", operator="Equal", value="yes", effect="NoSchedule")],
    )


@pytest.mark.parametrize(
    ("carried", "sent"),
    [pytest.param("ab" * 16, "ab" * 16, id="an id"), pytest.param("x" * 129, "", id="one that cannot be ours")],
)
def test_the_id_that_comes_in_is_passed_on(carried: str, sent: str) -> None:
    assert asked(pod(container("a", port()), annotations={"allocation-id": carried})).request.allocation_id == sent


def test_the_namespace_is_the_requests_where_the_object_has_none() -> None:
    without = pod(container("a", port()), metadata={"namespace": ""})

    assert asked(review(without, namespace="games")).request.owner.namespace == "games"


def test_only_the_controller_is_the_owner() -> None:
    owners = [{"uid": "one"}, {"uid": "two", "controller": True}, {"uid": "three", "controller": False}]
    made = pod(container("a", port()))
    made["metadata"]["ownerReferences"] = owners

    assert asked(made).request.owner.controller_uid == "two"


# -- the probe: what else is wrong with a Pod that is denied anyway


def test_a_denied_pods_probe_is_a_dry_run_without_an_id() -> None:
    found = denied(pod(container("a", port()), hostUsers=False))

    assert found.probe is not None
    assert (found.probe.dry_run, found.probe.request_id, found.is_neutral) == (True, "", False)


def test_wrong_numbers_are_neutral_in_the_probe() -> None:
    found = denied(pod(container("a", port()), annotations={"min-port": "x", "stride": "5"}))

    probe = found.probe or AllocateRequest()
    assert (probe.range.min, probe.range.max, probe.stride, found.is_neutral) == (1, 65535, 100, True)


def test_an_unknown_policy_has_no_probe() -> None:
    assert denied(pod(container("a", port()), annotations={"policy": "X"})).probe is None
