"""What kubectl shows: previews, denials, warnings, and Pods that are none of our business."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import Pod, annotation, hostport, is_untouched, numbers, pod, port
from e2e.processes import wait_for
from e2e.product import Product
from hostport.v1 import allocator_pb2 as pb

WEBHOOK = "pods.hostport.io"
CALLS = "apiserver_admission_webhook_request_total"
EXCLUSIONS = "apiserver_admission_match_condition_exclusions_total"


def count(plane: ControlPlane, sample: str) -> float:
    """What the API server counted for our webhook. Its page is long: only the lines that matter are read."""
    lines = plane.api.ask("GET", "/metrics").text.splitlines()
    ours = [line for line in lines if line.startswith(sample + "{") and f'name="{WEBHOOK}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in ours)


def previewed(kubectl: Kubectl, manifest: Pod) -> Pod:
    stored: Pod = kubectl.apply(manifest, options=["--dry-run=server", "-o", "json"]).json
    return stored


def known_ids(product: Product) -> set[str]:
    return {allocation.id for allocation in product.allocator.allocations()}


def test_a_dry_run_shows_ports_and_reserves_none(product: Product, kubectl: Kubectl) -> None:
    asking = pod("web-0", hostport(policy="Dynamic", min_port=18000, max_port=18099), port(80, "http"))
    before = known_ids(product)

    first, second = previewed(kubectl, asking), previewed(kubectl, asking)

    assert known_ids(product) <= before
    assert (numbers(first), numbers(second)) == ([18000], [18000])
    assert annotation(first, "allocated-http") == "18000"
    assert "hostport.io/allocation-id" not in first["metadata"]["annotations"]

    kubectl.apply(asking)
    assert numbers(kubectl.get("pod", "web-0")) == [18000]


OTHERS: dict[str, dict[str, str]] = {
    "without annotations": {},
    "with other annotations": {"example.com/enabled": "true"},
    "switched off": hostport(enabled="false"),
    "a mirror Pod": hostport() | {"kubernetes.io/config.mirror": "0123456789abcdef"},
}


@pytest.mark.parametrize("annotations", OTHERS.values(), ids=OTHERS)
def test_a_pod_that_does_not_ask_never_reaches_the_shim(
    product: Product, kubectl: Kubectl, annotations: dict[str, str]
) -> None:
    calls, exclusions = count(product.plane, CALLS), count(product.plane, EXCLUSIONS)

    kubectl("create", "-f", "-", stdin=json.dumps(pod("web-0", annotations, port(80), nodeName="n1")))

    assert is_untouched(kubectl.get("pod", "web-0"))
    assert count(product.plane, CALLS) == calls > 0
    assert count(product.plane, EXCLUSIONS) == exclusions + 1


def test_a_namespace_can_opt_out(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl("label", "namespace", namespace, "hostport.io/webhook=ignore")

    wait_for(
        "the API server to see the label",
        lambda: previewed(kubectl, pod("web-0", hostport(), port(80))),
        is_untouched,
    )


@pytest.mark.parametrize("excluded", ["kube-system", "kube-node-lease", "hostport-system"])
def test_the_namespaces_that_bring_the_cluster_up_are_left_alone(product: Product, excluded: str) -> None:
    create_namespace(product.plane, excluded)

    assert is_untouched(previewed(product.plane.kubectl.within(excluded), pod("web-0", hostport(), port(80))))


@dataclass(frozen=True)
class Refused:
    """A Pod that is denied, the reason, and what the message must name."""

    reason: str
    names: tuple[str, ...]
    annotations: dict[str, str]
    ports: tuple[dict[str, Any], ...] = (port(80, "http"),)
    name: str = "web-0"
    spec: dict[str, Any] = field(default_factory=dict)


REFUSED = {
    "enabled is True": Refused("ENABLED_VALUE", ("hostport.io/enabled", "True"), hostport(enabled="True")),
    "unknown policy": Refused(
        "UNKNOWN_POLICY", ("hostport.io/policy", "Dinamic", "did you mean", "Dynamic"), hostport(policy="Dinamic")
    ),
    "policy in lower case": Refused("UNKNOWN_POLICY", ("index", "did you mean", "Index"), hostport(policy="index")),
    "no number": Refused("NOT_A_NUMBER", ("hostport.io/min-port", "ten"), hostport(min_port="ten")),
    "number too great": Refused(
        "NUMBER_OUT_OF_RANGE", ("hostport.io/max-port", "65536", "65535"), hostport(max_port=65536)
    ),
    "zero": Refused("NUMBER_OUT_OF_RANGE", ("hostport.io/stride", "0"), hostport(stride=0)),
    "inverted range": Refused("RANGE_INVERTED", ("9000", "8000"), hostport(min_port=9000, max_port=8000)),
    "no index": Refused("NO_INDEX", ("Dynamic",), hostport(), name="web"),
    "index not below the stride": Refused(
        "INDEX_EXCEEDS_STRIDE",
        ("100", "hostport.io/stride"),
        hostport(min_port=19000),
        (port(80, "http"), port(81, "admin")),
        name="web-100",
    ),
    "beyond max-port": Refused(
        "NUMBER_BEYOND_RANGE", ("19105", "19100"), hostport(min_port=19100, max_port=19100), name="web-5"
    ),
    "own ports collide": Refused(
        "OWN_PORTS_COLLIDE",
        ("19200",),
        hostport(policy="Static"),
        (port(80, "http", hostPort=19200), port(81, "admin", hostPort=19200)),
    ),
    "Static without hostPort": Refused("HOST_PORT_MISSING", ("http", "hostPort"), hostport(policy="Static")),
    "a reserved number": Refused("PORT_RESERVED", ("10250",), hostport(min_port=10250)),
    "a range of reserved numbers": Refused(
        "RANGE_RESERVED", ("10250",), hostport(policy="Dynamic", min_port=10250, max_port=10259)
    ),
    "hostUsers": Refused("HOST_NETWORK_FORBIDDEN", ("hostUsers",), hostport(), spec={"hostUsers": False}),
    "a network sysctl": Refused(
        "HOST_NETWORK_FORBIDDEN",
        ("net.ipv4.ip_local_port_range",),
        hostport(),
        spec={"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"}]}},
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_denial_says_why_and_reserves_nothing(product: Product, kubectl: Kubectl, case: Refused) -> None:
    before = known_ids(product)

    run = kubectl.try_apply(pod(case.name, case.annotations, *case.ports, **case.spec))

    assert run.code != 0
    assert f'admission webhook "{WEBHOOK}" denied the request' in run.stderr
    assert run.stderr.startswith(f"Error from server ({case.reason})"), run.stderr
    assert [word for word in case.names if word not in run.stderr] == [], run.stderr
    assert known_ids(product) <= before


def test_several_mistakes_are_told_together(kubectl: Kubectl) -> None:
    run = kubectl.try_apply(pod("web-0", hostport(policy="Dinamic", min_port="ten", stride=0), port(80)))

    missing = [word for word in ("Dinamic", "ten", "hostport.io/stride") if word not in run.stderr]
    assert (run.code, missing) == (1, []), run.stderr


def test_a_taken_static_port_is_denied_with_its_holder(kubectl: Kubectl) -> None:
    static, where = hostport(policy="Static"), {"nodeName": "n1"}
    kubectl.apply(pod("first", static, port(80, "http", hostPort=19300), **where))

    run = kubectl.try_apply(pod("second", static, port(80, "http", hostPort=19300), **where))

    assert run.stderr.startswith("Error from server (PORT_CONFLICT)"), run.stderr
    assert [word for word in ("19300", "TCP", "n1", "first") if word not in run.stderr] == [], run.stderr

    elsewhere = kubectl.try_apply(pod("third", static, port(80, "http", hostPort=19300), nodeName="n2"))
    assert elsewhere.code == 0, elsewhere.stderr


def test_a_holder_of_another_namespace_is_not_named(plane: ControlPlane, kubectl: Kubectl, namespace: str) -> None:
    neighbour = create_namespace(plane, f"{namespace[:50]}-secret")
    static = hostport(policy="Static")
    neighbour.apply(pod("hidden", static, port(80, hostPort=19350), nodeName="n1"))

    run = kubectl.try_apply(pod("web", static, port(80, hostPort=19350), nodeName="n1"))
    neighbour("delete", "namespace", f"{namespace[:50]}-secret", "--wait=false")

    assert run.stderr.startswith("Error from server (PORT_CONFLICT)"), run.stderr
    assert "a Pod of another namespace" in run.stderr
    assert ("hidden" in run.stderr, "secret" in run.stderr) == (False, False), run.stderr


def test_a_leased_port_is_denied_until_the_lease_ends(product: Product, kubectl: Kubectl) -> None:
    lease = product.allocator.lease("n1", 19360)
    asking = pod("web", hostport(policy="Static"), port(80, hostPort=19360), nodeName="n1")

    run = kubectl.try_apply(asking)
    product.allocator.release(lease)

    assert run.stderr.startswith("Error from server (HELD_BY_LEASE)"), run.stderr
    assert "19360" in run.stderr
    kubectl.apply(asking)


def test_a_finished_pod_frees_its_port(product: Product, kubectl: Kubectl, namespace: str) -> None:
    static = hostport(policy="Static")
    kubectl.apply(pod("first", static, port(80, hostPort=19370), nodeName="n1", restartPolicy="Never"))
    wait_for(
        "the allocator to see it",
        lambda: [each.state for each in product.allocator.allocations(namespace)],
        lambda states: states == [pb.STATE_BOUND],
    )
    kubectl("wait", "pod/first", "--for=jsonpath={.status.phase}=Running", "--timeout=10s")
    kubectl("patch", "pod", "first", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Succeeded"}}')

    wait_for(
        "the port to be free",
        lambda: kubectl.try_apply(pod("second", static, port(80, hostPort=19370), nodeName="n1")),
        lambda run: run.code == 0,
        seconds=5,
    )


def test_a_copied_pod_gets_ports_of_its_own(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(pod("original", hostport(policy="Dynamic", min_port=19380, max_port=19389), port(80, "http")))
    original = kubectl.get("pod", "original")
    copied = {
        **original,
        "metadata": {"name": "copy", "annotations": original["metadata"]["annotations"]},
        "status": {},
    }

    kubectl("create", "-f", "-", stdin=json.dumps(copied))

    copy = kubectl.get("pod", "copy")
    assert (numbers(original), numbers(copy)) == ([19380], [19381])
    assert annotation(copy, "allocation-id") != annotation(original, "allocation-id")
    env = {each["name"]: each.get("value") for each in copy["spec"]["containers"][0]["env"]}
    assert env["HOSTPORT_HTTP"] == "19381"
    assert len(product.allocator.allocations(namespace)) == 2


def test_only_nodes_where_the_pod_may_run_are_asked(plane: ControlPlane, kubectl: Kubectl) -> None:
    static = hostport(policy="Static")
    kubectl.apply(pod("first", static, port(80, hostPort=19390), nodeSelector={"kubernetes.io/hostname": "n2"}))

    refused = kubectl.try_apply(
        pod("second", static, port(80, hostPort=19390), nodeSelector={"kubernetes.io/hostname": "n2"})
    )
    kubectl.apply(pod("third", static, port(80, hostPort=19390), nodeSelector={"kubernetes.io/hostname": "n3"}))
    nowhere = kubectl.apply(pod("fourth", static, port(80, hostPort=19390), nodeSelector={"no": "node"}))

    assert refused.stderr.startswith("Error from server (PORT_CONFLICT)"), refused.stderr
    assert "n2" in refused.stderr
    assert "Warning: NO_CANDIDATE" in nowhere.stderr


def test_server_side_apply_shows_a_denial_as_such(kubectl: Kubectl) -> None:
    run = kubectl.try_apply(pod("web-0", hostport(policy="Dinamic"), port(80)), options=["--server-side"])

    assert run.code != 0
    assert "did you mean" in run.stderr
    assert "conflict" not in run.stderr


def test_a_pod_that_never_asked_us_holds_its_host_port(product: Product, kubectl: Kubectl) -> None:
    kubectl.apply(pod("outsider", {}, port(80, hostPort=19400), nodeName="n1"))
    wait_for(
        "the allocator to see the outsider",
        lambda: product.allocator.held_on("n1"),
        lambda held: 19400 in held,
    )

    run = kubectl.try_apply(pod("web", hostport(policy="Static"), port(80, hostPort=19400), nodeName="n1"))

    assert run.stderr.startswith("Error from server (PORT_CONFLICT)"), run.stderr
    assert "outsider" in run.stderr


def test_an_exhausted_range_is_denied(kubectl: Kubectl) -> None:
    narrow = hostport(policy="Dynamic", min_port=19500, max_port=19501)
    for name in ("first", "second"):
        kubectl.apply(pod(name, narrow, port(80), nodeName="n1"))

    run = kubectl.try_apply(pod("third", narrow, port(80), nodeName="n1"))

    assert run.stderr.startswith("Error from server (RANGE_EXHAUSTED)"), run.stderr
    assert [word for word in ("19500", "19501") if word not in run.stderr] == [], run.stderr


def test_a_pod_without_ports_is_admitted_with_a_warning(kubectl: Kubectl) -> None:
    run = kubectl.apply(pod("web-0", hostport()))

    assert "Warning: NO_PORTS" in run.stderr
    assert is_untouched(kubectl.get("pod", "web-0"))


def test_a_namespace_that_refuses_host_network_is_warned_of(kubectl: Kubectl, namespace: str) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")

    run = wait_for(
        "the allocator to see the label",
        lambda: kubectl.try_apply(pod("web", hostport(policy="Dynamic", min_port=21500), port(80))),
        lambda run: "Warning: POD_SECURITY" in run.stderr,
        seconds=5,
    )

    assert run.code != 0
    assert "violates PodSecurity" in run.stderr, "it is Kubernetes that refuses it"


def test_a_bare_pod_can_be_applied_only_once_and_the_warning_says_what_to_do(kubectl: Kubectl) -> None:
    bare = pod("web-0", hostport(min_port=21000), port(80, "http"))

    first = kubectl.apply(bare)
    second = kubectl.try_apply(bare)

    assert "Warning: BARE_POD_APPLIED" in first.stderr
    assert "delete and create it" in first.stderr
    assert (second.code, "Forbidden" in second.stderr or "invalid" in second.stderr) == (1, True), second.stderr

    kubectl("replace", "--force", "-f", "-", stdin=json.dumps(bare))
    assert numbers(kubectl.get("pod", "web-0")) == [21000]


def test_without_the_shim_only_pods_that_ask_are_refused(product: Product, kubectl: Kubectl) -> None:
    kubectl.apply(pod("old", hostport(policy="Dynamic", min_port=22050), port(80)))
    assert product.shim.stop() == 0
    try:
        refused = kubectl.try_apply(pod("asking-0", hostport(min_port=22000), port(80)))
        kubectl.apply(pod("other", {}, port(80)))
        kubectl("label", "pod", "old", "still=editable")
        kubectl("delete", "pod", "old", "--force")
    finally:
        product.shim.start()

    assert f'failed calling webhook "again.{WEBHOOK}"' in refused.stderr
    kubectl.apply(pod("asking-0", hostport(min_port=22000), port(80)))
    assert numbers(kubectl.get("pod", "asking-0")) == [22000]


def test_without_the_allocator_pods_are_refused_and_its_return_is_seen_at_once(
    product: Product, kubectl: Kubectl
) -> None:
    fixed = hostport(policy="Static")
    kubectl.apply(pod("held", fixed, port(80, hostPort=22100), nodeName="n1"))

    product.allocator.kill()
    try:
        refused = kubectl.try_apply(pod("asking-0", hostport(min_port=22200), port(80)))
    finally:
        product.allocator.start()

    assert f'failed calling webhook "again.{WEBHOOK}"' in refused.stderr
    assert "ALLOCATOR_UNREACHABLE" in refused.stderr
    wait_for(
        "the shim to find the allocator",
        lambda: kubectl.try_apply(pod("asking-0", hostport(min_port=22200), port(80))),
        lambda run: run.code == 0,
        seconds=3,
    )
    conflict = kubectl.try_apply(pod("late", fixed, port(80, hostPort=22100), nodeName="n1"))
    assert conflict.stderr.startswith("Error from server (PORT_CONFLICT)"), conflict.stderr
