"""What the admission policies guard beside edits of a Pod: writes that reach it by another way, and our own webhook."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for
from e2e.product import Product

BASE = Path(__file__).resolve().parents[2] / "deploy" / "base"
ALLOCATOR = "system:serviceaccount:hostport-system:hostport-allocator"
CHANGE = "hostport.io/ annotations of a Pod cannot be changed"
BINDING = "hostport.io/ annotations of a binding would be written into its Pod"
WEBHOOK = "may change nothing but caBundle"
PODS = "may change nothing but the label hostport.io/serving of a Pod"
OWN = "hostport-system"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


def manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((BASE / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, product_session: Product) -> Iterator[None]:
    objects = [each for each in manifests("admission-policies.yaml") if "leases" not in each["metadata"]["name"]]
    plane.kubectl.apply(*objects)
    yield
    for each in objects:
        plane.kubectl("delete", each["kind"], each["metadata"]["name"])


def waiting(name: str, **spec: Any) -> dict[str, Any]:
    """A Pod with ports that no scheduler binds."""
    asked = hostport(policy="Dynamic", min_port=23000, max_port=23999)
    return pod(name, asked, port(80), schedulerName="nobody", **spec)


def binding(name: str, **annotations: str) -> dict[str, Any]:
    keys = {f"hostport.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "annotations": keys | {"example.com/note": "free"}},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    }


def bind(kubectl: Kubectl, path: str, body: dict[str, Any]) -> str:
    where = f"/api/v1/namespaces/{kubectl.namespace}/{path}"
    return kubectl.run("create", "--raw", where, "-f", "-", stdin=json.dumps(body)).stderr


def annotated(kubectl: Kubectl, name: str) -> dict[str, str]:
    found: dict[str, str] = kubectl.get("pod", name)["metadata"]["annotations"]
    return found


@pytest.mark.parametrize("path", ["pods/web-0/binding", "bindings"], ids=["pods/binding", "bindings"])
def test_a_binding_carries_none_of_our_annotations_into_a_pod(installed: object, kubectl: Kubectl, path: str) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(waiting("web-0")))
    before = annotated(kubectl, "web-0")

    forged = binding("web-0", allocation_id="forged")
    wait_for("a denial", lambda: bind(kubectl, f"{path}?dryRun=All", forged), lambda said: BINDING in said)
    assert BINDING in bind(kubectl, path, forged)
    assert BINDING in bind(kubectl, path, binding("web-0", external_ip="192.0.2.1"))
    kubectl("label", "namespace", str(kubectl.namespace), "hostport.io/external-address=true", "--overwrite")
    wait_for(
        "the label to be known",
        lambda: bind(kubectl, f"{path}?dryRun=All", binding("web-0", external_ip="192.0.2.1")),
        lambda said: said == "",
    )
    assert BINDING in bind(kubectl, path, binding("web-0", external_ip="192.0.2.1", allocations="[]"))
    assert annotated(kubectl, "web-0") == before

    assert bind(kubectl, path, binding("web-0", external_ip="6.6.6.6", external_ip_v6="66::6")) == ""
    told = {"hostport.io/external-ip": "192.0.2.1", "hostport.io/external-ip-v4": "192.0.2.1"}
    assert annotated(kubectl, "web-0") == before | told | {"example.com/note": "free"}, "what the node's address is"
    change = ("annotate", "pod", "web-0", "hostport.io/external-ip=6.6.6.6", "--overwrite")
    wait_for("a denial", lambda: kubectl.run(*change, "--dry-run=server").stderr, lambda said: CHANGE in said)
    assert CHANGE in kubectl.run(*change).stderr


@pytest.mark.parametrize(
    "labels",
    [
        ["hostport.io/webhook=ignore", "hostport.io/external-address=true"],
        ["hostport.io/webhook=ignore"],
    ],
    ids=["labelled", "plain"],
)
def test_a_binding_brings_no_address_past_the_webhook(installed: object, kubectl: Kubectl, labels: list[str]) -> None:
    kubectl("label", "namespace", str(kubectl.namespace), *labels, "--overwrite")
    kubectl("create", "-f", "-", stdin=json.dumps(pod("web-0", {}, port(80), schedulerName="nobody")))
    forged = binding("web-0", external_ip="6.6.6.6")

    wait_for("a denial", lambda: bind(kubectl, "pods/web-0/binding?dryRun=All", forged), lambda said: BINDING in said)
    assert BINDING in bind(kubectl, "pods/web-0/binding", forged)
    assert "nodeName" not in kubectl.get("pod", "web-0")["spec"]


def test_a_binding_without_annotations_is_as_ever(installed: object, kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(waiting("web-0")))
    plain = binding("web-0")
    del plain["metadata"]["annotations"]

    assert bind(kubectl, "pods/web-0/binding", plain) == ""
    assert kubectl.get("pod", "web-0")["spec"]["nodeName"] == "n1"


@pytest.mark.parametrize("subresource", ["status", "ephemeralcontainers", "resize"])
def test_no_subresource_of_a_pod_takes_an_annotation_of_ours(
    installed: object, kubectl: Kubectl, subresource: str
) -> None:
    """A status is refused. The other two drop what is no affair of theirs, and need no policy."""
    kubectl("create", "-f", "-", stdin=json.dumps(waiting("web-0")))
    before = annotated(kubectl, "web-0")
    forged = {"metadata": {"annotations": {"hostport.io/allocation-id": "forged", "example.com/note": "free"}}}

    run = kubectl.run("patch", "pod", "web-0", f"--subresource={subresource}", "-p", json.dumps(forged))

    assert (CHANGE in run.stderr, run.code) in {(True, 1), (False, 0)}, run.stderr
    assert annotated(kubectl, "web-0") == before


# -- our own webhook

OTHER = base64.b64encode(b"another authority").decode()
CHANGES: dict[str, list[dict[str, Any]]] = {
    "where it is asked": [{"op": "replace", "path": "/webhooks/1/clientConfig/service/name", "value": "elsewhere"}],
    "what it is asked about": [{"op": "replace", "path": "/webhooks/1/rules/0/resources/0", "value": "secrets"}],
    "when it is asked": [{"op": "remove", "path": "/webhooks/1/matchConditions"}],
    "what silence means": [{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": "Ignore"}],
    "whose Pods it is asked about": [{"op": "remove", "path": "/webhooks/1/namespaceSelector"}],
    "an entry less": [{"op": "remove", "path": "/webhooks/1"}],
    "none left": [{"op": "replace", "path": "/webhooks", "value": []}],
    "an entry more": [{"op": "copy", "from": "/webhooks/1", "path": "/webhooks/-"}, {"op": "replace", "path": "/webhooks/3/name", "value": "more.example.com"}],
    "another order": [{"op": "move", "from": "/webhooks/2", "path": "/webhooks/0"}],
    "labels": [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}],
    "annotations": [{"op": "add", "path": "/metadata/annotations", "value": {"cert-manager.io/inject-ca-from": "a/b"}}],
    "an owner, with whom it goes": [{"op": "add", "path": "/metadata/ownerReferences", "value": [{"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "u"}]}],
    "a finalizer": [{"op": "add", "path": "/metadata/finalizers", "value": ["example.com/stay"]}],
    "caBundle and more": [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": OTHER}, {"op": "replace", "path": "/webhooks/1/timeoutSeconds", "value": 1}],
}  # fmt: skip


@pytest.fixture(scope="module")
def configuration(plane: ControlPlane, installed: object) -> Iterator[str]:
    """Such a configuration as ours, that calls nobody: it is about one namespace that there is not."""
    [ours] = manifests("webhook.yaml")
    name = "hostport-test"
    for entry in ours["webhooks"]:
        entry["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": "no-such-namespace"}}
    plane.kubectl.apply({**ours, "metadata": {"name": name}})
    right = {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    plane.kubectl.apply({**role, "rules": [{**right, "verbs": ["get", "patch", "update"]}]})
    plane.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={ALLOCATOR}")
    yield name
    for kind in ("mutatingwebhookconfiguration", "clusterrolebinding", "clusterrole"):
        plane.kubectl("delete", kind, name)


def change(plane: ControlPlane, name: str, patch: list[dict[str, Any]], *user: str) -> str:
    options = ["--type=json", "-p", json.dumps(patch), *(f"--as={each}" for each in user)]
    return plane.kubectl.run("patch", "mutatingwebhookconfiguration", name, *options).stderr


def stored(plane: ControlPlane, name: str) -> dict[str, Any]:
    found = plane.kubectl.get("mutatingwebhookconfiguration", name)
    metadata = {
        k: v for k, v in found["metadata"].items() if k not in {"managedFields", "resourceVersion", "generation"}
    }
    return {**found, "metadata": metadata}


@pytest.mark.parametrize("what", CHANGES)
def test_a_stolen_token_of_the_allocator_points_the_webhook_nowhere(
    plane: ControlPlane, configuration: str, what: str
) -> None:
    before = stored(plane, configuration)

    wait_for("a denial", lambda: change(plane, configuration, CHANGES[what], ALLOCATOR), lambda said: WEBHOOK in said)
    assert stored(plane, configuration) == before


def test_the_allocator_writes_the_bundle_and_people_write_what_they_like(
    plane: ControlPlane, configuration: str
) -> None:
    wait_for(
        "the policy", lambda: change(plane, configuration, CHANGES["labels"], ALLOCATOR), lambda said: WEBHOOK in said
    )
    for bundle in (OTHER, base64.b64encode(b"its successor").decode()):
        patch = [{"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": bundle} for at in range(3)]
        assert change(plane, configuration, patch, ALLOCATOR) == ""
        found = stored(plane, configuration)
        assert {each["clientConfig"]["caBundle"] for each in found["webhooks"]} == {bundle}

    stamp = f"{time.monotonic_ns()}"
    assert change(plane, configuration, [{"op": "add", "path": "/metadata/labels", "value": {"at": stamp}}]) == ""


# -- the allocator's right to patch Pods of its namespace

SERVES = {"op": "add", "path": "/metadata/labels/hostport.io~1serving", "value": "true"}
OTHER_LABEL = {"op": "add", "path": "/metadata/labels/app", "value": "other"}
TOUCHED: dict[str, list[dict[str, Any]]] = {
    "another label": [OTHER_LABEL],
    "its label and another one": [SERVES, OTHER_LABEL],
    "an annotation": [{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}],
    "a finalizer": [{"op": "add", "path": "/metadata/finalizers", "value": ["example.com/stay"]}],
    "an image": [{"op": "replace", "path": "/spec/containers/0/image", "value": "other"}],
}


@pytest.fixture(scope="module")
def own_pod(plane: ControlPlane, installed: object) -> Iterator[Kubectl]:
    """A Pod `one` of the allocator's namespace, whose Pods it may patch."""
    own = plane.kubectl.within(OWN)
    plane.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN}})
    made = pod("one", {}, port(80), schedulerName="nobody")
    made["metadata"]["labels"] = {"app": "one"}
    own.apply(made)
    own("create", "role", "one", "--verb=get,patch", "--resource=pods")
    own("create", "rolebinding", "one", "--role=one", f"--user={ALLOCATOR}")
    yield own
    for kind in ("rolebinding", "role", "pod"):
        own("delete", kind, "one")


def touch(own: Kubectl, patch: list[dict[str, Any]]) -> str:
    return own.run("patch", "pod", "one", "--type=json", "-p", json.dumps(patch), f"--as={ALLOCATOR}").stderr


@pytest.mark.parametrize("what", TOUCHED)
def test_a_stolen_token_of_the_allocator_changes_no_pod(own_pod: Kubectl, what: str) -> None:
    wait_for("a denial", lambda: touch(own_pod, TOUCHED[what]), lambda said: PODS in said)

    found = own_pod.get("pod", "one")
    assert (found["metadata"]["labels"], found["spec"]["containers"][0]["image"]) == ({"app": "one"}, "x")
    assert ("a" in found["metadata"]["annotations"], "finalizers" in found["metadata"]) == (False, False)


def test_the_allocator_writes_the_label_that_leads_the_service_to_it(own_pod: Kubectl) -> None:
    wait_for("the policy", lambda: touch(own_pod, TOUCHED["an annotation"]), lambda said: PODS in said)

    assert touch(own_pod, [SERVES]) == ""
    assert own_pod.get("pod", "one")["metadata"]["labels"] == {"app": "one", "hostport.io/serving": "true"}
    assert touch(own_pod, [{"op": "remove", "path": SERVES["path"]}]) == ""
