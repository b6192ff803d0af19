"""`hostport explain` on a real control plane: Pods that got ports, that did not ask, and that were denied."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.api import Kubectl, Run
from e2e.binaries import CHECKOUT
from e2e.manifests import annotation, hostport, pod, port, workload
from e2e.processes import wait_for
from e2e.product import Product


def explain(product: Product, kubectl: Kubectl, name: str) -> Run:
    plane = product.plane
    command = [
        sys.executable, "-m", "hostport_cli", "explain", name, f"--server={product.allocator.address}",
        f"--namespace={kubectl.namespace}", f"--kubeconfig={plane.kubectl.kubeconfig}",
    ]  # fmt: skip
    environ = {"PATH": f"{Path(plane.binaries['kubectl']).parent}:{os.environ['PATH']}", "HOME": str(plane.logs)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=CHECKOUT, env=environ)
    return Run(done.returncode, done.stdout, done.stderr)


def test_a_pod_with_ports_is_explained_with_the_rule_of_each(product: Product, kubectl: Kubectl, node: str) -> None:
    """On a node of its own, where no agent says who listens."""
    asking = pod(
        "web-3",
        hostport(policy="Index", min_port=27100, max_port=27299),
        port(8080, "http"),
        port(9090, "metrics"),
        nodeSelector={"e2e.hostport.io/case": node},
    )
    asking["spec"]["containers"][0]["args"] = ["$(HOSTPORT_HTTP)"]
    kubectl("create", "-f", "-", stdin=json.dumps(asking))
    stored = kubectl.get("pod", "web-3")

    run = wait_for(
        "the Pod to be seen", lambda: explain(product, kubectl, "web-3"), lambda it: "RESERVED" not in it.stdout
    )

    allocation = annotation(stored, "allocation-id")
    lines = [line for line in run.stdout.splitlines() if not line.startswith("Candidates:")]  # until it has a node
    assert run.code == 0
    assert lines[0].startswith(("It has its ports", "It has its numbers, and waits for a node."))  # nobody listens here
    assert lines[3:6] == [
        "Webhook:     hostport-operator, failurePolicy Fail",
        "Policy:      Index, from 27100 to 27299, stride 100",
        "Index:       3, of the name",
    ]
    assert lines[6].startswith(f"Allocation:  {allocation}, ")
    assert lines[8:] == [
        "CONTAINER   PORT      ASKED      NUMBER   RULE",
        "main        http      8080/TCP   27103    27100 + 3",
        "main        metrics   9090/TCP   27203    27100 + 3 + 1 * 100",
    ]


def test_a_pod_that_did_not_ask_is_told_so(product: Product, kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(pod("plain", {}, port(80))))

    run = explain(product, kubectl, "plain")

    assert (run.code, run.stdout.splitlines()[0]) == (0, "It did not ask: it has no annotation hostport.io/enabled.")


def test_a_pod_that_was_annotated_afterwards_is_told_so(product: Product, kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(pod("late", {}, port(80))))
    if kubectl.run("annotate", "pod", "late", "hostport.io/enabled=true").code != 0:
        pytest.skip("the admission policy of another module is in force")

    run = explain(product, kubectl, "late")

    assert run.code == 1
    assert "the annotation was added to a Pod that existed, where it has no effect" in run.stdout


@pytest.mark.workloads
def test_a_pod_that_was_denied_is_explained_by_the_denial(product: Product, kubectl: Kubectl) -> None:
    kubectl.apply(workload("StatefulSet", "db", hostport(policy="dynamic"), port(80), serviceName="db", replicas=1))

    run = wait_for("the denial", lambda: explain(product, kubectl, "db-0"), lambda it: "was denied" in it.stderr)

    assert (run.code, run.stdout) == (3, "")
    assert "there is no Pod db-0 in namespace" in run.stderr
    assert "the last Pod of StatefulSet db was denied: UNKNOWN_POLICY: " in run.stderr


def test_a_pod_that_waits_is_told_which_node_it_is_kept_off_and_by_whom(product: Product, kubectl: Kubectl) -> None:
    lease = product.allocator.lease("n1", 27150)
    static = hostport(policy="Static")
    asking = pod("held-up", static, port(80, hostPort=27150), schedulingGates=[{"name": "example.com/wait"}])
    kubectl("create", "-f", "-", stdin=json.dumps(asking))

    run = wait_for(
        "the Pod to be seen", lambda: explain(product, kubectl, "held-up"), lambda it: "RESERVED" not in it.stdout
    )
    product.allocator.release(lease)

    assert "Candidates:  2 nodes where it may run, as things stand" in run.stdout
    assert "Kept off:    n1 (27150/TCP by Service/e2e)" in run.stdout, run.stdout
