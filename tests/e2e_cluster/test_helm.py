"""The Helm chart on real nodes, before anything else is installed: nothing here stands in for a kubelet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.binaries import CHECKOUT
from e2e.manifests import hostport, is_untouched, numbers, pod, port
from e2e.processes import wait_for
from e2e.tools import tool
from helm.helm import CHART, NAMESPACE, RELEASE, Helm, settings

from e2e_cluster.conftest import IMG
from e2e_cluster.driver import Access
from testing.documented import documented


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
    shown = {command.typed for command in documented("helm test")}
    assert shown == {f"helm test {RELEASE} --namespace {NAMESPACE}"}, "as README and pages have it"
    tested = helm("test", RELEASE)
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


BESIDE = 9443
"""A port of the nodes that nothing else there has. On a managed cluster it would be one that the API server may reach."""
ANY_UID = {"runAsNonRoot": True, "runAsUser": 1000660000, "runAsGroup": 0, "fsGroup": 1000660000}
"""What OpenShift's restricted-v2 makes of a Pod that names no uid."""


@pytest.mark.bare
def test_shims_on_the_hosts_network_answer_on_another_port_under_any_uid(
    helm: Helm, access: Access, clone: Path
) -> None:
    chart = clone / CHART.relative_to(CHECKOUT)
    repository, _, tag = IMG.rpartition(":")
    values = settings(
        {
            "image.repository": repository,
            "image.tag": tag,
            "image.pullPolicy": "Never",
            "webhook.hostNetwork": True,
            "webhook.port": BESIDE,
            "shim.podSecurityContext": ANY_UID,
            "allocator.podSecurityContext": ANY_UID,
        }
    )
    if access.kubectl.run("get", "namespace", NAMESPACE).code:
        access.kubectl("create", "namespace", NAMESPACE)
    access.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
    helm("install", RELEASE, str(chart), "--wait", "--timeout=110s", *values)
    kubectl, ours = access.kubectl.within("default"), access.kubectl.within(NAMESPACE)
    try:
        asking = json.dumps(pod("beside-0", hostport(policy="Dynamic", min_port=24100), port(80)))
        assert numbers(kubectl("create", "-f", "-", "-o", "json", stdin=asking).json) == [24100]

        shims = ours.pods("app.kubernetes.io/name=hostport-shim")
        assert {each["status"]["podIP"] for each in shims} <= set(access.addresses.values())
        for each in (*shims, *ours.pods("app.kubernetes.io/name=hostport-allocator")):
            name, container = each["metadata"]["name"], each["spec"]["containers"][0]["name"]
            uid = ours("exec", name, "-c", container, "--", "python3", "-c", "import os; print(os.getuid())")
            assert uid.stdout.strip() == str(ANY_UID["runAsUser"])
            assert ours.run("exec", name, "-c", container, "--", "python3", "-c", "open('/x', 'w')").code != 0
    finally:
        helm("uninstall", RELEASE, "--wait", "--timeout=110s")
        access.kubectl("delete", "namespace", NAMESPACE, "--timeout=100s")
    kubectl("delete", "pod", "beside-0", "--now")
