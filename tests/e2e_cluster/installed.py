"""The operator as it stands in the cluster, and what is done to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e.api import Kubectl
from e2e.processes import wait_until

from e2e_cluster.driver import Access, Driver

NAMESPACE = "hostport-system"
SHIM, ALLOCATOR = "hostport-shim", "hostport-allocator"


@dataclass(frozen=True, slots=True)
class Installed:
    """The installation of the session."""

    driver: Driver
    access: Access
    clone: Path

    @property
    def kubectl(self) -> Kubectl:
        """In the operator's namespace."""
        return replace(self.access.kubectl, namespace=NAMESPACE, patience=150)

    def pods(self, program: str) -> list[dict[str, Any]]:
        return self.kubectl.pods(f"app.kubernetes.io/name={program}")

    def kill(self, pod: dict[str, Any], container: str) -> None:
        """kill -9 of a container's first process."""
        statuses = {each["name"]: each for each in pod["status"]["containerStatuses"]}
        container_id = statuses[container]["containerID"].rpartition("//")[2]
        self.driver.kill_container(pod["spec"]["nodeName"], container_id)

    def drain(self, node: str) -> None:
        self.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=100s")

    def uncordon(self) -> None:
        for node in self.access.nodes:
            self.kubectl("uncordon", node)

    def wait_until_settled(self, *, seconds: float = 60) -> None:
        """All Pods are there and ready, and nothing of the past is left."""
        wait_until("the operator to be whole again", self._is_settled, seconds=seconds)

    def _is_settled(self) -> bool:
        pods = self.kubectl.get("pods")["items"]
        wanted = {name: self.kubectl.get("deployment", name)["spec"]["replicas"] for name in (SHIM, ALLOCATOR)}
        return len(pods) == sum(wanted.values()) and all(is_ready(pod) for pod in pods)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"
