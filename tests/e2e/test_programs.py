"""Manifests of programs that nobody wrote for us, on a real API server: what is stored, what is told, and where."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.api import Kubectl, as_list
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.manifests import annotation, hostport, numbers, port, workload
from e2e.processes import wait_for, wait_until
from e2e.product import Product
from e2e.seen import refusals, running

pytestmark = pytest.mark.workloads

PROGRAMS = CHECKOUT / "tests" / "testdata" / "programs"
ROLLING = "Pods of the same workload hold it: with a rolling update set maxSurge 0"
ATTEMPTS = 100

Json = dict[str, Any]


def manifests(name: str) -> list[Json]:
    """The objects of a case, in whatever namespace they are applied."""
    found: list[Json] = list(yaml.safe_load_all(Path(PROGRAMS, f"{name}.yaml").read_text()))
    for each in found:
        each["metadata"].pop("namespace", None)
    return found


def words(stored: Json) -> list[str]:
    """What a stored Pod was warned of."""
    return sorted(filter(None, stored["metadata"]["annotations"].get("hostport.io/warnings", "").split(",")))


@pytest.mark.parametrize(
    ("case", "count", "expected"),
    [
        pytest.param("restored-unnamed-port", 1, [], id="restored"),
        pytest.param("hard-coded-numbers", 1, ["OLD_NUMBER", "PORT_MOVED"], id="numbers in texts"),
        pytest.param(
            "author-hostnetwork-hostport", 1, ["HOST_PORT_REPLACED", "PORT_MOVED"], id="a hostPort of the author"
        ),
        pytest.param("init-container-port", 1, ["INIT_PORT", "PORT_MOVED"], id="a port of an init container"),
        pytest.param("misspelt-annotation", 1, ["PORT_MOVED", "UNKNOWN_ANNOTATION"], id="misspelt"),
        pytest.param("mapped-hostport", 3, ["MAPPED_PORT", "PORT_MOVED", "PRIVILEGED_PORT"], id="mapped"),
        pytest.param("numeric-service", 1, ["OLD_NUMBER", "PORT_MOVED"], id="a Service by number"),
        pytest.param("undeclared-probe", 2, ["PORT_MOVED", "UNDECLARED_PORT"], id="a probe of no port"),
        pytest.param("two-hostip", 2, ["PORT_MOVED"], id="two addresses"),
    ],
)
def test_a_pod_is_stored_with_what_it_was_warned_of(
    kubectl: Kubectl, case: str, count: int, expected: list[str]
) -> None:
    kubectl("create", "-f", "-", stdin=as_list(*manifests(case)))

    stored = wait_for("its Pods", kubectl.pods, lambda found: len(found) == count)

    assert [words(each) for each in stored] == [expected] * count
    assert 8081 not in {number for each in stored for number in numbers(each)}


def test_a_restored_pod_is_stored_with_one_number_everywhere(kubectl: Kubectl) -> None:
    kubectl.apply(*manifests("restored-unnamed-port"))

    (stored,) = kubectl.pods()
    (number,) = numbers(stored)
    env = {each["name"]: each.get("value") for each in stored["spec"]["containers"][0]["env"]}
    assert env["HOSTPORT_8080"] == annotation(stored, "allocated-8080-TCP") == str(number)


def test_a_pod_without_ports_is_told_so_and_left_alone(kubectl: Kubectl) -> None:
    run = kubectl.apply(*manifests("no-ports"))

    assert "NO_PORTS: no container has a port, so there is nothing to allocate" in run.stderr
    (stored,) = kubectl.pods()
    assert "hostport.io/allocation-id" not in stored["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("case", "workload", "there"),
    [
        pytest.param("deployment-rolls", "deployment/w", 3, id="Deployment"),
        pytest.param("daemonset-surges", "daemonset/d", 3, id="DaemonSet"),
    ],
)
def test_a_rolling_update_that_waits_for_itself_is_named(
    kubectl: Kubectl, case: str, workload: str, there: int
) -> None:
    kubectl.apply(*manifests(case))
    running(kubectl, there)
    change = {"spec": {"template": {"metadata": {"annotations": {"ver": "2"}}}}}

    kubectl("patch", workload, "--type=merge", "-p", json.dumps(change))

    said = wait_for("a refusal", lambda: refusals(kubectl), bool, seconds=30)
    assert all(ROLLING in each for each in said)


def test_each_service_that_leads_nowhere_is_named_once(kubectl: Kubectl) -> None:
    asking = hostport(policy="Index", min_port=28000, max_port=28999)
    kubectl.apply(
        *manifests("services"),
        workload("StatefulSet", "db", asking, port(8080, "primary"), replicas=2, serviceName="named"),
    )
    running(kubectl, 2)

    def named() -> list[str]:
        told = [each["message"] for each in kubectl.get("events")["items"] if each["reason"] == "Warned"]
        return sorted(each.split()[2] for each in told if each.startswith("SERVICE_OLD_PORT: "))

    assert wait_for("both Services", named, lambda found: len(found) >= 2, seconds=20) == ["nothing", "num"]


def test_a_copy_of_an_index_pod_is_told_that_it_needs_an_index(kubectl: Kubectl) -> None:
    asking = hostport(policy="Index", min_port=28100, max_port=28199)
    kubectl.apply(workload("StatefulSet", "db", asking, port(8080, "primary"), replicas=1, serviceName="db"))
    running(kubectl, 1)
    copied = ["debug", "db-0", "--copy-to=db-copy", "--container=main", "--image=y"]

    refused = kubectl.run(*copied, "--keep-annotations=true", "--", "sh")

    assert "The Pod is a copy or was restored (kubectl debug --copy-to, a backup)" in refused.stderr


def test_who_waits_starts_when_the_port_is_free_and_a_refusal_says_how(kubectl: Kubectl) -> None:
    fixed = port(9601, "http", hostPort=9601)
    kubectl.apply(workload("Deployment", "a", hostport(policy="Static"), fixed, replicas=3))
    running(kubectl, 3)
    kubectl.apply(workload("Deployment", "b", hostport(policy="Static"), fixed, replicas=1))
    said = wait_for("a refusal", lambda: refusals(kubectl), bool, seconds=30)
    assert 'hostport.io/when-full: "Pending" lets the Pod wai' in said[0]  # the Event is cut off there

    kubectl.apply(workload("Deployment", "b", hostport(policy="Static", when_full="Pending"), fixed, replicas=1))
    wait_for("a Pod that waits", lambda: kubectl.pods("app=b"), bool)
    kubectl("delete", "deployment/a", "--wait=false")
    freed = time.monotonic()
    wait_until("b to run", lambda: [each["status"]["phase"] for each in kubectl.pods("app=b")] == ["Running"])

    assert time.monotonic() - freed < 15


def test_a_controller_that_tries_a_hundred_times_makes_one_event_of_each_word(
    plane: ControlPlane, kubectl: Kubectl, product: Product
) -> None:
    """A quota refuses each Pod behind the webhook: the controller tries again with each change of its object."""
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    wait_until("the quota to be counted", lambda: bool(kubectl.get("quota", "none").get("status", {}).get("hard")))
    asking = hostport(policy="Dynamic", min_port=28200, max_port=28999)
    kubectl.apply(workload("Deployment", "w", asking, port(8080, "http"), replicas=1))
    wait_for("a first try", lambda: refusals(kubectl), bool)
    (owner,) = kubectl.get("replicasets")["items"]
    path = f"/apis/apps/v1/namespaces/{kubectl.namespace}/replicasets/{owner['metadata']['name']}"

    before = reviews(product)
    for number in range(ATTEMPTS):
        seen = reviews(product)
        change = {"metadata": {"annotations": {"try": str(number)}}}
        plane.api.ask("PATCH", path, change, content_type="application/merge-patch+json")
        wait_until("another try", partial(has_asked_since, product, seen))
    assert reviews(product) - before >= ATTEMPTS

    def told() -> list[str]:
        found = [each for each in kubectl.get("events")["items"] if each["reason"] in {"Warned", "Denied"}]
        return sorted(f"{each['reason']} {each['message'].partition(':')[0]}" for each in found)

    expected = ["Denied UNCONFIRMED_BACKLOG", "Warned PORT_MOVED"]
    assert wait_for("both Events", told, lambda found: len(found) >= 2, seconds=20) == expected


def has_asked_since(product: Product, seen: int) -> bool:
    """Whether the API server has asked about one more Pod."""
    return reviews(product) > seen


def reviews(product: Product) -> int:
    """How many Pods the shim was asked about."""
    lines = product.shim.metrics().splitlines()
    return int(sum(float(each.split()[-1]) for each in lines if each.startswith("hostport_shim_answers_total{")))
