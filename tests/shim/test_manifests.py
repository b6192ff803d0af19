from __future__ import annotations

import json
from pathlib import Path

import pytest
from shimkit import RECORDED, Json, container, pod, port, recorded

from shim.manifests import admission_review, pods_of
from shim.outcomes import About
from shim.pods import FieldError
from shim.reading import read_document
from shim.review import ToAllocate, parse_review

TEMPLATE: Json = {
    "metadata": {"labels": {"app": "x"}, "annotations": {"hostport.io/enabled": "true"}},
    "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]},
}


def workload(kind: str, **spec: object) -> Json:
    return {"kind": kind, "metadata": {"name": "w", "namespace": "demo"}, "spec": {"template": TEMPLATE} | spec}


def names(manifest: Json) -> list[str]:
    """The Pods' names, or generateNames with a star."""
    found = (each["metadata"] for each in read_document(manifest, namespace="default", templates=[]).pods)
    return [each.get("name") or each["generateName"] + "*" for each in found]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        pytest.param(workload("StatefulSet", replicas=2), ["w-0", "w-1"], id="StatefulSet"),
        pytest.param(workload("StatefulSet"), ["w-0"], id="one replica by default"),
        pytest.param(workload("StatefulSet", replicas=2, ordinals={"start": 5}), ["w-5", "w-6"], id="ordinals"),
        pytest.param(workload("Deployment", replicas=2), ["w-*", "w-*"], id="Deployment"),
        pytest.param(workload("ReplicaSet", replicas=0), [], id="ReplicaSet of none"),
        pytest.param(workload("DaemonSet"), ["w-*"], id="DaemonSet: one node's"),
        pytest.param(workload("Job"), ["w-*"], id="Job"),
        pytest.param(workload("Job", parallelism=3, completions=2), ["w-*", "w-*"], id="no more than completions"),
        pytest.param(workload("Job", parallelism=3), ["w-*"] * 3, id="as many workers as a queue has"),
        pytest.param(workload("Job", completionMode="Indexed", completions=2), ["w-0-*", "w-1-*"], id="Indexed Job"),
        pytest.param(
            {"kind": "CronJob", "metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
            ["c-*"],
            id="CronJob",
        ),
        pytest.param(pod(container("a")), ["web-3"], id="Pod"),
        pytest.param({"kind": "List", "items": [pod(), workload("DaemonSet")]}, ["web-3", "w-*"], id="List"),
        pytest.param({"kind": "PodList", "items": None}, [], id="an empty list"),
        pytest.param({"kind": "ConfigMap", "data": {}}, [], id="a kind without Pods"),
        pytest.param({"kind": "Service", "spec": {"ports": 5}}, [], id="another"),
    ],
)
def test_a_workload_makes_pods(manifest: Json, expected: list[str]) -> None:
    assert names(manifest) == expected


def test_what_the_api_server_fills_in() -> None:
    [found] = pods_of({"kind": "Pod", "metadata": {}, "spec": {"hostNetwork": True, **TEMPLATE["spec"]}})

    assert found["metadata"] == {"namespace": "default"}
    assert found["spec"] == {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "hostNetwork": True,
        "containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]}],
    }


def test_the_manifest_is_left_as_it_is() -> None:
    manifest = workload("StatefulSet", replicas=2)
    before = json.dumps(manifest)

    list(pods_of(manifest))

    assert json.dumps(manifest) == before


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        pytest.param("statefulset-pod-1", workload("StatefulSet", replicas=2), id="StatefulSet"),
        pytest.param("deployment-pod", workload("Deployment"), id="Deployment"),
        pytest.param("daemonset-pod", workload("DaemonSet"), id="DaemonSet"),
        pytest.param("indexed-job-pod-0", workload("Job", completionMode="Indexed"), id="Indexed Job"),
    ],
)
def test_a_pod_is_known_by_what_a_recorded_one_is_known_by(name: str, manifest: Json) -> None:
    real = recorded(name)["request"]["object"]["metadata"]
    made = list(pods_of(manifest))[-1]["metadata"]
    marks = {key for key in real["labels"] if "index" in key or "pod-name" in key}

    assert ("name" in made, "generateName" in made) == ("name" in real, "generateName" in real)
    assert {key: made["labels"].get(key) is not None for key in marks} == dict.fromkeys(marks, True)
    assert [owner["controller"] for owner in made["ownerReferences"]] == [True]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param(
            workload("StatefulSet", replicas="2"), 'spec.replicas must be an integer, not the string "2"', id="text"
        ),
        pytest.param(workload("StatefulSet", replicas=10**9), "spec.replicas must be in 0..10000", id="too many"),
        pytest.param(
            workload("Deployment", template=None), "spec.template must be an object, not null", id="no template"
        ),
        pytest.param(
            {"kind": "Pod", "spec": {"containers": 5}}, "spec.containers must be a list, not 5", id="containers"
        ),
    ],
)
def test_an_impossible_manifest_is_named(manifest: Json, message: str) -> None:
    with pytest.raises(FieldError) as raised:
        list(pods_of(manifest))

    assert message in str(raised.value)


def test_a_review_of_a_pod_is_one_that_the_webhook_understands() -> None:
    found = parse_review(json.dumps(admission_review(pod(container("a", port())), "u-9", dry_run=True)).encode())

    assert isinstance(found, ToAllocate)
    assert found.request.dry_run
    assert found.about == About(request_id="u-9", namespace="demo", name="web-3", policy="INDEX", is_dry_run=True)


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*-pod-0.json")), ids=lambda path: path.stem)
def test_a_review_has_the_fields_of_a_recorded_one(path: Path) -> None:
    real = json.loads(path.read_text())["request"]

    made = admission_review(real["object"], real["uid"], dry_run=False)["request"]

    assert {key: made.get(key) for key in real if key not in {"userInfo", "options"}} == {
        key: real[key] for key in real if key not in {"userInfo", "options"}
    }
