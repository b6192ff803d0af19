"""The life of a release on a real API server: install, test, upgrade, uninstall, in this order.

The programs run on this machine as their Pods say, and the API server reaches them through their Services, so that what is
proven is the chart's own: its flags, certificates, rights and names.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from e2e.api import Run
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import hostport, is_untouched, numbers, pod, port
from e2e.processes import repeating, wait_for, wait_until

from helm.helm import CHART, NAMESPACE, RELEASE, Helm, settings
from helm.kubelet import Hosted, run_once
from helm.network import ServiceNetwork
from helm.revisions import deleted_at, revision

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CONFIGURATION = "mutatingwebhookconfiguration/hostport-operator"
EVERYTHING = (
    "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,"
    "clusterrolebindings,flowschemas,prioritylevelconfigurations,deployments,services,serviceaccounts,roles,rolebindings,"
    "poddisruptionbudgets,networkpolicies"
)


@dataclass(slots=True)
class Release:
    """The release, and what of it runs here."""

    helm: Helm
    plane: ControlPlane
    network: ServiceNetwork
    folder: Path
    hosted: dict[str, Hosted] = field(default_factory=dict)

    def pods(self, program: str) -> list[dict[str, Any]]:
        return self.plane.kubectl.within(NAMESPACE).pods(f"app.kubernetes.io/name={program}")

    def host(self, program: str) -> None:
        """Runs one Pod of a program here, and leads its Services to it."""
        first, *_ = wait_for(f"a Pod of {program}", lambda: self.pods(program), bool)
        hosted = self.hosted[program] = Hosted(self.plane, self.network, first, self.folder)
        hosted.wait_ready()
        for service in self.plane.kubectl.within(NAMESPACE).get("services")["items"]:
            if service["spec"]["selector"]["app.kubernetes.io/name"] == program:
                self.network.route(service, hosted.ports)

    def stop(self) -> None:
        for hosted in reversed(self.hosted.values()):
            hosted.process.stop()

    def connections(self) -> int:
        """How many the shim has accepted from the API server."""
        url = f"http://127.0.0.1:{self.hosted['hostport-shim'].ports['http']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = re.search(r"^hostport_shim_connections_total (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return int(float(found[1]))

    def test(self) -> tuple[Run, subprocess.CompletedProcess[str]]:
        """`helm test`, whose Pod runs here."""
        kubectl = self.plane.kubectl.within(NAMESPACE)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(self.helm.run, "test", RELEASE, "--timeout=60s")
            wait_until("the test's Pod", lambda: kubectl.run("get", "pod", "hostport-test").code == 0)
            done = run_once(self.plane, kubectl.get("pod", "hostport-test"), self.folder)
            return running.result(), done


@pytest.fixture(scope="module")
def release(helm: Helm, plane: ControlPlane, network: ServiceNetwork, folder: Path) -> Iterator[Release]:
    """Installed into a namespace that enforces the strictest profile."""
    create_namespace(plane, NAMESPACE, labels=RESTRICTED)
    release = Release(replace(helm, kubeconfig=plane.kubectl.kubeconfig), plane, network, folder)
    installed = release.helm("install", RELEASE, str(CHART))
    assert "Warning" not in installed.stderr
    try:
        release.host("hostport-allocator")
        release.host("hostport-shim")
        yield release
    finally:
        release.stop()


def ask(plane: ControlPlane, name: str, number: int, **more: str) -> Run:
    wanted = hostport(policy="Dynamic", min_port=number, max_port=number + 50)
    asking = pod(
        name, wanted | {f"hostport.io/{key.replace('_', '-')}": value for key, value in more.items()}, port(80)
    )
    return plane.kubectl.run("create", "-f", "-", "-o", "json", stdin=json.dumps(asking))


def test_a_pod_is_given_a_port_through_the_services_of_the_release(release: Release) -> None:
    made = wait_for("the webhook to work", lambda: ask(release.plane, "first", 20000), lambda run: run.code == 0)

    assert numbers(made.json) == [20000]


def test_each_second_question_has_a_connection_of_its_own(release: Release) -> None:
    """Of a Pod that brings an id it is asked twice. A connection that was kept could be that of a shim that has died."""
    before = release.connections()
    for number in range(3):
        assert ask(release.plane, f"restored-{number}", 20100, allocation_id="0123456789abcdef" * 2).code == 0

    assert release.connections() - before >= 3


def test_both_programs_live_within_the_strictest_profile(release: Release) -> None:
    assert len(release.pods("hostport-allocator")) == 1
    assert len(wait_for("two shims", lambda: release.pods("hostport-shim"), lambda pods: len(pods) == 2)) == 2


def test_the_budget_lets_go_of_one_shim_at_a_time(release: Release) -> None:
    budget = wait_for(
        "the budget to be counted",
        lambda: release.plane.kubectl.within(NAMESPACE).get("poddisruptionbudget", "hostport-shim")["status"],
        lambda status: status.get("currentHealthy") == 2,
    )

    assert budget["disruptionsAllowed"] == 1


def test_helm_test_sees_that_it_works_and_leaves_no_rights_behind(release: Release) -> None:
    run, said = release.test()

    assert said.stdout.startswith("the Pod would get host port "), said.stderr
    assert run.code == 0, run.stderr
    assert "Phase:          Succeeded" in run.stdout
    left = release.plane.kubectl.run("get", "serviceaccounts,roles,rolebindings,pods", "-A", "-o", "name").stdout
    assert "hostport-test" not in left


def test_helm_test_sees_that_the_webhook_is_not_called(release: Release) -> None:
    kubectl = release.plane.kubectl
    kubectl("label", "namespace", "default", "hostport.io/webhook=ignore")
    try:
        wait_until("it to be left alone", lambda: "hostNetwork" not in preview(release.plane)["spec"])
        run, said = release.test()
    finally:
        kubectl("label", "namespace", "default", "hostport.io/webhook-")

    assert "the Pod came back without a host port" in said.stderr
    assert run.code != 0
    wait_until("it to be called again", lambda: "hostNetwork" in preview(release.plane)["spec"])


def preview(plane: ControlPlane) -> dict[str, Any]:
    asking = json.dumps(pod("preview-0", hostport(), port(80)))
    made: dict[str, Any] = plane.kubectl("create", "-f", "-", "--dry-run=server", "-o", "json", stdin=asking).json
    return made


def test_an_upgrade_changes_what_was_asked_for_and_refuses_no_pod_meanwhile(release: Release) -> None:
    before = release.plane.kubectl.get(CONFIGURATION)["webhooks"][0]["clientConfig"]
    changed = {
        "shim.replicas": 3,
        "whenFull": "Pending",
        "excludedNamespaces": ["legacy"],
        "networkPolicy.enabled": False,
    }
    runs: list[Run] = []
    lock = threading.Lock()

    def create_one() -> None:
        with lock:
            runs.append(ask(release.plane, f"during-{len(runs)}", 21000))

    with repeating("creations", 0.05, create_one):
        wait_until("creations to run", lambda: len(runs) > 2)
        release.helm("upgrade", RELEASE, str(CHART), "--reuse-values", *settings(changed))
        done = len(runs)
        wait_until("some more after it", lambda: len(runs) > done + 2)

    assert [run.stderr for run in runs if run.code != 0] == []
    kubectl = release.plane.kubectl.within(NAMESPACE)
    assert kubectl.get("deployment", "hostport-shim")["spec"]["replicas"] == 3
    args = kubectl.get("deployment", "hostport-allocator")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[-1] == "--when-full=Pending"
    webhook = kubectl.get(CONFIGURATION)["webhooks"][0]
    assert "legacy" in webhook["namespaceSelector"]["matchExpressions"][0]["values"]
    assert webhook["clientConfig"] == before
    assert kubectl.get("networkpolicies")["items"] == []


def test_the_emergency_command_lets_pods_through_and_an_upgrade_ends_the_emergency(release: Release) -> None:
    release.plane.kubectl("delete", CONFIGURATION)
    made = wait_for(
        "Pods to be let through", lambda: ask(release.plane, "let-through", 21500), lambda run: run.code == 0
    )
    assert is_untouched(made.json)

    release.helm("upgrade", RELEASE, str(CHART), "--reuse-values")

    wait_until("the webhook to work again", lambda: "hostNetwork" in json.loads(try_preview(release.plane))["spec"])


def try_preview(plane: ControlPlane) -> str:
    asking = json.dumps(pod("preview-0", hostport(), port(80)))
    run = plane.kubectl.run("create", "-f", "-", "--dry-run=server", "-o", "json", stdin=asking)
    return run.stdout if run.code == 0 else '{"spec": {}}'


def test_uninstall_leaves_nothing_that_blocks_a_pod(release: Release) -> None:
    plane, since = release.plane, revision(release.plane)

    release.helm("uninstall", RELEASE)
    release.stop()

    admission = "/apis/admissionregistration.k8s.io/v1"
    webhook = deleted_at(plane, f"{admission}/mutatingwebhookconfigurations", "hostport-operator", since)
    if release.helm.major != "v3":  # which deletes it last
        assert webhook < deleted_at(plane, f"/api/v1/namespaces/{NAMESPACE}/services", "hostport-shim", since)
        assert webhook < deleted_at(plane, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", "hostport-shim", since)
    left = plane.kubectl("get", EVERYTHING, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
    assert left.stdout.splitlines() == []
    made = wait_for("Pods to be let through", lambda: ask(plane, "after", 22000), lambda run: run.code == 0)
    assert is_untouched(made.json)


def test_what_was_uninstalled_can_be_installed_again(release: Release) -> None:
    release.helm("install", RELEASE, str(CHART))
    release.helm("uninstall", RELEASE)


def test_certificates_of_ones_own_are_enough(release: Release) -> None:
    """Of an authority that only the webhook's caBundle and the Secrets know; nobody may make others."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    kubectl = release.plane.kubectl.within(NAMESPACE)
    kubectl("delete", "secrets", "--all")
    for program in ("hostport-allocator", "hostport-shim"):
        issued = authority.issue_cert(f"{program}.{NAMESPACE}.svc", common_name=program)
        data = {
            "tls.crt": issued.cert_chain_pems[0].bytes(),
            "tls.key": issued.private_key_pem.bytes(),
            "ca.crt": authority.cert_pem.bytes(),
        }
        kubectl.apply(secret(f"{program}-tls", data))
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    release.helm(
        *("install", RELEASE, str(CHART)),
        *settings({"certificates.mode": "existingSecret", "certificates.caBundle": bundle}),
    )
    own = Release(release.helm, release.plane, release.network, release.folder)
    try:
        own.host("hostport-allocator")
        own.host("hostport-shim")
        made = wait_for("the webhook to work", lambda: ask(own.plane, "own", 23000), lambda run: run.code == 0)
    finally:
        own.stop()
        release.helm("uninstall", RELEASE)

    assert numbers(made.json) == [23000]


def secret(name: str, data: dict[str, bytes]) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
