"""The same cluster from kind, for people with Docker: a control plane and three workers.

Written after kind's documentation; nobody has run it where this suite was written, for want of Docker.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.api import Kubectl

from e2e_cluster.driver import Access, Unavailable

CLUSTER = "hostport-e2e"
CONFIG = {
    "kind": "Cluster",
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "kubeadmConfigPatches": ["kind: KubeletConfiguration\nsyncFrequency: 5s\n"],  # as in linux.py
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}, {"role": "worker"}],
}
WORKERS = "!node-role.kubernetes.io/control-plane"
PID = "{{.info.pid}}"


class KindCluster:
    """See driver.Driver."""

    name = "kind"

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where this machine cannot."""
        if missing := [program for program in ("docker", "kind", "kubectl") if shutil.which(program) is None]:
            raise Unavailable(f"not installed: {', '.join(missing)}")
        if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
            raise Unavailable("no Docker engine answers")
        self._kubeconfig = folder / "kubeconfig"
        self._config = folder / "kind.json"

    def create(self) -> Access:
        self._config.write_text(json.dumps(CONFIG), encoding="utf-8")
        files = (f"--config={self._config}", f"--kubeconfig={self._kubeconfig}")
        run("kind", "create", "cluster", f"--name={CLUSTER}", *files, "--wait=180s")
        kubectl = Kubectl(shutil.which("kubectl") or "", self._kubeconfig)
        kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
        workers = kubectl.get("nodes", "-l", WORKERS)["items"]
        return Access(kubectl, {node["metadata"]["name"]: internal_address(node) for node in workers})

    def make(self, *verbs: str) -> Sequence[str]:
        return ["make", *verbs, f"KUBECTL=kubectl --kubeconfig={self._kubeconfig}", "BUILDER=docker"]

    def load(self, *images: str) -> None:
        run("kind", "load", "docker-image", f"--name={CLUSTER}", *images)

    def kill_container(self, node: str, container_id: str) -> None:
        pid = run("docker", "exec", node, "crictl", "inspect", "-o=go-template", f"--template={PID}", container_id)
        run("docker", "exec", node, "kill", "-KILL", pid.strip())

    def power_off(self, node: str) -> None:
        run("docker", "kill", node)

    def reboot(self, node: str) -> None:
        run("docker", "kill", node)
        run("docker", "start", node)

    def delete(self) -> None:
        run("kind", "delete", "cluster", f"--name={CLUSTER}")


def internal_address(node: dict[str, dict[str, list[dict[str, str]]]]) -> str:
    return next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout
