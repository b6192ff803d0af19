"""A real scheduler is told what it does not know: a Pod is kept off the nodes where its fixed number is leased."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.api import Https, Kubectl, Run
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, numbers, pod, port, workload
from e2e.processes import wait_for
from e2e.product import Product, Shim

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
STATIC = hostport(policy="Static")
Json = dict[str, Any]


def on_nodes(*terms: Json) -> Json:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def named(*names: str) -> Json:
    return {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}]}


def off(*names: str) -> list[Json]:
    return [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]


def terms_of(stored: Json) -> list[Json]:
    found: list[Json] = stored["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return found


def asking(name: str, number: int, **spec: Any) -> Json:
    return pod(name, STATIC, port(80, "game", hostPort=number), **spec)


@contextlib.contextmanager
def leased(product: Product, number: int, *nodes: str) -> Iterator[None]:
    leases = [product.allocator.lease(node, number) for node in nodes]
    try:
        yield
    finally:
        for lease in leases:
            product.allocator.release(lease)


def assert_says(run: Run, *parts: str) -> None:
    """Nodes are named in no promised order."""
    said = " ".join(run.stderr.split())
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize(
    ("number", "spec", "expected"),
    [
        (19601, {}, [{"matchFields": off("n1", "n3")}]),
        (
            19602,
            on_nodes(named("n1", "n2") | {"matchFields": off("n3")}, named("n2", "n3")),
            [
                named("n1", "n2") | {"matchFields": off("n3", "n1")},
                named("n2", "n3") | {"matchFields": off("n1", "n3")},
            ],
        ),
    ],
    ids=["no affinity", "two terms"],
)
def test_a_pod_runs_where_its_number_is_not_leased(
    product: Product, kubectl: Kubectl, number: int, spec: Json, expected: list[Json]
) -> None:
    with leased(product, number, "n1", "n3"):
        kubectl.apply(workload("StatefulSet", "game", STATIC, port(80, "game", hostPort=number), pod_spec=spec))
        kubectl("wait", "pod/game-0", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")

    stored = kubectl.get("pod", "game-0")
    assert (numbers(stored), stored["spec"]["nodeName"], terms_of(stored)) == ([number], "n2", expected)


def test_a_number_that_is_leased_on_every_candidate_is_refused_and_each_is_named(
    product: Product, kubectl: Kubectl
) -> None:
    with leased(product, 19610, "n1", "n2"):
        run = kubectl.try_apply(asking("game", 19610, **on_nodes(named("n1", "n2"))))

    assert run.stderr.startswith("Error from server (HELD_BY_LEASE)"), run.stderr
    assert_says(run, "19610/TCP is leased on all 2 candidate nodes: ", "n1 by lease", "n2 by lease")


def test_a_pod_that_is_kept_off_a_node_waits_there_for_nobody(product: Product, kubectl: Kubectl) -> None:
    """The lease ends, and the Pod still goes to another node: its terms are its own."""
    with leased(product, 19620, "n1"):
        kubectl.apply(asking("game", 19620, **on_nodes(named("n1", "n2")), schedulingGates=[{"name": "e2e/wait"}]))
    kubectl("patch", "pod", "game", "--type=json", "-p", '[{"op": "remove", "path": "/spec/schedulingGates"}]')
    kubectl("wait", "pod/game", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")

    assert kubectl.get("pod", "game")["spec"]["nodeName"] == "n2"


def test_whoever_makes_the_pod_is_told(product: Product, kubectl: Kubectl) -> None:
    with leased(product, 19630, "n1"):
        run = kubectl.apply(asking("game", 19630, **on_nodes(named("n1", "n2"))))

    assert "STEERED: the Pod is kept off nodes where somebody whom the scheduler does not know" in run.stderr


def test_a_shim_that_does_not_steer_leaves_affinity_alone(plane: ControlPlane, product: Product) -> None:
    shim = Shim(plane.logs, plane.pki.server("unsteered"), product.allocator, "--steer=false", name="shim-unsteered")
    webhook = Https(shim.base, plane.pki.trusting())
    obj = asking("game", 19640)
    request = {
        "uid": "unsteered",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "default",
        "operation": "CREATE",
        "dryRun": True,
        "object": obj,
    }
    with leased(product, 19640, "n1"):
        answer = webhook.ask(
            "POST",
            "/mutate?timeout=5s",
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request},
        )
    shim.stop()

    status = answer.json["response"]["status"]
    assert status["reason"] == "HELD_BY_LEASE"
    assert "keep the Pod off that node" in status["message"]


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [(off("n1", "n2"), True), ([{"key": "metadata.name", "operator": "NotIn", "values": ["n1", "n2"]}], False)],
    ids=["one name in each requirement", "two names in one"],
)
def test_the_api_server_takes_one_name_in_a_requirement(kubectl: Kubectl, fields: list[Json], is_taken: bool) -> None:
    asked = pod("plain", {}, port(80), **on_nodes({"matchFields": fields}))

    assert (kubectl.try_apply(asked, options=["--dry-run=server"]).code == 0) == is_taken


def test_a_daemon_set_runs_on_the_nodes_that_are_left(product: Product, kubectl: Kubectl) -> None:
    """Its Pods name their node, so that nobody can send them elsewhere."""
    with leased(product, 19650, "n1"):
        kubectl.apply(workload("DaemonSet", "game", STATIC, port(80, "game", hostPort=19650)))
        wait_for(
            "its Pods to run",
            lambda: sorted(each["spec"].get("nodeName", "") for each in kubectl.pods("app=game")),
            lambda nodes: nodes == ["n2", "n3"],
        )
        told = wait_for(
            "the refusal of the third",
            lambda: [each["message"] for each in kubectl.get("events")["items"] if each["reason"] == "FailedCreate"],
            bool,
        )
    assert "19650/TCP is leased on the only candidate node: n1 by" in told[0]


# -- processes, as the agents of nodes tell of them


@contextlib.contextmanager
def opened(product: Product, number: int, *nodes: str) -> Iterator[None]:
    """A process has the number on these nodes."""
    for node in nodes:
        product.allocator.report(node, number)
    try:
        yield
    finally:
        for node in nodes:
            product.allocator.report(node)


def test_a_pod_runs_where_no_process_has_its_number(product: Product, kubectl: Kubectl) -> None:
    with opened(product, 19660, "n1", "n3"):
        run = kubectl.apply(asking("game", 19660))
        kubectl("wait", "pod/game", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")

    stored = kubectl.get("pod", "game")
    assert (stored["spec"]["nodeName"], terms_of(stored)) == ("n2", [{"matchFields": off("n1", "n3")}])
    assert_says(run, "n1 by process squatter", "n3 by process squatter")


def test_a_number_that_a_process_and_a_pod_have_is_refused_and_both_are_named(
    product: Product, kubectl: Kubectl
) -> None:
    kubectl.apply(asking("first", 19670, nodeName="n2"))
    with opened(product, 19670, "n1"):
        run = kubectl.try_apply(asking("second", 19670, **on_nodes(named("n1", "n2"))))

    assert run.stderr.startswith("Error from server (PORT_CONFLICT)"), run.stderr
    assert_says(run, "taken on all 2 candidate nodes: ", "n1 by process squatter", "n2 by Pod")


def test_dynamic_takes_no_number_that_a_process_has(product: Product, kubectl: Kubectl) -> None:
    notes = hostport(policy="Dynamic", min_port=19680, max_port=19681)
    with opened(product, 19680, "n1"):
        kubectl.apply(pod("game", notes, port(80, "game"), nodeName="n1"))

    assert numbers(kubectl.get("pod", "game")) == [19681]


def test_a_daemon_set_is_told_of_the_process_and_runs_all_the_same(product: Product, kubectl: Kubectl) -> None:
    with opened(product, 19690, "n1"):
        kubectl.apply(workload("DaemonSet", "game", STATIC, port(80, "game", hostPort=19690)))
        wait_for(
            "its Pods to run",
            lambda: sorted(each["spec"].get("nodeName", "") for each in kubectl.pods("app=game")),
            lambda nodes: nodes == ["n1", "n2", "n3"],
        )
        told = wait_for(
            "the warning",
            lambda: [each["message"] for each in kubectl.get("events")["items"] if each["reason"] == "Warned"],
            lambda messages: any("HELD_BY_PROCESS" in each for each in messages),
        )
    assert any("19690/TCP on n1 by process squatter" in each for each in told)
