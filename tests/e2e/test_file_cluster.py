"""The core cases once more, with an allocator that learns the cluster from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.api import Kubectl
from e2e.conftest import case_name, start_or_exit
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import hostport, numbers, numbers_by_name, pod, port, workload
from e2e.processes import wait_until
from e2e.product import FILE_NAMESPACE, HIDDEN, Product, file_product
from e2e.seen import bound, nodes_by_id, running

pytestmark = pytest.mark.workloads


@pytest.fixture(scope="module")
def from_file(product_session: Product, folder: Path) -> Iterator[Product]:
    with start_or_exit() as stack:
        running = stack.enter_context(file_product(product_session.plane, folder))
        yield running


@pytest.fixture
def namespace(request: pytest.FixtureRequest, plane: ControlPlane, from_file: Product) -> Iterator[str]:
    """A namespace whose Pods come to the second product alone."""
    name = case_name(request)
    create_namespace(plane, name, labels=FILE_NAMESPACE)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


def test_a_stateful_set_counts_by_index(from_file: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(
        workload("StatefulSet", "db", hostport(min_port=26000), port(80), port(81), replicas=2, serviceName="db")
    )

    pods = running(kubectl, 2)

    assert numbers_by_name(pods) == {"db-0": [26000, 26100], "db-1": [26001, 26101]}
    assert bound(from_file, namespace, 2) == nodes_by_id(pods)


def test_a_deployment_gets_different_numbers(kubectl: Kubectl) -> None:
    dynamic = hostport(policy="Dynamic", min_port=26300, max_port=26399)
    kubectl.apply(workload("Deployment", "web", dynamic, port(80), replicas=20))

    pods = running(kubectl, 20)

    assert sorted(number for pod in pods for number in numbers(pod)) == list(range(26300, 26320))


def test_ports_are_freed_with_their_pods(from_file: Product, kubectl: Kubectl, namespace: str) -> None:
    holder = pod("holder", hostport(policy="Static"), port(80, hostPort=26500), nodeName="n1")
    kubectl.apply(holder)
    bound(from_file, namespace, 1)
    holder["metadata"]["name"] = "successor"
    assert "PORT_CONFLICT" in kubectl.try_apply(holder).stderr

    kubectl("delete", "pod", "holder")
    bound(from_file, namespace, 0)

    kubectl.apply(holder)
    running(kubectl, 1)


def test_the_first_product_sees_the_ports_of_the_second_as_those_of_others(
    from_file: Product, product: Product, plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    kubectl.apply(pod("holder", hostport(policy="Static"), port(80, hostPort=26600), nodeName="n1"))
    running(kubectl, 1)

    asking = pod("late", hostport(policy="Static"), port(80, hostPort=26600), nodeName="n1")
    refused = plane.kubectl.within("default").try_apply(asking, options=["--dry-run=server"])

    assert "PORT_CONFLICT" in refused.stderr


def test_a_pod_outside_the_books_shows_in_what_the_scheduler_says(
    from_file: Product, plane: ControlPlane, kubectl: Kubectl
) -> None:
    on_n1 = {"nodeSelector": {"kubernetes.io/hostname": "n1"}}
    unseen = pod("unseen", {}, port(80, hostPort=26900), **on_n1)
    unseen["metadata"]["labels"] = {HIDDEN: "true"}
    kubectl.apply(unseen)
    running(kubectl, 1)

    kubectl.apply(pod("web-0", hostport(policy="Static"), port(80, hostPort=26900), **on_n1))

    def reported() -> bool:
        told = from_file.allocator.metrics().splitlines()
        return {
            'hostport_port_rejections_total{by="scheduler",explained="false"} 1.0',
            'hostport_drift{kind="contradicted"} 1.0',
            'hostport_incidents_total{kind="PortsRefused"} 1.0',
        } <= set(told)

    log = plane.logs / "allocator-file.log"
    wait_until("the contradiction to be reported", reported, seconds=40)
    wait_until(
        "the log to say so too",
        lambda: "the scheduler finds no node free for 26900/TCP: nobody holds it there as far as" in log.read_text(),
    )
