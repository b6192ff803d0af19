"""Warnings on their way to people: from a review to an Event of the owner, on a real control plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from e2e.api import Kubectl
from e2e.manifests import hostport, port, workload
from e2e.processes import wait_for
from e2e.seen import running

pytestmark = pytest.mark.workloads

Json = dict[str, Any]
DYNAMIC: dict[str, Any] = {"policy": "Dynamic", "min_port": 25000, "max_port": 25999}


def deployed(name: str, notes: Mapping[str, str], *ports: Json, main: Json | None = None, **spec: Any) -> Json:
    """A Deployment of one Pod; `main` are more fields of its container."""
    made = workload("Deployment", name, notes, *ports, replicas=1, pod_spec=spec)
    made["spec"]["template"]["spec"]["containers"][0] |= main or {}
    return made


def events(kubectl: Kubectl) -> dict[str, list[Json]]:
    """The Events `Warned` of ReplicaSets, by their word."""
    found: dict[str, list[Json]] = {}
    for each in kubectl.get("events")["items"]:
        if each["reason"] == "Warned":
            assert each["involvedObject"]["kind"] == "ReplicaSet"
            found.setdefault(each["message"].partition(":")[0], []).append(each)
    return found


def told(kubectl: Kubectl, word: str) -> str:
    """What the one Event of a word says."""
    found = wait_for(f"an Event of {word}", lambda: events(kubectl), lambda seen: word in seen, seconds=20)
    (event,) = found[word]
    return str(event["message"])


PROBE = {"livenessProbe": {"httpGet": {"path": "/", "port": 8099}}}
CASES = {
    "OLD_NUMBER": (deployed("w", hostport(**DYNAMIC), port(8080, name="http"), main={"args": ["--listen=:8080"]}), "args[0]"),
    "PORT_MOVED": (deployed("w", hostport(**DYNAMIC), port(8080, name="http")), "moved from 8080 to 25"),
    "MAPPED_PORT": (deployed("w", hostport(policy="Static"), port(8080, name="http", hostPort=26000)), "from 26000 to 8080"),
    "UNDECLARED_PORT": (deployed("w", hostport(**DYNAMIC), port(8080), main=PROBE), "asks 8099"),
    "PROBE_HOST": (
        deployed(
            "w", hostport(**DYNAMIC), port(8080),
            main={"readinessProbe": {"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}},
        ),
        "host 10.0.0.1 at 8080",
    ),
    "HOSTNAME_IS_NODE": (deployed("w", hostport(**DYNAMIC), port(8080), main={"args": ["$(HOSTNAME)"]}), "the node's"),
    "INIT_PORT": (
        deployed(
            "w", hostport(**DYNAMIC), port(8080),
            initContainers=[{"name": "setup", "image": "x", "ports": [{"containerPort": 8081}]}],
        ),
        "8081 of init container setup",
    ),
    "HOST_PORT_REPLACED": (
        deployed("w", hostport(**DYNAMIC), port(8080, hostPort=8080), hostNetwork=True), "hostPort 8080"
    ),
    "MANY_PORTS": (
        deployed("w", hostport(network="Pod", **DYNAMIC), *[port(8000 + each) for each in range(33)]), "33 ports"
    ),
    "PUBLISHED_INSIDE": (
        deployed(
            "w", hostport(network="Pod", **DYNAMIC) | {"hostport.io/publish-8080": "env:PORT"}, port(8080),
            main={"env": [{"name": "PORT", "value": "8080"}]},
        ),
        "variable PORT of container main was 8080",
    ),
    "UNKNOWN_ANNOTATION": (
        deployed("w", hostport(**DYNAMIC) | {"hostport.io/minPort": "1"}, port(8080)), "did you mean hostport.io/min-port"
    ),
    "UNUSED_SETTING": (deployed("w", hostport(**DYNAMIC) | {"hostport.io/stride": "2"}, port(8080)), "stride"),
}  # fmt: skip


@pytest.mark.parametrize("word", CASES)
def test_a_warning_is_found_at_the_owner_of_the_pod(kubectl: Kubectl, word: str) -> None:
    manifest, part = CASES[word]
    kubectl.apply(manifest)

    assert part in told(kubectl, word)
    (stored,) = running(kubectl, 1)
    assert word in stored["metadata"]["annotations"]["hostport.io/warnings"].split(",")


def test_a_controller_that_tries_many_times_makes_one_event(kubectl: Kubectl) -> None:
    kubectl.apply(deployed("w", hostport(**DYNAMIC), port(8080, name="http")))
    told(kubectl, "PORT_MOVED")

    kubectl("scale", "deployment/w", "--replicas=100")
    running(kubectl, 100, seconds=60)

    assert len(events(kubectl)["PORT_MOVED"]) == 1


@pytest.mark.parametrize("is_later", [False, True], ids=["there before", "made later"])
def test_a_service_that_leads_nowhere_is_found_at_the_owner(kubectl: Kubectl, is_later: bool) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "front"},
        "spec": {"selector": {"app": "w"}, "ports": [{"port": 8080}]},
    }
    pods = deployed("w", hostport(**DYNAMIC), port(8080, name="http"))
    for manifest in (pods, service) if is_later else (service, pods):
        kubectl.apply(manifest)

    said = told(kubectl, "SERVICE_OLD_PORT")
    assert said.startswith("SERVICE_OLD_PORT: Service front sends port 8080/TCP to 8080, which moved to 25")
    assert said.endswith("set targetPort: http")
