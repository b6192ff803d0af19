"""The operator as it stands in the cluster, and what is done to it."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e.api import Kubectl
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_until

from e2e_cluster.driver import Access, Driver

NAMESPACE = "hostport-system"
SERVING = "hostport.io/serving=true"
SHIM, ALLOCATOR, AGENT = "hostport-shim", "hostport-allocator", "hostport-agent"
AUTHORITY, SHIM_TLS = "hostport-ca", "hostport-shim-tls"
LABEL = "app.kubernetes.io/name="


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
        return self.kubectl.pods(LABEL + program)

    def serving(self) -> dict[str, Any]:
        """The allocator's Pod that serves."""
        return self.kubectl.pods(f"{LABEL}{ALLOCATOR},{SERVING}")[0]

    def metric(self, name: str) -> float:
        """A metric without labels, as the allocator that serves shows it."""
        address = self.serving()["status"]["podIP"]
        with urllib.request.urlopen(f"http://{address}:8081/metrics", timeout=10) as answer:
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else -1.0

    def have_allocators(self, count: int) -> None:
        """So many of them, one of which serves."""
        self.kubectl("scale", f"deployment/{ALLOCATOR}", f"--replicas={count}")
        self.wait_until_settled(seconds=120)
        wait_until("one to serve", lambda: len(self.kubectl.pods(f"{LABEL}{ALLOCATOR},{SERVING}")) == 1, seconds=60)

    def forget_node(self, name: str) -> None:
        """Of a node that does not come back; what ran there goes with it."""
        self.access.kubectl("delete", "node", name)
        self.wait_until_settled(seconds=180)

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

    def make_authority_anew(self, *flags: str) -> None:
        """One whose life the flags say, and certificates of it; none of them: what the manifests say.

        The allocator keeps an authority that it knows, so none may run meanwhile.
        """
        self.kubectl("scale", f"deployment/{ALLOCATOR}", "--replicas=0")
        wait_until("the allocator to be gone", lambda: not self.kubectl.get("pods", "-l", LABEL + ALLOCATOR)["items"])
        self.kubectl("delete", "secret", AUTHORITY)
        if flags:  # at once with the replica: one that starts and is stopped again leaves the next one to wait
            change: list[dict[str, Any]] = [
                {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": flag} for flag in flags
            ]
            change += [{"op": "replace", "path": "/spec/replicas", "value": 1}]
            self.kubectl("patch", f"deployment/{ALLOCATOR}", "--type=json", "-p", json.dumps(change))
        else:
            self.access.kubectl("apply", "-f", str(self.clone / "build" / "deploy" / "manifests.yaml"))
        self.kubectl("rollout", "status", f"deployment/{ALLOCATOR}", "--timeout=60s")
        wait_until("every shim to know the authority", self._is_trusted, seconds=60)

    def _is_trusted(self) -> bool:
        """By so many answers in a row that surely every shim gave one."""
        asking = json.dumps(pod("preview", hostport(policy="Dynamic"), port(80)))
        return all(
            self.access.kubectl.run("create", "--dry-run=server", "-f", "-", stdin=asking).code == 0 for _ in range(30)
        )

    def certificates(self) -> tuple[str, str]:
        """The authority that signs, and the shims' certificate, as they stand in their Secrets."""
        both = (self.kubectl.get("secret", name)["data"]["tls.crt"] for name in (AUTHORITY, SHIM_TLS))
        return next(both), next(both)

    def wait_until_settled(self, *, seconds: float = 60) -> None:
        """All Pods are there and ready, and nothing of the past is left."""
        wait_until("the operator to be whole again", self._is_settled, seconds=seconds)

    def _is_settled(self) -> bool:
        programs = f"app.kubernetes.io/name in ({SHIM},{ALLOCATOR})"
        pods = self.kubectl.get("pods", "-l", programs)["items"]
        wanted = {name: self.kubectl.get("deployment", name)["spec"]["replicas"] for name in (SHIM, ALLOCATOR)}
        return len(pods) == sum(wanted.values()) and all(is_ready(pod) for pod in pods)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"
