"""What a real API server once sent, through the shim: a real API server takes the patched Pods."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane, create_namespace
from e2e.product import Product

RECORDED = sorted((CHECKOUT / "tests" / "testdata" / "admission").glob("*.json"))
REVIEWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RECORDED}


def creates_pod(request: dict[str, Any]) -> bool:
    return (request["operation"], request["kind"]["kind"]) == ("CREATE", "Pod")


CREATIONS = {name: review for name, review in REVIEWS.items() if creates_pod(review["request"])}
OTHERS = {name: review for name, review in REVIEWS.items() if name not in CREATIONS}


@pytest.fixture(scope="module")
def bystander(plane: ControlPlane) -> Iterator[str]:
    """A namespace whose Pods do not come to the shim: they are patched already."""
    name = "recorded-reviews"
    create_namespace(plane, name, labels={"hostport.io/webhook": "ignore"})
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


def movable(pod: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The Pod without what ties it to the cluster it was recorded in: its namespace and its owner."""
    moved = copy.deepcopy(pod)
    moved["metadata"]["namespace"] = namespace
    for tie in ("managedFields", "ownerReferences", "finalizers"):
        moved["metadata"].pop(tie, None)
    return moved


@pytest.mark.parametrize("review", CREATIONS.values(), ids=CREATIONS)
def test_the_patched_pod_is_accepted(product: Product, bystander: str, review: dict[str, Any]) -> None:
    request = review["request"]

    response = product.review(review)

    assert (response["uid"], response["allowed"], response["patchType"]) == (request["uid"], True, "JSONPatch")
    patched = jsonpatch.apply_patch(request["object"], json.loads(base64.b64decode(response["patch"])))
    answer = product.plane.api.ask("POST", f"/api/v1/namespaces/{bystander}/pods", movable(patched, bystander))
    assert answer.status == 201, answer.text
    stored = answer.json["spec"]
    assert stored["hostNetwork"] is True
    assert stored["containers"] == patched["spec"]["containers"]
    for port in (port for container in stored["containers"] for port in container["ports"]):
        assert port["hostPort"] == port["containerPort"]


@pytest.mark.parametrize("review", OTHERS.values(), ids=OTHERS)
def test_what_creates_no_pod_is_left_alone(product: Product, review: dict[str, Any]) -> None:
    response = product.review(review)

    assert (response["uid"], response["allowed"]) == (review["request"]["uid"], True)
    assert "patch" not in response


def test_there_are_recordings() -> None:
    assert {Path(name).stem for name in CREATIONS} >= {"statefulset-pod-0", "deployment-pod", "daemonset-pod"}
