"""The Helm chart on real nodes, before anything else is installed: nothing here stands in for a kubelet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.binaries import CHECKOUT
from e2e.manifests import hostport, is_untouched, numbers, pod, port
from e2e.processes import wait_for
from e2e.tools import tool
from helm.helm import CHART, RELEASE, Helm, settings

from e2e_cluster.conftest import IMG
from e2e_cluster.driver import Access


@pytest.fixture
def helm(access: Access, clone: Path, folder: Path) -> Helm:
    """The images are on the nodes, and nothing of ours is in the cluster."""
    return Helm(str(tool("helm")), folder, access.kubectl.kubeconfig)


@pytest.mark.bare
def test_a_release_works_says_so_and_goes_without_a_trace(helm: Helm, access: Access, clone: Path) -> None:
    kubectl = access.kubectl.within("default")
    chart = clone / CHART.relative_to(CHECKOUT)
    repository, _, tag = IMG.rpartition(":")
    images = settings({"image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never"})

    helm("install", RELEASE, str(chart), "--create-namespace", "--wait", "--timeout=110s", *images)
    tested = helm("test", RELEASE, "--timeout=100s")
    assert "Phase:          Succeeded" in tested.stdout

    asking = json.dumps(pod("helm-0", hostport(policy="Dynamic", min_port=24000), port(80)))
    assert numbers(kubectl("create", "-f", "-", "-o", "json", stdin=asking).json) == [24000]

    helm("uninstall", RELEASE, "--wait", "--timeout=110s")
    made = wait_for(
        "Pods to be let through",
        lambda: kubectl.run("create", "-f", "-", "-o", "json", stdin=asking.replace("helm-0", "after-0")),
        lambda run: run.code == 0,
    )
    assert is_untouched(made.json)
    kubectl("delete", "pod", "helm-0", "after-0", "--now")
