"""Leases as PortLease objects of a real API server: the allocator has the rights that it is installed with, no more."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.duration_pb2 import Duration

from e2e.api import Kubectl
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.processes import wait_for, wait_until
from e2e.product import Allocator
from hostport.v1 import allocator_pb2 as pb

BASE = CHECKOUT / "deploy" / "base"


def manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((BASE / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def kubeconfig(plane: ControlPlane, folder: Path) -> Path:
    """Of the allocator's ServiceAccount, once everything is there that it needs."""
    for name in ("namespace.yaml", "portlease-crd.yaml", "allocator-rbac.yaml", "flow-control.yaml"):
        plane.kubectl.apply(*manifests(name))
    plane.kubectl("wait", "--for=condition=Established", "crd/portleases.hostport.io", "--timeout=20s")
    token = plane.kubectl("create", "token", "hostport-allocator", "-n", "hostport-system").stdout.strip()
    config = yaml.safe_load(plane.kubectl.kubeconfig.read_text(encoding="utf-8"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "allocator.kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture
def policy(plane: ControlPlane) -> Iterator[None]:
    """The rule that keeps everybody else from writing the status."""
    ours = [
        each for each in manifests("admission-policies.yaml") if each["metadata"]["name"] == "hostport-leases-granted"
    ]
    plane.kubectl.apply(*ours)
    yield
    plane.kubectl("delete", "validatingadmissionpolicybinding", "hostport-leases-granted")


class Installed:
    """An allocator with `--port-leases`; without its journal it is one on another node."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path, folder: Path, name: str) -> None:
        self._plane, self._folder, self._name, self.kubeconfig = plane, folder, name, kubeconfig
        self._flags = ("--cluster=kubernetes", f"--kubeconfig={kubeconfig}", "--port-leases")
        self._starts = 0
        self.allocator = self._start()

    def _start(self) -> Allocator:
        self._starts += 1
        return Allocator(self._folder, self._plane.logs, *self._flags, name=f"{self._name}-{self._starts}")

    def move(self) -> None:
        """Power-off of its node: killed, and its journal lost."""
        self.allocator.kill()
        self.allocator = self._start()

    def lease(self, namespace: str, number: int, **more: Any) -> pb.Allocation:
        request = pb.AllocateRequest(
            owner=pb.Owner(kind="Relay", namespace=namespace, name="r1", description="relay of the lobby"),
            policy=pb.POLICY_STATIC,
            ports=[pb.PortRequest(name="media", protocol=pb.PROTOCOL_UDP, host_port=number)],
            constraints=pb.NodeConstraints(node_name=self._plane.nodes[0]),
            **more,
        )
        return self.allocator._stub.Allocate(request, timeout=10).allocation

    def held(self, namespace: str) -> set[str]:
        return {allocation.id for allocation in self.allocator.allocations(namespace)}


@pytest.fixture
def installed(plane: ControlPlane, kubeconfig: Path, folder: Path, namespace: str) -> Iterator[Installed]:
    one = Installed(plane, kubeconfig, folder, f"allocator-{namespace[:30]}")
    yield one
    assert one.allocator.stop() == 0


def objects(kubectl: Kubectl) -> list[Any]:
    found: list[Any] = kubectl.get("portleases")["items"]
    return found


def test_a_lease_outlives_its_allocator_and_journal_until_its_object_is_deleted(
    kubectl: Kubectl, namespace: str, installed: Installed
) -> None:
    first = installed.lease(namespace, 24100, request_id="q1", ttl={"seconds": 600})

    table = kubectl("get", "portleases").stdout.splitlines()
    assert table[0].split() == ["NAME", "NODE", "PORTS", "OWNER", "EXPIRES", "AGE"]
    name, node, ports, owner, expires, _ = table[1].split()
    assert (name, node, ports, owner) == (f"r1-{first.id[:10]}", first.node, "24100/UDP", "r1")
    assert expires.startswith(first.expire_time.ToJsonString()[:15])

    installed.move()

    assert installed.held(namespace) == {first.id}
    assert installed.lease(namespace, 24100, request_id="q1", ttl={"seconds": 600}).id == first.id
    renew = pb.RenewRequest(id=first.id, ttl=Duration(seconds=1200))
    renewed = installed.allocator._stub.Renew(renew, timeout=10).allocation
    (obj,) = objects(kubectl)
    assert obj["status"]["ttlSeconds"] == 1200
    assert obj["status"]["expires"][:15] == renewed.expire_time.ToJsonString()[:15]

    kubectl("delete", "portlease", name)

    wait_until("the lease to end", lambda: installed.held(namespace) == set())
    again = installed.lease(namespace, 24100)
    installed.move()
    installed.allocator.release(again.id)
    assert objects(kubectl) == []
    assert installed.held(namespace) == set()


def test_an_object_that_is_deleted_while_nobody_serves_ends_its_lease(
    kubectl: Kubectl, namespace: str, installed: Installed
) -> None:
    lease = installed.lease(namespace, 24101)
    installed.allocator.kill()
    kubectl("delete", "portlease", f"r1-{lease.id[:10]}")

    installed.allocator.start()

    assert installed.held(namespace) == set()
    assert installed.lease(namespace, 24101).id != lease.id


def test_a_lease_in_a_namespace_that_is_not_there_is_refused(installed: Installed) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        installed.lease("nowhere", 24102)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "owner.namespace 'nowhere' does not exist" in str(caught.value.details())
    assert installed.allocator.held_on(installed._plane.nodes[0]).isdisjoint({24102})


def test_what_the_cluster_turns_down_for_good_is_a_refusal(
    plane: ControlPlane, kubectl: Kubectl, namespace: str, installed: Installed
) -> None:
    counted = {"count/portleases.hostport.io": "1"}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "leases"}, "spec": {"hard": counted}}
    )
    status = json.dumps({"status": {"hard": counted, "used": {"count/portleases.hostport.io": "0"}}})
    kubectl("patch", "resourcequota", "leases", "--subresource=status", "--type=merge", "-p", status)
    first = installed.lease(namespace, 24180, request_id="q" * 128)
    with pytest.raises(grpc.RpcError) as full:
        installed.lease(namespace, 24181)
    kubectl("delete", "resourcequota", "leases")

    name = f"no-leases-{namespace}"
    about = {"resourceRules": [{"apiGroups": ["hostport.io"], "apiVersions": ["*"], "operations": ["CREATE"]}]}
    about["resourceRules"][0] |= {"resources": ["portleases"]}
    rule = {"expression": f"object.metadata.namespace != {namespace!r}", "message": "no leases here"}
    group = "admissionregistration.k8s.io/v1"
    plane.kubectl.apply(
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"matchConstraints": about, "validations": [rule]},
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )

    told = ""

    def is_forbidden() -> bool:
        nonlocal told
        try:
            ended = installed.lease(namespace, 24182)
        except grpc.RpcError as error:
            told = str(error)
            return True
        installed.allocator._stub.Release(pb.ReleaseRequest(id=ended.id), timeout=10)
        return False

    try:
        wait_until("the policy to be in force", is_forbidden)
    finally:
        plane.kubectl("delete", "validatingadmissionpolicybinding", name)

    assert "RESOURCE_EXHAUSTED" in str(full.value)
    assert "exceeded quota: leases" in str(full.value)
    assert ("FAILED_PRECONDITION" in told, "no leases here" in told) == (True, True), told
    assert installed.held(namespace) == {first.id}


def test_an_object_made_by_hand_holds_nothing_and_says_so(
    kubectl: Kubectl, namespace: str, installed: Installed
) -> None:
    lease = installed.lease(namespace, 24103)
    (copy,) = objects(kubectl)
    copy["metadata"] = {"name": "copy"}
    kubectl("create", "-f", "-", stdin=json.dumps(copy))

    def condition() -> Any:
        return (kubectl.get("portlease", "copy").get("status") or {}).get("conditions")

    (said,) = wait_for("an explanation", condition, bool, seconds=20)
    assert (said["type"], said["status"], said["reason"]) == ("Granted", "False", "NotRequested")
    kubectl("delete", "portlease", "copy")
    assert installed.held(namespace) == {lease.id}


def test_the_spec_of_a_lease_cannot_be_changed(kubectl: Kubectl, namespace: str, installed: Installed) -> None:
    lease = installed.lease(namespace, 24104)
    change = json.dumps({"spec": {"owner": {"name": "r2"}}})

    run = kubectl.run("patch", "portlease", f"r1-{lease.id[:10]}", "--type=merge", "-p", change)

    assert "spec cannot be changed, it says for whom the lease was granted" in run.stderr


def test_whoever_may_create_objects_cannot_write_their_status(plane: ControlPlane, kubectl: Kubectl) -> None:
    rights = ["create", "role", "lessee", "--verb=create,delete,get,list", "--resource=portleases.hostport.io"]
    kubectl(*rights)
    kubectl("create", "rolebinding", "lessee", "--role=lessee", "--user=lessee")

    def may(verb: str, *what: str) -> bool:
        return kubectl.run("auth", "can-i", verb, *what, "--as=lessee").code == 0

    assert may("create", "portleases.hostport.io")
    assert not may("patch", "portleases.hostport.io", "--subresource=status")


def test_nobody_else_writes_the_status_not_even_an_admin(
    policy: None, kubectl: Kubectl, namespace: str, installed: Installed
) -> None:
    lease = installed.lease(namespace, 24105)
    name, change = f"r1-{lease.id[:10]}", json.dumps({"status": {"expires": "2099-01-01T00:00:00Z"}})

    def forge() -> str:
        return kubectl.run("patch", "portlease", name, "--subresource=status", "--type=merge", "-p", change).stderr

    assert "allocator alone" in wait_for("a denial", forge, lambda said: "hostport-leases-granted" in said)
    installed.lease(namespace, 24106)  # the allocator itself may
    kubectl("label", "portlease", name, "team=media")


def test_what_a_lease_costs_in_time(
    plane: ControlPlane, folder: Path, namespace: str, installed: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the documents: `pytest -s -k costs`. A reservation of a Pod must not know the difference."""
    alone = Allocator(
        folder, plane.logs, "--cluster=kubernetes", f"--kubeconfig={installed.kubeconfig}", name="allocator-alone"
    )
    took: dict[str, list[float]] = {}
    try:
        for what, request in (("Pod", pod_request(namespace)), ("lease", lease_request(namespace))):
            both = [("the journal alone", alone), ("PortLeases", installed.allocator)]
            for _ in range(300):
                both.reverse()  # who is asked first is woken up
                for name, allocator in both:
                    began = time.perf_counter()
                    got = allocator._stub.Allocate(request, timeout=10).allocation
                    took.setdefault(f"{what}, {name}", []).append((time.perf_counter() - began) * 1000)
                    allocator.release(got.id)
    finally:
        alone.stop()

    shown = {case: (statistics.median(times), sorted(times)[-4]) for case, times in took.items()}
    lines = [f"{case:32} p50 {median:6.2f} ms   p99 {p99:6.2f} ms" for case, (median, p99) in shown.items()]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert shown["Pod, PortLeases"][0] < 2 * shown["Pod, the journal alone"][0]


def lease_request(namespace: str) -> pb.AllocateRequest:
    owner = pb.Owner(kind="Relay", namespace=namespace, name="r1")
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, ports=[pb.PortRequest()])


def pod_request(namespace: str) -> pb.AllocateRequest:
    owner = pb.Owner(kind="Pod", namespace=namespace, name="web-0")
    ports = [pb.PortRequest(container="main", container_port=80)]
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, ports=ports)


def test_kubectl_explains_what_a_lease_is(kubeconfig: Path, plane: ControlPlane) -> None:
    said = wait_for(
        "the schema to be published",
        lambda: plane.kubectl.run("explain", "portleases.status").stdout,
        lambda text: "ttlSeconds" in text,
        seconds=20,
    )

    assert "Written by the allocator alone" in said
    undescribed = [line for line in said.splitlines() if "<no description>" in line]
    assert undescribed == []


LEASE = "/apis/coordination.k8s.io/v1/namespaces/hostport-system/leases/hostport-allocator"
FLOWS = {
    "the renewal of its Lease": (LEASE, "hostport-allocator-lease"),
    "a look at a holder": ("/api/v1/namespaces/default/pods/ghost", "hostport-allocator-awaited"),
    "a lease": ("/apis/hostport.io/v1alpha1/namespaces/default/portleases/ghost", "hostport-allocator-awaited"),
    "the list of leases": ("/apis/hostport.io/v1alpha1/portleases", "hostport-allocator"),
    "the list of Pods": ("/api/v1/pods?limit=1", "hostport-allocator"),
}


@pytest.mark.parametrize(("path", "flow"), FLOWS.values(), ids=FLOWS.keys())
def test_what_somebody_waits_for_has_queues_of_its_own(
    kubeconfig: Path, plane: ControlPlane, path: str, flow: str
) -> None:
    """The API server itself says by which FlowSchema it took a request."""
    names = {each["metadata"]["uid"]: each["metadata"]["name"] for each in plane.kubectl.get("flowschemas")["items"]}

    def taken_by() -> str:
        run = Kubectl(plane.kubectl.program, kubeconfig).run("get", "--raw", path, "-v=8")
        found = re.search(r"(?i)x-kubernetes-pf-flowschema-uid\W+([0-9a-f-]{36})", run.stderr)
        return names[found[1]] if found else run.stderr

    assert wait_for("the FlowSchemas to be in force", taken_by, lambda name: name == flow, seconds=10) == flow
