"""Who may say what is open on a node, with tokens that a real API server binds to Pods and their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.processes import wait_until
from e2e.secured import AUDIENCE, Caller, Secured, apply_rights, token_of
from hostport.v1 import allocator_pb2 as pb

NAMESPACE, ACCOUNT = "agents-test", "agent"
MINE, OTHER = "agent-node-1", "agent-node-2"


@pytest.fixture(scope="module")
def secured(plane: ControlPlane, product_session: object, folder: Path) -> Iterator[Secured]:
    apply_rights(plane)
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl.within(NAMESPACE)("create", "serviceaccount", ACCOUNT)
    made = Secured(plane, folder, "allocator-agents", f"--agent-account={NAMESPACE}/{ACCOUNT}")
    with made.running() as process:
        made.wait_until_ready(process)
        yield made


@pytest.fixture(scope="module")
def bound_token(plane: ControlPlane, secured: Secured) -> Iterator[str]:
    """That of an agent's Pod on MINE, as its kubelet would project it."""
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in (MINE, OTHER)]
    container = {"name": "agent", "image": "agent"}
    spec = {"nodeName": MINE, "serviceAccountName": ACCOUNT, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent-test", "namespace": NAMESPACE}, "spec": spec}
    plane.kubectl.apply(*nodes, pod)
    home = plane.kubectl.within(NAMESPACE)
    bound = ("--bound-object-kind=Pod", "--bound-object-name=agent-test")
    yield home("create", "token", ACCOUNT, f"--audience={AUDIENCE}", *bound).stdout.strip()
    home("delete", "pod", "agent-test", "--force", "--grace-period=0")
    plane.kubectl("delete", "node", MINE, OTHER)


def report(caller: Caller, node: str) -> str:
    """What comes of a report: `OK`, or the reason."""
    opened = [pb.Socket(protocol=pb.PROTOCOL_TCP, port=20000, process="sshd")]
    return caller.outcome("ReportNode", iter([pb.ReportNodeRequest(node=node, snapshot=True, opened=opened)]))


def test_an_agent_speaks_of_the_node_that_its_token_is_bound_to_and_of_no_other(
    secured: Secured, bound_token: str
) -> None:
    with secured.bearing(bound_token) as agent:
        wait_until("the Node to be seen", lambda: report(agent, MINE) == "OK")
        assert report(agent, OTHER) == "NODE_NOT_ITS_OWN"


def test_a_token_of_the_account_that_no_pod_has_says_nothing(plane: ControlPlane, secured: Secured) -> None:
    with secured.bearing(token_of(plane, NAMESPACE, ACCOUNT, AUDIENCE)) as agent:
        assert report(agent, MINE) == "PERMISSION_DENIED"


def test_the_same_name_in_another_namespace_says_nothing(
    plane: ControlPlane, secured: Secured, kubectl: Kubectl
) -> None:
    kubectl("create", "serviceaccount", ACCOUNT)
    with secured.bearing(token_of(plane, str(kubectl.namespace), ACCOUNT, AUDIENCE)) as agent:
        assert report(agent, MINE) == "PERMISSION_DENIED"


def test_what_an_agent_said_is_shown_to_whoever_may_look_at_nodes(
    plane: ControlPlane, secured: Secured, bound_token: str
) -> None:
    with secured.bearing(bound_token) as agent:
        wait_until("the Node to be seen", lambda: report(agent, MINE) == "OK")
        with pytest.raises(grpc.RpcError, match="agents-test:agent may not get"):
            agent("GetNode", pb.GetNodeRequest(name=MINE))
    with secured.certified("node-reader", "system:masters") as reader:
        found = reader("GetNode", pb.GetNodeRequest(name=MINE))

    assert (found.node.report.current, found.node.report.foreign_port_count) == (True, 1)
    assert (20000, "sshd") in [(port.host_port, port.foreign.name) for port in found.ports]
