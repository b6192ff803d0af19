"""An allocator that watches the cluster: nodes, bursts, refusals and restarts, on nodes that each case has for itself."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pytest

from e2e.api import Kubectl
from e2e.conftest import case_name
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import Pod, hostport, numbers, numbers_by_name, port, workload
from e2e.manifests import pod as bare_pod
from e2e.nodes import LINGERS
from e2e.processes import wait_for, wait_until
from e2e.product import Product
from e2e.seen import bound, refusals, running
from hostport.v1 import allocator_pb2 as pb

pytestmark = pytest.mark.workloads

BURST = int(os.environ.get("E2E_BURST", "3000"))
CLIENTS = 16
LABEL = "e2e.hostport.io/pool"
PAUSE = 1.5  # long enough for a scheduler and a kubelet to do what they must not


@dataclass(frozen=True)
class Pool:
    """Nodes of one case, and what ties its Pods to them."""

    plane: ControlPlane
    name: str
    nodes: list[str]

    @property
    def selector(self) -> dict[str, str]:
        return {LABEL: self.name}

    @property
    def spec(self) -> dict[str, Any]:
        return {"nodeSelector": self.selector}

    @property
    def constraints(self) -> pb.NodeConstraints:
        return pb.NodeConstraints(node_selector=self.selector)

    def grow(self) -> str:
        node = f"{self.name[:50]}-{len(self.nodes) + 1}"
        self.plane.fleet.add(node, **self.selector)
        self.nodes.append(node)
        return node


@pytest.fixture
def pool(request: pytest.FixtureRequest, plane: ControlPlane, namespace: str) -> Iterator[Callable[[int], Pool]]:
    """Makes the nodes of the case, which go with it."""
    made = Pool(plane, namespace, [])

    def make(count: int) -> Pool:
        for _ in range(count):
            made.grow()
        return made

    yield make
    for node in made.nodes:
        plane.fleet.remove(node)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[Kubectl]:
    """A second namespace of the case."""
    name = f"{case_name(request)[:50].rstrip('-')}-elsewhere"
    yield create_namespace(plane, name)
    plane.kubectl("delete", "namespace", name, "--wait=false")


def dynamic(low: int, high: int, **more: str) -> dict[str, str]:
    return hostport(policy="Dynamic", min_port=low, max_port=high, **more)


def static(name: str, number: int, pool: Pool) -> Pod:
    """A bare Pod with a fixed number."""
    return bare_pod(name, hostport(policy="Static"), port(80, hostPort=number), **pool.spec)


def held_twice(pods: Sequence[Pod]) -> list[tuple[str, int]]:
    """What two Pods have on one node."""
    held = Counter((pod["spec"]["nodeName"], number) for pod in pods for number in numbers(pod))
    return [place for place, count in held.items() if count > 1]


def phase(kubectl: Kubectl, name: str) -> str:
    seen: str = kubectl.get("pod", name)["status"]["phase"]
    return seen


def test_a_range_is_used_on_every_node_before_a_pod_is_denied(
    product: Product, kubectl: Kubectl, pool: Callable[[int], Pool]
) -> None:
    four = pool(4)
    kubectl.apply(
        workload("Deployment", "web", dynamic(20000, 20009), port(80), replicas=40, pod_spec=four.spec),
    )
    pods = running(kubectl, 40)
    assert held_twice(pods) == []
    assert {number for pod in pods for number in numbers(pod)} == set(range(20000, 20010))

    kubectl("scale", "deployment/web", "--replicas=41")
    denial = wait_for("the 41st to be denied", lambda: refusals(kubectl), bool)[0]
    kubectl("scale", "deployment/web", "--replicas=40")

    assert "RANGE_EXHAUSTED" in denial
    assert "20000-20009" in denial
    assert "4 candidate nodes" in denial

    patient = bare_pod("patient", dynamic(20000, 20009, when_full="Pending"), port(80), **four.spec)
    run = kubectl.apply(patient)
    assert "ALL_FULL" in run.stderr
    time.sleep(PAUSE)
    assert phase(kubectl, "patient") == "Pending"

    fifth = four.grow()

    pods = running(kubectl, 41)
    assert held_twice(pods) == []
    assert [pod["spec"]["nodeName"] for pod in pods if pod["metadata"]["name"] == "patient"] == [fifth]


def test_a_daemon_set_has_the_same_first_number_on_every_node(kubectl: Kubectl, pool: Callable[[int], Pool]) -> None:
    four = pool(4)
    kubectl.apply(workload("DaemonSet", "agent", dynamic(20100, 20199), port(80), pod_spec=four.spec))

    pods = running(kubectl, 4)

    assert {pod["spec"]["nodeName"]: numbers(pod) for pod in pods} == {node: [20100] for node in four.nodes}


def test_a_fixed_number_is_denied_with_the_names_of_its_holders(
    kubectl: Kubectl, elsewhere: Kubectl, pool: Callable[[int], Pool]
) -> None:
    two = pool(2)
    for name in ("holder-a", "holder-b"):
        kubectl.apply(static(name, 18080, two))
    assert {pod["spec"]["nodeName"] for pod in running(kubectl, 2)} == set(two.nodes)

    here = kubectl.try_apply(static("third", 18080, two)).stderr
    there = elsewhere.try_apply(static("third", 18080, two)).stderr

    for denial in (here, there):
        assert "PORT_CONFLICT" in denial
        assert "18080" in denial
        assert all(node in denial for node in two.nodes)
    assert all(name in here for name in ("holder-a", "holder-b"))
    assert "holder-" not in there
    assert f"{kubectl.namespace}/" not in there
    assert "a Pod of another namespace" in there


@pytest.mark.parametrize("annotations", [hostport(min_port=20200), dynamic(20300, 20302)], ids=["index", "dynamic"])
def test_a_stateful_set_keeps_its_ports(
    kubectl: Kubectl, pool: Callable[[int], Pool], annotations: dict[str, str]
) -> None:
    """On one node, where each number is free for its own replica alone."""
    single = pool(1)
    kubectl.apply(
        workload("StatefulSet", "db", annotations, port(80), replicas=3, serviceName="db", pod_spec=single.spec)
    )
    before = running(kubectl, 3)

    kubectl("rollout", "restart", "statefulset/db")
    kubectl("rollout", "status", "statefulset/db", "--timeout=30s")
    rolled = running(kubectl, 3)
    assert {pod["metadata"]["uid"] for pod in rolled}.isdisjoint(pod["metadata"]["uid"] for pod in before)
    assert numbers_by_name(rolled) == numbers_by_name(before)

    for options in (["--wait=false"], ["--force", "--grace-period=0"]):
        uid = kubectl.get("pod", "db-1")["metadata"]["uid"]
        kubectl("delete", "pod", "db-1", *options)
        wait_for("a successor", kubectl.pods, lambda pods: len(pods) == 3 and pods[1]["metadata"]["uid"] != uid)  # noqa: B023
        assert numbers_by_name(running(kubectl, 3)) == numbers_by_name(before)

    kubectl("scale", "statefulset/db", "--replicas=0")
    wait_until("all to be gone", lambda: kubectl.get("pods")["items"] == [])
    kubectl("scale", "statefulset/db", "--replicas=3")
    assert numbers_by_name(running(kubectl, 3)) == numbers_by_name(before)
    assert refusals(kubectl) == []


def test_a_hand_made_pod_is_respected_also_after_a_restart(
    product: Product, kubectl: Kubectl, elsewhere: Kubectl, pool: Callable[[int], Pool]
) -> None:
    single = pool(1)

    def hand_made(name: str, number: int) -> None:
        elsewhere.apply(bare_pod(name, {}, port(80, hostPort=number), **single.spec))
        running(elsewhere, number - 20399)

    def denied(number: int) -> bool:
        return "PORT_CONFLICT" in kubectl.try_apply(static("late", number, single), options=["--dry-run=server"]).stderr

    def first_free() -> list[int]:
        asking = bare_pod("late", dynamic(20400, 20409), port(80), **single.spec)
        return numbers(kubectl.apply(asking, options=["--dry-run=server", "-o", "json"]).json)

    hand_made("early", 20400)
    wait_until("the allocator to see it", lambda: denied(20400), seconds=10)
    assert first_free() == [20401]

    product.allocator.kill()
    hand_made("meanwhile", 20401)
    product.allocator.start()

    assert denied(20400)
    assert denied(20401)
    assert first_free() == [20402]


@dataclass(frozen=True)
class Refusal:
    """What refuses the Pods of a namespace after our webhook."""

    labels: Mapping[str, str]
    quota: bool


REFUSALS = {
    "quota": Refusal({}, quota=True),
    "pod-security": Refusal({"pod-security.kubernetes.io/enforce": "baseline"}, quota=False),
}


def refuse_pods(kubectl: Kubectl, refusal: Refusal) -> None:
    for key, value in refusal.labels.items():
        kubectl("label", "namespace", str(kubectl.namespace), f"{key}={value}")
    if refusal.quota:
        kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "none"},
                "spec": {"hard": {"pods": "0"}},
            }
        )
        wait_for(
            "the quota to count", lambda: kubectl.get("resourcequota", "none"), lambda seen: "hard" in seen["status"]
        )


@pytest.fixture
def short_lived(product: Product) -> Iterator[float]:
    """Reservations that expire within the patience of a case."""
    seconds = 6.0
    product.allocator.restart(f"--reservation-ttl={seconds:.0f}s")
    yield seconds
    product.allocator.restart()


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_ports_of_pods_that_were_refused_later_come_back(
    product: Product,
    kubectl: Kubectl,
    namespace: str,
    pool: Callable[[int], Pool],
    short_lived: float,
    refusal: Refusal,
) -> None:
    refuse_pods(kubectl, refusal)
    asking: dict[str, Any] = {"replicas": 2, "pod_spec": pool(4).spec}
    kubectl.apply(
        workload("Deployment", "web", dynamic(20500, 20509), port(80), **asking),
        workload("StatefulSet", "db", hostport(min_port=20550), port(80), serviceName="db", **asking),
    )
    wait_for(
        "both to be refused",
        lambda: product.allocator.allocations(namespace),
        lambda held: {allocation.owner.name for allocation in held} == {"", "db-0"},
    )
    kubectl("delete", "deployment/web", "statefulset/db")

    reserved = {allocation.id: allocation for allocation in product.allocator.allocations(namespace)}
    assert {allocation.state for allocation in reserved.values()} == {pb.STATE_RESERVED}
    gone: dict[str, float] = {}

    def still_held() -> bool:
        now = time.time()
        live = {allocation.id for allocation in product.allocator.allocations(namespace)}
        gone.update({each: now for each in reserved if each not in live and each not in gone})
        return bool(live)

    wait_until("all ports to come back", lambda: not still_held(), seconds=short_lived + 10)

    lived = [gone[each] - reserved[each].create_time.ToDatetime(tzinfo=UTC).timestamp() for each in reserved]
    assert min(lived) >= short_lived
    assert max(lived) < short_lived + 5


def test_refused_workloads_do_not_drain_a_range(
    kubectl: Kubectl, elsewhere: Kubectl, pool: Callable[[int], Pool]
) -> None:
    four = pool(4)
    refuse_pods(kubectl, REFUSALS["quota"])
    asking = workload("Deployment", "web", dynamic(20600, 20609), port(80), replicas=10, pod_spec=four.spec)
    for number in range(3):
        kubectl.apply({**asking, "metadata": {"name": f"refused-{number}"}})
    wait_until("refusals", lambda: len(refusals(kubectl)) >= 3)
    # Each is refused again and again, and each time leaves a reservation: some eight, then there is a limit.
    wait_until("the limit", lambda: any("UNCONFIRMED_BACKLOG" in each for each in refusals(kubectl)))

    elsewhere.apply(asking)

    assert held_twice(running(elsewhere, 10)) == []


def test_a_daemon_set_and_a_deployment_in_one_burst_all_run(kubectl: Kubectl, pool: Callable[[int], Pool]) -> None:
    four = pool(4)
    kubectl.apply(
        workload("Deployment", "web", dynamic(20700, 20719), port(80), replicas=30, pod_spec=four.spec),
        workload("DaemonSet", "agent", dynamic(20700, 20719), port(80), pod_spec=four.spec),
    )

    pods = running(kubectl, 34)

    assert held_twice(pods) == []
    assert refusals(kubectl) == []


def test_while_all_nodes_are_cordoned_pods_wait(kubectl: Kubectl, pool: Callable[[int], Pool]) -> None:
    two = pool(2)
    kubectl("cordon", *two.nodes)
    kubectl.apply(workload("Deployment", "web", dynamic(20800, 20801), port(80), replicas=4, pod_spec=two.spec))
    wait_until("4 Pods", lambda: len(kubectl.pods()) == 4)
    time.sleep(PAUSE)
    assert {pod["status"]["phase"] for pod in kubectl.pods()} == {"Pending"}
    assert refusals(kubectl) == []

    kubectl("uncordon", *two.nodes)

    assert held_twice(running(kubectl, 4)) == []


def test_the_successor_of_a_terminating_pod_waits_for_its_port(
    product: Product, kubectl: Kubectl, pool: Callable[[int], Pool]
) -> None:
    single = pool(1)
    old = static("old", 18080, single)
    old["metadata"]["annotations"] |= {LINGERS: "true"}
    old["spec"]["terminationGracePeriodSeconds"] = 30
    kubectl.apply(old)
    running(kubectl, 1)

    kubectl("delete", "pod", "old", "--wait=false")
    time.sleep(PAUSE / 3)  # the watch is quick, not immediate
    run = kubectl.apply(static("new", 18080, single))

    assert "BEHIND_TERMINATING" in run.stderr
    time.sleep(PAUSE)
    assert (phase(kubectl, "old"), phase(kubectl, "new")) == ("Running", "Pending")
    wait_for("the new one to run", lambda: phase(kubectl, "new"), lambda seen: seen == "Running", seconds=45)
    assert "NotFound" in kubectl.run("get", "pod", "old").stderr


def test_candidates_follow_the_nodes_within_a_second(
    product: Product, kubectl: Kubectl, pool: Callable[[int], Pool]
) -> None:
    two = pool(2)
    first, second = two.nodes

    def candidates(*expected: str) -> None:
        def seen() -> set[str]:
            return {node for node in two.nodes if product.allocator.preview(20900, only(node)) == node}

        wait_for(f"candidates {expected}", seen, lambda nodes: nodes == set(expected), seconds=10)

    def only(node: str) -> pb.NodeConstraints:
        wanted = pb.NodeConstraints(node_selector=two.selector)
        wanted.node_selector["kubernetes.io/hostname"] = node
        return wanted

    def preferred(node: str) -> None:
        wait_for(
            f"{node} to be preferred",
            lambda: product.allocator.preview(20900, two.constraints),
            lambda planned: planned == node,
            seconds=1,
        )

    candidates(first, second)

    kubectl("label", "node", first, f"{LABEL}-")
    candidates(second)
    kubectl("label", "node", first, f"{LABEL}={two.name}")
    candidates(first, second)

    kubectl("taint", "node", second, "e2e.hostport.io/mine=yes:NoSchedule")
    candidates(first)
    kubectl("taint", "node", second, "e2e.hostport.io/mine-")
    candidates(first, second)

    for cordoned, other in ((first, second), (second, first)):
        kubectl("cordon", cordoned)
        preferred(other)
        candidates(first, second)  # it may come back: it is only the last choice
        kubectl("uncordon", cordoned)

    kubectl("delete", "node", first, "--wait=false")
    candidates(second)
    kubectl("delete", "node", second, "--wait=false")
    candidates()
    two.plane.fleet.add(first, **two.selector)
    candidates(first)


def test_a_burst_of_many_clients_gets_no_number_twice(
    product: Product, plane: ControlPlane, kubectl: Kubectl, namespace: str, pool: Callable[[int], Pool]
) -> None:
    four = pool(4)
    path = f"/api/v1/namespaces/{namespace}/pods"

    def create(index: int) -> Pod:
        asking = bare_pod(f"burst-{index}", dynamic(40000, 49999), port(80), **four.spec)
        answer = plane.api.ask("POST", path, asking, timeout=34)
        assert answer.status == 201, answer.text
        created: Pod = answer.json
        return created

    with ThreadPoolExecutor(CLIENTS) as clients:
        created = list(clients.map(create, range(BURST)))

    assert len({number for pod in created for number in numbers(pod)}) == BURST
    pods = running(kubectl, BURST, seconds=120)
    assert held_twice(pods) == []
    assert numbers_by_name(pods) == numbers_by_name(created)
    bound(product, namespace, BURST, seconds=60)

    plane.api.ask("DELETE", path, {"gracePeriodSeconds": 0}, timeout=120)
    bound(product, namespace, 0, seconds=60)
