"""The Helm chart on real nodes, after `make deploy` has made room for it: nothing here stands in for a kubelet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.manifests import hostport, is_untouched, numbers, pod, port
from e2e.processes import wait_for, wait_until
from e2e.tools import tool
from helm.helm import CHART, RELEASE, Helm, settings

from e2e_cluster.conftest import IMG, make
from e2e_cluster.installed import NAMESPACE, Installed


@pytest.fixture
def helm(installed: Installed, folder: Path) -> Iterator[Helm]:
    """The images are on the nodes; what `make deploy` installed goes, and comes back for whoever is next."""
    make(installed.driver, installed.clone, "undeploy", f"IMG={IMG}")
    kubectl = installed.access.kubectl
    wait_until("the namespace to be gone", lambda: kubectl.run("get", "namespace", NAMESPACE).code != 0, seconds=120)
    yield Helm(str(tool("helm")), folder, kubectl.kubeconfig)
    make(installed.driver, installed.clone, "deploy", f"IMG={IMG}")


def test_a_release_works_says_so_and_goes_without_a_trace(helm: Helm, installed: Installed) -> None:
    kubectl = installed.access.kubectl.within("default")
    repository, _, tag = IMG.rpartition(":")
    images = settings({"image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never"})

    helm("install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout=110s", *images)
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
