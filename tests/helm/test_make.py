"""`make deploy` and `make undeploy` on a real API server, whose kubelets say that everything runs."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.processes import wait_until

from helm.helm import NAMESPACE
from helm.revisions import deleted_at, revision

IMG = "registry.example:5000/team/hostport-operator:v7"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def make(plane: ControlPlane, verb: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = [
        "make",
        verb,
        f"IMG={IMG}",
        f"KUBECTL={plane.binaries['kubectl']} --kubeconfig={plane.kubectl.kubeconfig}",
    ]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False, env=environ)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, which has kustomize in it")
def test_deploy_installs_the_named_images_and_undeploy_removes_the_webhook_first(plane: ControlPlane) -> None:
    deployed = make(plane, "deploy")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    kubectl = plane.kubectl.within(NAMESPACE)
    images = {
        container["image"]
        for deployment in kubectl.get("deployments")["items"]
        for container in deployment["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"registry.example:5000/team/hostport-operator-{part}:v7" for part in ("allocator", "shim")}
    since = revision(plane)

    undeployed = make(plane, "undeploy")

    assert undeployed.returncode == 0, undeployed.stdout + undeployed.stderr
    webhook = deleted_at(plane, f"{ADMISSION}/mutatingwebhookconfigurations", "hostport-operator", since)
    policy = deleted_at(plane, f"{ADMISSION}/validatingadmissionpolicybindings", "hostport-annotations-stay", since)
    shim = deleted_at(plane, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", "hostport-shim", since)
    assert webhook < policy < shim
    wait_until("the namespace to be gone", lambda: plane.kubectl.run("get", "namespace", NAMESPACE).code != 0)


def test_undeploy_of_what_is_not_there_is_fine(plane: ControlPlane) -> None:
    assert make(plane, "undeploy").returncode == 0
