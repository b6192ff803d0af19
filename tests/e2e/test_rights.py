"""Each right of the allocator is needed: without a rule of its roles something that users rely on is gone, and nothing else.

The roles for the built-in certificates are held to their need in test_certificates, which runs with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from allocator.cluster.signpost import LABEL
from e2e.control_plane import ControlPlane, create_namespace
from e2e.processes import Process, Timeout, wait_until
from e2e.rights import NOTHING, rules, take_away
from e2e.secured import ACCOUNT, AUDIENCE, SYSTEM, Caller, Secured, apply_rights, token_of
from hostport.v1 import allocator_pb2 as pb

SERVES, LEADS, WARNS, TELLS, TOKENS, RIGHTS, LEASES, STEPS_ASIDE = (
    "it serves",
    "its Service leads to it",
    "it warns of Pod Security",
    "it tells a denial as an Event",
    "it knows whose a token is",
    "it knows what a user may do",
    "it leases",
    "it gives nobody the node port of a Service",
)

LOST: dict[str, set[str]] = {
    "get/list/watch pods": {SERVES},
    "list/watch nodes": {SERVES},
    "list/watch namespaces": {WARNS},
    "list/watch services": {STEPS_ASIDE},  # nor is a Service told that leads nowhere
    "create/patch events": {TELLS},
    "create tokenreviews": {TOKENS},
    "create subjectaccessreviews": {TOKENS, RIGHTS, LEASES},
    "create/delete/get/list/watch portleases": {SERVES},
    "patch portleases/status": {LEASES},
    "get/update/watch leases": {SERVES},
    "create leases": {SERVES},
    "patch pods": {LEADS},
}
"""What is lost with a rule. An allocator that does not serve is asked for nothing else."""


RULES = rules(ACCOUNT)
NAME = "allocator-rights"
NUMBERS = (61000, 61001)
NODE_PORT = 30961
"""Numbers that no other test uses: Pods of one that ended just now may still stand on the nodes."""


@pytest.fixture(scope="module")
def allocator(plane: ControlPlane, product_session: object, folder: Path) -> Iterator[Secured]:
    apply_rights(plane)
    watched = create_namespace(plane, "rights", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    watched("create", "serviceaccount", "relay")
    watched(
        *("create", "rolebinding", "relay", "--clusterrole=hostport-portleases-editor"),
        *("--serviceaccount=rights:relay", "--user=carol"),
    )
    plane.kubectl.apply(own_pod())
    ports = [{"port": 80, "nodePort": NODE_PORT}]
    watched.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "ports": ports},
        }
    )
    yield Secured(plane, folder, NAME, "--port-leases")
    plane.kubectl.within(SYSTEM)("delete", "pod", NAME, "--force")
    take_away(plane, ACCOUNT, NOTHING)


def own_pod() -> dict[str, Any]:
    """The allocator's Pod, as its namespace lets it in. What would run in it runs beside the API server."""
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "allocator", "image": "runs-elsewhere", "securityContext": security}
    metadata = {"name": NAME, "namespace": SYSTEM}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


@contextlib.contextmanager
def running_without(plane: ControlPlane, allocator: Secured, name: str) -> Iterator[Process]:
    take_away(plane, ACCOUNT, name)
    plane.kubectl.within(SYSTEM)("label", "pod", NAME, f"{LABEL}-")
    with allocator.running() as process:
        yield process


def serves(process: Process, allocator: Secured, seconds: float) -> bool:
    try:
        wait_until(
            "the allocator to be ready", lambda: process.exit_code is not None or allocator.is_ready(), seconds=seconds
        )
    except Timeout:
        return False
    return process.exit_code is None


def pod(name: str, number: int, **more: Any) -> pb.AllocateRequest:
    owner = pb.Owner(kind="Pod", namespace="rights", name=name, controller_uid="rs-1")
    ports = [pb.PortRequest(container="main", container_port=number, host_port=number)]
    made_by = pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="web")
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_STATIC, ports=ports, controller=made_by, **more)


def leads(plane: ControlPlane, allocator: Secured) -> bool:
    def is_marked() -> bool:
        return LABEL in plane.kubectl.within(SYSTEM).get("pod", NAME)["metadata"].get("labels", {})

    try:
        wait_until("the label of the one that serves", is_marked, seconds=30)
    except Timeout:
        return False
    return True


def warns(plane: ControlPlane, allocator: Secured) -> bool:
    with allocator.certified("hostport-shim") as shim:
        answer = shim("Allocate", pod("warned-0", NUMBERS[0], dry_run=True))
    return "POD_SECURITY" in {warning.reason for warning in answer.warnings}


def tells(plane: ControlPlane, allocator: Secured) -> bool:
    """A Pod that names a node is refused for what is leased there."""
    events = plane.kubectl.within("rights")
    events("delete", "events", "--all")
    with allocator.certified("hostport-shim") as shim:
        refused = pod("denied-0", NUMBERS[1], constraints=pb.NodeConstraints(node_name="n1"))
        shim("Allocate", refused)
        refused.owner.name = "denied-1"
        assert shim.outcome("Allocate", refused) == "PORT_CONFLICT"

    def is_told() -> bool:
        return any(each["reason"] == "Denied" for each in events.get("events")["items"])

    try:
        wait_until("an Event", is_told, seconds=30)
    except Timeout:
        return False
    return True


def knows_tokens(plane: ControlPlane, allocator: Secured) -> bool:
    with allocator.bearing(token_of(plane, "rights", "relay", AUDIENCE)) as relay:
        return knows(relay)


def knows_rights(plane: ControlPlane, allocator: Secured) -> bool:
    with allocator.certified("carol") as carol:
        return knows(carol)


def knows(caller: Caller) -> bool:
    outcome = caller.outcome("ListAllocations", pb.ListAllocationsRequest(namespace="rights"))
    assert outcome in {"OK", "ACCESS_UNKNOWN"}, "never taken for a stranger, and what is not known is not open"
    return outcome == "OK"


def leases(plane: ControlPlane, allocator: Secured) -> bool:
    with allocator.certified("carol") as carol:
        return carol.lease("rights") == "OK"


def steps_aside(plane: ControlPlane, allocator: Secured) -> bool:
    with allocator.certified("hostport-shim") as shim:
        outcome = shim.outcome("Allocate", pod("aside-0", NODE_PORT, dry_run=True))
    assert outcome in {"OK", "HELD_BY_SERVICE"}
    return outcome == "HELD_BY_SERVICE"


Probe = Callable[[ControlPlane, Secured], bool]
PROBES: dict[str, Probe] = {
    LEADS: leads,
    WARNS: warns,
    TELLS: tells,
    TOKENS: knows_tokens,
    RIGHTS: knows_rights,
    LEASES: leases,
    STEPS_ASIDE: steps_aside,
}


def lost(plane: ControlPlane, allocator: Secured, process: Process, *, patience: float) -> set[str]:
    if not serves(process, allocator, patience):
        return {SERVES}
    return {what for what, works in PROBES.items() if not works(plane, allocator)}


def test_it_is_said_of_each_rule_what_it_is_for() -> None:
    assert len(RULES) == len(set(RULES))
    assert set(RULES) == LOST.keys()


def test_with_all_its_rules_nothing_is_lost(plane: ControlPlane, allocator: Secured) -> None:
    with running_without(plane, allocator, NOTHING) as process:
        assert lost(plane, allocator, process, patience=30) == set()


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(plane: ControlPlane, allocator: Secured, rule: str) -> None:
    with running_without(plane, allocator, rule) as process:
        assert lost(plane, allocator, process, patience=6) == LOST[rule]
