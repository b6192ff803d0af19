"""What each kind of workload gets, as the API server stores it and the scheduler places it."""

from __future__ import annotations

import time
from functools import partial

import pytest

from e2e.api import Kubectl
from e2e.binaries import CHECKOUT
from e2e.manifests import (
    allocations,
    annotation,
    hostport,
    numbers,
    numbers_by_name,
    port,
    workload,
)
from e2e.processes import wait_for
from e2e.product import Product
from e2e.seen import bound, nodes_by_id, refusals, running

pytestmark = pytest.mark.workloads


def test_the_example_gets_the_ports_it_promises(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(CHECKOUT / "examples" / "distributed-db.yaml"))

    pods = running(kubectl, 3)

    assert numbers_by_name(pods) == {
        "distributed-db-0": [10000, 10100],
        "distributed-db-1": [10001, 10101],
        "distributed-db-2": [10002, 10102],
    }
    for index, pod in enumerate(pods):
        primary, metrics = 10000 + index, 10100 + index
        (db,) = pod["spec"]["containers"]
        assert pod["spec"]["hostNetwork"] is True
        assert pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
        assert [(each["name"], each["containerPort"]) for each in db["ports"]] == [
            ("primary", primary),
            ("metrics", metrics),
        ]
        assert annotation(pod, "allocated-primary") == str(primary)
        assert annotation(pod, "allocated-metrics") == str(metrics)
        assert len(annotation(pod, "allocation-id")) == 32
        assert allocations(pod) == [
            {"container": "db", "name": "primary", "protocol": "TCP", "containerPort": 8080, "hostPort": primary},
            {"container": "db", "name": "metrics", "protocol": "TCP", "containerPort": 9090, "hostPort": metrics},
        ]
        assert {
            each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"] for each in db["env"]
        } == {
            "HOSTPORT_PRIMARY": str(primary),
            "HOSTPORT_METRICS": str(metrics),
            "HOSTPORT_HOST_IP": "status.hostIP",
        }


def test_the_allocator_learns_where_each_pod_runs(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(workload("StatefulSet", "db", hostport(min_port=10500), port(80), replicas=3, serviceName="db"))
    pods = running(kubectl, 3)

    assert bound(product, namespace, 3) == nodes_by_id(pods)


def test_scaling_adds_and_frees_ports(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(
        workload("StatefulSet", "db", hostport(min_port=11000), port(80), port(81), replicas=1, serviceName="db")
    )
    running(kubectl, 1)

    kubectl("scale", "statefulset/db", "--replicas=4")
    grown = running(kubectl, 4)
    bound(product, namespace, 4)

    assert numbers_by_name(grown) == {f"db-{index}": [11000 + index, 11100 + index] for index in range(4)}

    kubectl("scale", "statefulset/db", "--replicas=1")
    left = running(kubectl, 1)

    assert bound(product, namespace, 1) == nodes_by_id(left)


def test_the_successor_of_a_deleted_replica_has_its_ports(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(workload("StatefulSet", "db", hostport(min_port=12000), port(80), replicas=2, serviceName="db"))
    before = running(kubectl, 2)
    bound(product, namespace, 2)

    kubectl("delete", "pod", "db-1", "--wait=false")
    after = wait_for(
        "a successor to run",
        lambda: running(kubectl, 2),
        lambda pods: pods[1]["metadata"]["uid"] != before[1]["metadata"]["uid"],
    )

    assert numbers_by_name(after) == {"db-0": [12000], "db-1": [12001]}
    assert annotation(after[1], "allocation-id") != annotation(before[1], "allocation-id")
    assert bound(product, namespace, 2) == nodes_by_id(after)


def test_a_deployment_gets_a_different_number_for_every_pod(kubectl: Kubectl) -> None:
    dynamic = hostport(policy="Dynamic", min_port=13000, max_port=13099)
    kubectl.apply(workload("Deployment", "web", dynamic, port(80, "http"), replicas=50))

    pods = running(kubectl, 50)

    assert sorted(number for pod in pods for number in numbers(pod)) == list(range(13000, 13050))


def test_a_denial_is_an_event_of_the_workload(kubectl: Kubectl) -> None:
    kubectl.apply(workload("Deployment", "web", hostport(policy="Index"), port(80), replicas=1))

    messages = wait_for(
        "an event of the ReplicaSet",
        lambda: refusals(kubectl),
        bool,
    )
    assert "NO_INDEX" in messages[0]
    assert "Dynamic" in messages[0], "the message names the remedy"


def test_a_fixed_number_fits_once_on_every_node(product: Product, kubectl: Kubectl) -> None:
    kubectl.apply(workload("Deployment", "web", hostport(policy="Passthrough"), port(13400), replicas=4))

    pods = running(kubectl, 3)
    refused = wait_for(
        "the fourth to be refused",
        lambda: refusals(kubectl),
        bool,
    )

    assert {pod["spec"]["nodeName"] for pod in pods} == set(product.plane.nodes)
    assert "PORT_CONFLICT" in refused[0]
    assert "13400" in refused[0]


def test_an_allocator_that_dies_under_load_gives_no_number_twice(product: Product, kubectl: Kubectl) -> None:
    dynamic = hostport(policy="Dynamic", min_port=13600, max_port=13799)
    kubectl.apply(workload("Deployment", "web", dynamic, port(80), replicas=150))
    # The allocator itself is asked: until the API server has listed five Pods all 150 may be there.
    claims = partial(product.allocator.allocations, str(kubectl.namespace))
    ends = time.monotonic() + 30
    while len(claims()) < 5:  # without a pause: a fast machine has made all of them in half a second
        assert time.monotonic() < ends

    product.allocator.kill()
    created = len(kubectl.pods())
    product.allocator.start()  # before anything is asserted: other tests need one
    assert created < 150, "it died too late to prove anything"

    held = [number for pod in running(kubectl, 150) for number in numbers(pod)]
    assert len(held) == len(set(held)) == 150


def test_a_deployment_rolls_over_while_its_old_pods_hold_their_ports(kubectl: Kubectl) -> None:
    dynamic = hostport(policy="Dynamic", min_port=13500, max_port=13599)
    kubectl.apply(workload("Deployment", "web", dynamic, port(80), replicas=3))
    running(kubectl, 3)

    kubectl("rollout", "restart", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")

    renewed = running(kubectl, 3)
    assert len({number for pod in renewed for number in numbers(pod)}) == 3


def test_a_daemon_set_may_have_one_number_on_every_node(product: Product, kubectl: Kubectl) -> None:
    dynamic = hostport(policy="Dynamic", min_port=14000, max_port=14099)
    kubectl.apply(workload("DaemonSet", "agent", dynamic, port(80)))

    pods = running(kubectl, 3)

    assert {pod["spec"]["nodeName"]: numbers(pod) for pod in pods} == {name: [14000] for name in product.plane.nodes}


def test_an_indexed_job_counts_by_completion_index(kubectl: Kubectl) -> None:
    kubectl.apply(
        workload(
            "Job",
            "shard",
            hostport(min_port=15000),
            port(80),
            pod_spec={"restartPolicy": "Never"},
            completionMode="Indexed",
            completions=3,
            parallelism=3,
        )
    )

    pods = running(kubectl, 3)

    index = "batch.kubernetes.io/job-completion-index"
    assert {pod["metadata"]["annotations"][index]: numbers(pod) for pod in pods} == {
        "0": [15000],
        "1": [15001],
        "2": [15002],
    }
    names = [each["name"] for each in pods[0]["spec"]["containers"][0]["env"]]
    assert names[-1] == "JOB_COMPLETION_INDEX", "ours come first, so that later values can refer to them"


def test_a_template_with_host_network_gets_numbers_all_the_same(kubectl: Kubectl) -> None:
    kubectl.apply(
        workload(
            "StatefulSet",
            "db",
            hostport(min_port=16000),
            port(8080, "web"),
            pod_spec={"hostNetwork": True},
            replicas=2,
            serviceName="db",
        )
    )

    pods = running(kubectl, 2)

    assert numbers_by_name(pods) == {"db-0": [16000], "db-1": [16001]}
    assert [allocations(pod)[0]["containerPort"] for pod in pods] == [8080, 8080]


def test_one_port_of_two_protocols_gets_one_number(kubectl: Kubectl) -> None:
    kubectl.apply(
        workload(
            "StatefulSet",
            "dns",
            hostport(min_port=17000),
            port(53, "dns", "UDP"),
            port(53, "dns-tcp"),
            port(9153, "metrics"),
            replicas=2,
            serviceName="dns",
        )
    )

    pods = running(kubectl, 2)

    assert numbers_by_name(pods) == {"dns-0": [17000, 17000, 17100], "dns-1": [17001, 17001, 17101]}


def test_numeric_probes_follow_their_port(kubectl: Kubectl) -> None:
    probed = workload("StatefulSet", "db", hostport(min_port=17500), port(8080), replicas=1, serviceName="db")
    (main,) = probed["spec"]["template"]["spec"]["containers"]
    main["readinessProbe"] = {"tcpSocket": {"port": 8080}}
    main["livenessProbe"] = {"httpGet": {"path": "/", "port": 8081}}
    kubectl.apply(probed)

    (pod,) = running(kubectl, 1)

    (stored,) = pod["spec"]["containers"]
    assert stored["readinessProbe"]["tcpSocket"]["port"] == 17500
    assert stored["livenessProbe"]["httpGet"]["port"] == 8081, "nobody listens there by declaration"
