"""What `make deploy` installs, on a real API server: it is accepted whole, and it guards what it should."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allocator.__main__ import parser as allocator_parser
from allocator.config import Config
from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port, rendered
from e2e.processes import wait_for
from e2e.product import Product
from shim.__main__ import build_parser, serve_options

CHANGE = "hostport.io/ annotations of a Pod cannot be changed"
ALLOWED = {
    ("pods", ("get", "list", "watch")),
    ("nodes", ("list", "watch")),
    ("namespaces", ("list", "watch")),
    ("services", ("list", "watch")),
    ("events.events.k8s.io", ("create", "patch")),
    ("portleases.hostport.io", ("create", "delete", "get", "list", "watch")),
    ("portleases/status.hostport.io", ("patch",)),
    ("tokenreviews.authentication.k8s.io", ("create",)),
    ("subjectaccessreviews.authorization.k8s.io", ("create",)),
    ("leases.coordination.k8s.io", ("create",)),
    ("leases.coordination.k8s.io [hostport-allocator]", ("get", "update", "watch")),
    ("pods", ("patch",)),
    ("secrets", ("create",)),
    ("secrets [hostport-ca, hostport-shim-tls]", ("get", "update")),
    ("configmaps", ("create",)),
    ("configmaps [hostport-ca]", ("get", "update")),
    ("mutatingwebhookconfigurations.admissionregistration.k8s.io [hostport-operator]", ("get", "patch")),
}

RULES_REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectRulesReview",
    "spec": {"namespace": "hostport-system"},
}


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, product_session: Product) -> Iterator[list[dict[str, Any]]]:
    """Everything but the webhook, which the product under test has installed with its own address."""
    objects = [each for each in rendered(plane, "fail-open") if each["kind"] != "MutatingWebhookConfiguration"]
    plane.kubectl.apply(*objects)
    yield objects
    for name in ("hostport-ports-given", "hostport-every-port-given", "hostport-annotations-stay"):
        plane.kubectl("delete", "validatingadmissionpolicybinding", name)
    # The API server applies its last list of policies for a moment longer, and the next module creates Pods.
    wait_for("the policies to be gone", lambda: annotated(plane.kubectl), lambda said: CHANGE not in said)


def annotated(kubectl: Kubectl) -> str:
    """What the API server says to an annotation of ours on a Pod that was given none."""
    name = "probe-of-policies"
    kubectl.run("create", "-f", "-", stdin=json.dumps(pod(name, {}, port(80))))
    said = kubectl.run("annotate", "--overwrite", "pod", name, f"hostport.io/x={time.monotonic_ns()}").stderr
    kubectl("delete", "pod", name, "--now")
    return said


@pytest.mark.parametrize("overlay", ["default", "standby", "dev", "own-secrets"])
def test_the_api_server_accepts_every_manifest_without_a_warning(
    plane: ControlPlane, product: Product, overlay: str
) -> None:
    plane.kubectl.run("create", "namespace", "hostport-system")  # a dry run creates none for what is in it
    run = plane.kubectl.apply(*rendered(plane, overlay), options=["--dry-run=server", "--validate=strict"])

    assert [line for line in run.stderr.splitlines() if "last-applied-configuration" not in line] == []


def test_our_annotations_cannot_be_edited(installed: object, kubectl: Kubectl) -> None:
    asking = pod("web-0", hostport(policy="Dynamic", min_port=22000, max_port=22099), port(80))
    kubectl("create", "-f", "-", stdin=json.dumps(asking))

    def tamper() -> str:
        return kubectl.run(
            "annotate", "--overwrite", "pod", "web-0", f"hostport.io/allocation-id={time.monotonic_ns()}"
        ).stderr

    assert "ValidatingAdmissionPolicy 'hostport-annotations-stay'" in wait_for(
        "a denial", tamper, lambda said: CHANGE in said
    )
    assert CHANGE in kubectl.run("annotate", "pod", "web-0", "hostport.io/allocation-id-").stderr
    assert CHANGE in kubectl.run("annotate", "pod", "web-0", "hostport.io/allocated-x=1").stderr
    behind_the_back = json.dumps({"metadata": {"annotations": {"hostport.io/allocation-id": "forged"}}})
    assert CHANGE in kubectl.run("patch", "pod", "web-0", "--subresource=status", "-p", behind_the_back).stderr
    kubectl("annotate", "pod", "web-0", "example.com/note=free")


def test_what_a_pod_without_annotations_was_not_given_is_not_written_into_it(
    installed: object, kubectl: Kubectl
) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(pod("plain", {}, port(80))))

    assert CHANGE in wait_for(
        "a denial",
        lambda: kubectl.run("annotate", "--overwrite", "pod", "plain", f"hostport.io/x={time.monotonic_ns()}").stderr,
        lambda said: CHANGE in said,
    )
    kubectl("annotate", "--overwrite", "pod", "plain", "example.com/note=free")


def test_the_mirror_of_a_static_pod_is_left_alone(installed: object, kubectl: Kubectl) -> None:
    mirror = pod("static-n1", hostport() | {"kubernetes.io/config.mirror": "0123456789abcdef"}, port(80), nodeName="n1")
    kubectl("create", "-f", "-", stdin=json.dumps(mirror))

    kubectl("annotate", "pod", "static-n1", "hostport.io/note=the-kubelet-says-so")


def test_a_pod_that_was_given_no_ports_is_refused_when_the_webhook_fails_open(
    installed: object, plane: ControlPlane, product: Product, kubectl: Kubectl
) -> None:
    config = "mutatingwebhookconfiguration/hostport-operator"

    def set_policy(value: str) -> None:
        change = [{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": value}]
        plane.kubectl("patch", config, "--type=json", "-p", json.dumps(change))

    asking = pod("web-0", hostport(policy="Dynamic", min_port=22100, max_port=22199), port(80))
    set_policy("Ignore")
    product.shim.stop()
    try:
        denial = wait_for(
            "the policy to refuse it",
            lambda: kubectl.run("create", "-f", "-", stdin=json.dumps(asking)).stderr,
            lambda said: "hostport-ports-given" in said,
        )
        kubectl("create", "-f", "-", stdin=json.dumps(pod("plain", {}, port(80))))
        kubectl("create", "-f", "-", stdin=json.dumps(pod("no-ports-0", hostport())))
        mirror = hostport() | {"kubernetes.io/config.mirror": "0123456789abcdef"}
        kubectl("create", "-f", "-", stdin=json.dumps(pod("static-n1", mirror, port(80), nodeName="n1")))
    finally:
        product.shim.start()
        set_policy("Fail")

    assert "was given none" in denial


@pytest.mark.parametrize(
    ("table", "given"),
    [
        pytest.param('[{"name":"a","hostPort":22500},{"name":"b","hostPort":22501}]', 2, id="a number each"),
        pytest.param('[{"name":"a","hostPort":22500,"count":12},{"name":"b","hostPort":22512}]', 13, id="and a block"),
    ],
)
def test_a_port_too_many_is_refused_while_no_shim_answers(
    installed: object, plane: ControlPlane, product: Product, kubectl: Kubectl, table: str, given: int
) -> None:
    """As when a later webhook adds a container, and ours is not reached when it is asked anew."""
    config = "mutatingwebhookconfiguration/hostport-operator"
    answered = hostport() | {"hostport.io/allocation-id": "0" * 32, "hostport.io/allocations": table}

    def set_policy(value: str) -> None:
        change = [{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": value}]
        plane.kubectl("patch", config, "--type=json", "-p", json.dumps(change))

    def create(name: str, ports: int) -> str:
        asking = pod(name, answered, *(port(22500 + at) for at in range(ports)))
        return kubectl.run("create", "-f", "-", stdin=json.dumps(asking)).stderr

    set_policy("Ignore")
    product.shim.stop()
    try:
        wait_for(
            "the policy to refuse one more",
            lambda: create("more-0", given + 1),
            lambda said: f"the Pod has {given + 1} ports and was given {given}" in said,
        )
        assert create("whole-0", given) == ""
    finally:
        product.shim.start()
        set_policy("Fail")


def permissions(plane: ControlPlane, account: str) -> set[tuple[str, tuple[str, ...]]]:
    """What a ServiceAccount may do in our namespace, but for asking about itself, which everybody may."""
    run = plane.kubectl(
        *("create", "--validate=false", "-f", "-", "-o", "json", "--as-group=system:authenticated"),
        f"--as=system:serviceaccount:hostport-system:{account}",
        stdin=json.dumps(RULES_REVIEW),
    )
    return {
        (".".join(filter(None, (resource, group))) + names(rule), tuple(rule["verbs"]))
        for rule in run.json["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if not resource.startswith("selfsubject")
    }


def names(rule: dict[str, Any]) -> str:
    return f" [{', '.join(rule['resourceNames'])}]" if rule.get("resourceNames") else ""


def test_the_allocator_may_do_what_is_listed_and_the_shim_nothing(installed: object, plane: ControlPlane) -> None:
    assert permissions(plane, "hostport-allocator") == ALLOWED
    assert permissions(plane, "hostport-shim") == set()


@pytest.mark.parametrize(
    ("overlay", "certificates"),
    [
        ("default", ("builtin", "", "")),
        ("dev", ("builtin", "", "")),
        ("own-secrets", ("files", "/etc/hostport/tls/tls.crt", "/etc/hostport/tls/ca.crt")),
        ("cert-manager", ("files", "/etc/hostport/tls/tls.crt", "/etc/hostport/tls/ca.crt")),
    ],
)
def test_the_flags_of_every_overlay_go_together(
    plane: ControlPlane, overlay: str, certificates: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program makes of them what it would make of them in the cluster."""
    for name in ("HOSTPORT_POD_NAME", "HOSTPORT_POD_UID"):
        monkeypatch.setenv(name, "given by the kubelet")
    deployments = {each["metadata"]["name"]: each for each in rendered(plane, overlay) if each["kind"] == "Deployment"}
    args = {name: each["spec"]["template"]["spec"]["containers"][0]["args"] for name, each in deployments.items()}

    config = Config.of(allocator_parser().parse_args(args["hostport-allocator"]))
    options = serve_options(build_parser(), build_parser().parse_args(args["hostport-shim"]))

    assert (config.certificates, config.tls_cert, config.tls_client_ca) == certificates
    assert config.tells_callers_apart
    assert (options.tls_cert, options.credentials.cert) == (Path("/etc/hostport/tls/tls.crt"),) * 2


@pytest.mark.parametrize("overlay", ["own-secrets", "cert-manager"])
def test_certificates_from_elsewhere_leave_the_allocator_without_the_rights_to_make_any(
    plane: ControlPlane, overlay: str
) -> None:
    roles = [each for each in rendered(plane, overlay) if each["kind"] in {"Role", "ClusterRole"}]
    everything = [each for each in rendered(plane, "default") if each["kind"] in {"Role", "ClusterRole"}]

    assert roles == [each for each in everything if each["metadata"]["name"] != "hostport-certificates"]
