"""A webhook that comes after ours changes the Pod, so ours is called again for the same Pod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.injector import LABEL, TAKES, injector
from e2e.manifests import Pod, allocations, annotation, hostport, numbers, numbers_by_name, pod, port, workload
from e2e.processes import wait_for
from e2e.product import Product
from e2e.seen import running


@pytest.fixture(scope="module", autouse=True)
def _second_webhook(plane: ControlPlane, product_session: Product) -> Iterator[None]:
    """Registered after ours works, and known to the API server."""
    with injector(plane):
        probe = injected("probe", {}, 80)
        wait_for(
            "the API server to call the injector",
            lambda: dry_run(plane.kubectl, probe),
            lambda stored: len(stored["spec"]["containers"]) == 2,
        )
        yield


def injected(name: str, annotations: dict[str, str], proxy: int) -> Pod:
    """A Pod that the injector gives a container with the port `proxy`."""
    asking = pod(name, annotations, port(8080, "http"), port(9090, "metrics"))
    asking["metadata"]["labels"] = {LABEL: str(proxy)}
    return asking


def dry_run(kubectl: Kubectl, manifest: Pod) -> Pod:
    stored: Pod = kubectl.apply(manifest, options=["--dry-run=server", "-o", "json"]).json
    return stored


def test_ports_keep_their_numbers_and_the_new_one_is_held_as_it_stands(
    product: Product, kubectl: Kubectl, namespace: str
) -> None:
    run = kubectl.apply(injected("web-3", hostport(min_port=20000), 20500))

    stored = kubectl.get("pod", "web-3")
    assert [each["name"] for each in stored["spec"]["containers"]] == ["proxy", "main"]
    assert numbers(stored) == [20500, 20003, 20103]
    assert {(each["container"], each["containerPort"], each["hostPort"]) for each in allocations(stored)} == {
        ("main", 8080, 20003),
        ("main", 9090, 20103),
        ("proxy", 20500, 20500),
    }
    assert "Warning: PORT_APPEARED" in run.stderr
    (held,) = product.allocator.allocations(namespace)
    assert held.id == annotation(stored, "allocation-id")
    assert sorted(each.host_port for each in held.ports) == [20003, 20103, 20500]


def test_the_new_port_is_taken_for_others(kubectl: Kubectl) -> None:
    first = injected("first-0", hostport(min_port=20600), 20690)
    first["spec"]["nodeName"] = "n1"
    kubectl.apply(first)

    late = pod("late", hostport(policy="Static"), port(80, hostPort=20690), nodeName="n1")
    run = kubectl.try_apply(late)

    assert run.stderr.startswith("Error from server (PORT_CONFLICT)"), run.stderr


def test_a_new_port_that_is_taken_denies_the_pod(kubectl: Kubectl, product: Product, namespace: str) -> None:
    kubectl.apply(pod("holder", hostport(policy="Static"), port(80, hostPort=20800), nodeName="n1"))
    asking = injected("web-0", hostport(min_port=20850), 20800)
    asking["spec"]["nodeName"] = "n1"

    run = kubectl.try_apply(asking)

    assert "Error from server (PORT_CONFLICT)" in run.stderr, run.stderr
    assert "20800" in run.stderr


def test_a_dry_run_is_called_twice_and_reserves_nothing(product: Product, kubectl: Kubectl, namespace: str) -> None:
    preview = dry_run(kubectl, injected("web-0", hostport(min_port=20900), 20990))

    assert preview["spec"]["hostNetwork"] is True
    assert product.allocator.allocations(namespace) == []


def test_a_dry_run_previews_what_a_second_call_leaves(kubectl: Kubectl) -> None:
    assert numbers(dry_run(kubectl, injected("web-0", hostport(min_port=20900), 20990))) == [20990, 20900, 21000]


@pytest.mark.workloads
def test_a_stateful_set_behind_an_injector_gets_its_ports(kubectl: Kubectl) -> None:
    # Each Pod's proxy has the same port, so each needs a node of its own.
    labelled = workload("StatefulSet", "db", hostport(min_port=23000), port(8080, "http"), replicas=3, serviceName="db")
    labelled["spec"]["template"]["metadata"]["labels"][LABEL] = "23900"
    kubectl.apply(labelled)

    pods = wait_for(
        "three Pods to run",
        kubectl.pods,
        lambda pods: [each["status"]["phase"] for each in pods] == ["Running"] * 3,
    )

    assert numbers_by_name(pods) == {f"db-{index}": [23900, 23000 + index] for index in range(3)}
    assert len({each["spec"]["nodeName"] for each in pods}) == 3


def relay(name: str, label: str, value: str) -> Pod:
    """A Pod on n1 with a block of ten numbers, which one of the other webhooks changes."""
    notes = hostport(policy="Dynamic", min_port=25000, max_port=25999, block_rtp="10")
    asking = pod(name, notes, port(10000, "rtp", "UDP"), nodeName="n1")
    asking["metadata"]["labels"] = {label: value}
    return asking


def test_a_webhook_that_comes_behind_ours_leaves_a_block_as_it_is(
    product: Product, kubectl: Kubectl, namespace: str
) -> None:
    kubectl.apply(relay("relay-0", LABEL, "25990"))

    main = next(each for each in kubectl.get("pod", "relay-0")["spec"]["containers"] if each["name"] == "main")

    held = [each["hostPort"] for each in main["ports"]]
    assert held == list(range(held[0], held[0] + 10))
    (claim,) = product.allocator.allocations(namespace)
    assert sorted((each.host_port, each.count or 1) for each in claim.ports) == [(held[0], 10), (25990, 1)]


def test_of_a_block_that_another_webhook_cut_the_rest_is_held(
    product: Product, kubectl: Kubectl, namespace: str
) -> None:
    """It is asked anew when ours has put them back, and takes them again: the stored Pod is the truth."""
    kubectl.apply(relay("relay-0", TAKES, "2"))
    (stored,) = running(kubectl, 1)
    held = numbers(stored)
    assert held == list(range(held[0], held[0] + 8))

    def claimed() -> list[int]:
        (claim,) = product.allocator.allocations(namespace)
        return [number for each in claim.ports for number in range(each.host_port, each.host_port + (each.count or 1))]

    assert wait_for("the claim to shrink", claimed, lambda seen: len(seen) == 8) == held
