"""Every kubectl and helm command that README and pages show is typed here, as it stands there, on a real API server.

First README's own `helm install`, then what looks and adds, then what changes and removes. Words in capitals are replaced by
what is there. What needs a kubelet (logs, a port-forward) is typed by tests/e2e_cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane, create_namespace
from e2e.processes import wait_until

from helm.helm import Helm
from helm.network import ServiceNetwork
from helm.test_lifecycle import Release
from testing.documented import DocumentedCommand, documented, typed_by

LATER = (
    "kubectl apply",
    "kubectl label namespace NAME",
    "helm upgrade",
    "helm rollback",
    "kubectl -n hostport-system scale",
    "kubectl -n hostport-system rollout restart deployment/",
    "kubectl -n hostport-system delete",
    "kubectl -n hostport-system rollout",
    "kubectl delete",
    "helm uninstall",
)
"""What changes or removes, in this order, after what looks."""
NOT_THERE = {
    "validatingadmissionpolicybinding hostport-ports-given": "comes with failurePolicy Ignore alone",
    "hostport-allocator-tls": "the Secret of cert-manager, or yours; the allocator keeps its own certificate in memory",
    "alerts.yaml": "needs the CustomResourceDefinitions of the Prometheus operator",
    "describe certificates": "needs the CustomResourceDefinitions of cert-manager: tests/cert_manager",
    "daemonset hostport-agent": "agents are off by default",
    "podMonitor.enabled": "needs the CustomResourceDefinitions of the Prometheus operator: typed by test_knobs.py",
}
MEANT = {"NAMESPACE": "docs-demo", "NAME": "docs-demo", "USER": "admin --as-group=system:masters"}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
SELECTED = {"selector": {"matchLabels": {"a": "b"}}, "replicas": 0, "template": TEMPLATE}
LEASED = {"allocationID": "3f2a9c01b7d84e5c9a1f0b2c3d4e5f60", "owner": {"kind": "Relay", "name": "r1"}}
NAMED = (
    {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {**SELECTED, "serviceName": "none"}},
    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": SELECTED},
    {"apiVersion": "hostport.io/v1alpha1", "kind": "PortLease", "spec": LEASED},
    {"apiVersion": "v1", "kind": "Node"},
)
"""What a command calls NAME. None of them has a Pod."""


def place(command: DocumentedCommand) -> int:
    return next((at for at, start in enumerate(LATER, 1) if command.text.startswith(start)), 0)


INSTALL = next(command for command in documented("helm install") if command.page == "README.md")
TYPED = sorted(
    (command for command in typed_by("tests/helm") if not command.text.startswith("helm install")), key=place
)


class Shell:
    """A reader's terminal: kubectl and helm on its PATH lead to the control plane of the test."""

    def __init__(self, plane: ControlPlane, helm: Helm, folder: Path) -> None:
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, program in (("kubectl", str(plane.binaries["kubectl"])), ("helm", helm.program)):
            (bin_folder / name).symlink_to(program)
        self._environ = os.environ | {
            "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(plane.kubectl.kubeconfig),
            "HOME": str(folder),
        }
        self.folder = folder

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        for word, meant in MEANT.items():
            command = re.sub(rf"\b{word}\b", meant, command)
        return subprocess.run(
            ["bash", "-ec", f"set -o pipefail\n{command}"],
            cwd=self.folder, env=self._environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def shell(
    helm: Helm, plane: ControlPlane, network: ServiceNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """After README's `helm install`, with both programs running and the example's first Pod there."""
    folder = tmp_path_factory.mktemp("reader")
    for part in ("deploy", "examples"):
        (folder / part).symlink_to(CHECKOUT / part)
    shell = Shell(plane, helm, folder)
    for name in ("docs-demo", "media"):
        create_namespace(plane, name)
    installed = shell.type(INSTALL.text)
    assert installed.returncode == 0, installed.stderr
    release = Release(replace(helm, kubeconfig=plane.kubectl.kubeconfig), plane, network, folder)
    try:
        release.host("hostport-allocator")
        release.host("hostport-shim")
        wait_until("the webhook to be trusted", lambda: "caBundle" in shell.type(
            "kubectl get mutatingwebhookconfiguration hostport-operator -o yaml").stdout)  # fmt: skip
        plane.kubectl(
            "create", "-f", "-", stdin='{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "media-7"}}'
        )
        for each in NAMED:
            plane.kubectl.within("default").apply(each | {"metadata": {"name": MEANT["NAME"]}})
        yield shell
    finally:
        release.stop()
        shell.type("helm uninstall hostport --namespace hostport-system")
        shell.type("kubectl delete namespace hostport-system docs-demo --ignore-not-found")
        shell.type("kubectl delete -f examples/distributed-db.yaml --ignore-not-found")
        shell.type("kubectl delete statefulset/docs-demo replicaset/docs-demo --ignore-not-found")
        shell.type("kubectl delete node/docs-demo node/media-7 --ignore-not-found")
        shell.type("kubectl delete customresourcedefinition portleases.hostport.io --ignore-not-found")  # it is kept


@pytest.mark.parametrize("command", TYPED, ids=lambda command: f"{command.page} {' '.join(command.text.split()[:6])}")
def test_a_documented_command_works_as_it_stands(shell: Shell, command: DocumentedCommand) -> None:
    for part, why in NOT_THERE.items():
        if part in command.text:
            pytest.skip(why)
    if "openssl" in command.text and shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    if "ca.crt)" in command.text:
        shell.type(
            "kubectl -n hostport-system get secret hostport-ca -o jsonpath='{.data.ca\\.crt}' | base64 -d > ca.crt"
        )
    if " distributed-db" in command.text:
        shell.type("kubectl apply -f examples/distributed-db.yaml")
        wait_until("the example's Pod", lambda: shell.type("kubectl get pod distributed-db-0").returncode == 0)

    if "rollout restart" in command.text:
        time.sleep(1.1)  # kubectl refuses a second restart of one Deployment within a second

    done = shell.type(command.text)

    assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout}{done.stderr}"
