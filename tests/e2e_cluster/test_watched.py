"""A real Prometheus watches an installation on real nodes: both programs are scraped, an alert of each group fires and ends.

It finds its targets as a PodMonitor of the chart lets it find them: by the Pods' labels and the names of their ports.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for

from e2e_cluster.faults import SHORT_LIVES
from e2e_cluster.installed import ALLOCATOR, SHIM, Installed
from testing.prometheus import Prometheus, prometheus

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not here (Debian: prometheus)")

LABELS = "app.kubernetes.io/part-of=hostport-operator"
WITH_METRICS = {"http", "http-twin"}
PORTS = {SHIM: (8082, 8083), ALLOCATOR: (8081,)}
SERVE = {"image": "busybox:1.37", "command": ["sleep", "3600"]}


def discovered(installed: Installed) -> set[str]:
    """Where the Pods' labels and the names of their ports lead."""
    return {
        f"{each['status']['podIP']}:{one['containerPort']}"
        for each in installed.kubectl.pods(LABELS)
        if each["status"]["phase"] == "Running"
        for container in each["spec"]["containers"]
        for one in container.get("ports", ())
        if one.get("name") in WITH_METRICS
    }


def expected(installed: Installed) -> set[str]:
    """Each port with metrics, of each Pod."""
    return {
        f"{each['status']['podIP']}:{number}"
        for program, numbers in PORTS.items()
        for each in installed.pods(program)
        for number in numbers
    }


@dataclass(frozen=True, slots=True)
class Watched:
    """An installation, and the Prometheus that looks for its Pods."""

    installed: Installed
    prometheus: Prometheus
    targets: Path

    def firing(self) -> set[str]:
        """What fires, once it looks where the Pods are now."""
        self.targets.write_text(json.dumps([{"targets": sorted(discovered(self.installed))}]), encoding="utf-8")
        return self.prometheus.firing()

    def wait_up(self) -> None:
        """Returns when each port with metrics, of each Pod, is scraped."""

        def missing() -> set[str]:
            self.firing()
            return expected(self.installed) ^ self.prometheus.up()

        wait_for("every target to answer", missing, lambda found: not found)

    def wait_firing(self, wanted: set[str], *, seconds: float = 60) -> None:
        wait_for(f"{wanted or 'nothing'} to fire", self.firing, lambda found: found == wanted, seconds=seconds)


@pytest.fixture
def watched(tmp_path: Path, installed: Installed) -> Iterator[Watched]:
    targets = tmp_path / "targets.json"
    targets.write_text("[]", encoding="utf-8")
    found = {"file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
    with prometheus(tmp_path, found, interval="1s") as running:
        yield Watched(installed, running, targets)


def test_every_port_with_metrics_is_scraped(watched: Watched) -> None:
    watched.wait_up()

    watched.wait_firing(set())


def no_allocator(installed: Installed) -> Callable[[], object]:
    """Nobody serves."""
    replicas = len(installed.pods(ALLOCATOR))
    installed.kubectl("scale", f"deployment/{ALLOCATOR}", "--replicas=0")
    return lambda: installed.have_allocators(replicas)


def nowhere_to_stand(installed: Installed) -> Callable[[], object]:
    """A Pod that waits for memory has its number taken by one that never asked."""
    kubectl, node = installed.access.kubectl.within("default"), installed.access.nodes[0]
    number = {"hostPort": 26000, "containerPort": 26000}
    there = {"nodeSelector": {"kubernetes.io/hostname": node}}
    waiting = pod("waiting", hostport(policy="Static"), {"name": "web", **number}, **there)
    waiting["spec"]["containers"][0] |= {**SERVE, "resources": {"requests": {"memory": "100Ti"}}}
    taking = pod("taking", {}, number, nodeName=node)
    taking["spec"]["containers"][0] |= SERVE
    kubectl.apply(waiting)
    kubectl.apply(taking)
    return lambda: kubectl("delete", "pod", "waiting", "taking", "--now")


def full_range(installed: Installed) -> Callable[[], object]:
    """A range of one number on one node that a Pod has. Others are denied, as one alone is no increase."""
    kubectl, node = installed.access.kubectl.within("default"), installed.access.nodes[0]
    asking = hostport(policy="Dynamic", min_port=26100, max_port=26100)
    only = pod("only", asking, port(80, "web"), nodeSelector={"kubernetes.io/hostname": node})
    only["spec"]["containers"][0] |= SERVE
    kubectl.apply(only)
    only["metadata"]["name"] = "one-more"
    for _ in range(3):
        assert "RANGE_EXHAUSTED" in kubectl.run("create", "-f", "-", stdin=json.dumps(only)).stderr
        time.sleep(3)  # it is scraped every second
    return lambda: kubectl("delete", "pod", "only", "--now")


def short_lives(installed: Installed) -> Callable[[], object]:
    """Certificates that end within minutes."""
    installed.make_authority_anew(*SHORT_LIVES)
    return installed.make_authority_anew


@pytest.mark.parametrize(
    ("fault", "alerts"),
    [
        pytest.param(no_allocator, {"HostPortNoAllocator"}, id="availability"),
        pytest.param(nowhere_to_stand, {"HostPortUnplaceable"}, id="correctness"),
        pytest.param(full_range, {"HostPortRangeAlmostFull", "HostPortRangeFull"}, id="capacity"),
        pytest.param(
            short_lives,
            {"HostPortCertificateEnds", "HostPortCertificateEndsToday"},
            id="durability",
        ),
    ],
)
def test_an_alert_of_each_group_fires_and_ends(
    installed: Installed, watched: Watched, fault: Callable[[Installed], Callable[[], object]], alerts: set[str]
) -> None:
    watched.wait_up()
    watched.wait_firing(set())

    undo = fault(installed)
    try:
        wait_for(f"{alerts} to fire", watched.firing, lambda found: alerts <= found, seconds=90)
    finally:
        undo()
    # What looks back over five minutes may fire on: answers were slow meanwhile.
    wait_for(f"{alerts} to end", watched.firing, lambda found: not alerts & found, seconds=120)
