"""`hostport check` on a real control plane: all green on a healthy installation, and each broken part by its name.

The allocator runs with the ServiceAccount, the rights and the Lease that `make deploy` gives it; the webhook calls a
shim of its own, whose certificate the cases exchange.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.cut import wire
from e2e.pki import KeyPair, Pki
from e2e.processes import wait_for
from e2e.product import Allocator, Product, Shim, start_program
from hostport.version import VERSION

CONFIGURATION = "mutatingwebhookconfiguration/hostport-operator"
NAMESPACE = "hostport-system"
ACCOUNT_KINDS = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}

HEALTHY = """\
Kubernetes
✓ the API server answers (VERSION)
✓ its version is supported

Webhook
✓ the webhook is installed
✓ a Pod that asks for ports does not start without them
✓ the API server can trust the shim's certificate
✓ the shim's certificate is good for a while (AGE)
✓ a Pod that asks for a port is given one (it would be NUMBER)

Allocator
✓ the allocator answers (RELEASE, up AGE)
✓ it serves (cluster kubernetes)
✓ it is the only one
✓ its view of the cluster is current (AGE ago)
✓ its ServiceAccount has the rights that it needs
✓ its journal is in order (sqlite)
✓ its clock was not set
✓ the versions of shims, allocator and this program fit (RELEASE)

Books
✓ every Pod with ports has room for them

0 failed, 0 warnings, 16 fine
"""


class Installation:
    """An installation of its own, and `hostport check` against it."""

    def __init__(self, plane: ControlPlane, allocator: Allocator, shim: Shim, tls: KeyPair, flags: list[str]) -> None:
        self.plane, self.allocator, self.shim, self.tls, self.lease_flags = plane, allocator, shim, tls, flags

    def check(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self._call(*more), timeout=90, check=False)

    def checking(self, *more: str) -> subprocess.Popen[str]:
        """The same, under way."""
        return subprocess.Popen(**self._call(*more))

    def _call(self, *more: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "hostport_cli", "check", f"--server={self.allocator.address}", *more]
        program = self.plane.binaries["kubectl"]
        return {
            "args": [*command, f"--kubeconfig={self.plane.kubectl.kubeconfig}"],
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": CHECKOUT,
            "env": {"PATH": f"{Path(program).parent}:{os.environ['PATH']}", "HOME": str(self.plane.logs)},
        }

    def broken(self) -> dict[str, str]:
        """What does not hold, with its cause; asserts that each has a remedy and a link to a page that has it."""
        done = self.check("-o", "json")
        told = json.loads(done.stdout)
        failed = [each for each in told["checks"] if each["result"] == "failed"]
        assert (done.returncode, told["result"]) == ((1, "failed") if failed else (0, told["result"])), done
        pages = (CHECKOUT / "docs" / "checks.md").read_text(encoding="utf-8")
        for each in failed:
            assert each["fix"]
            assert each["link"] == f"https://hostport.io/docs/checks.html#{each['id']}"
            assert f"### {each['id']}\n" in pages
        return {each["id"]: each["cause"] for each in failed}

    def until(self, *ids: str, seconds: float = 30) -> dict[str, str]:
        """What does not hold, once it is just that."""
        return wait_for(
            f"check to name {ids}", self.broken, lambda found: sorted(found) == sorted(ids), seconds=seconds
        )


def account_kubeconfig(plane: ControlPlane, server: str, path: Path) -> Path:
    """For the ServiceAccount of the allocator, with a token as its Pod has."""
    token = plane.kubectl("create", "token", "hostport-allocator", "-n", NAMESPACE).stdout.strip()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority": str(plane.pki.ca)}}],
        "users": [{"name": "allocator", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "allocator"}}],
        "current-context": "e2e",
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def accounts(plane: ControlPlane) -> list[dict[str, Any]]:
    """The ServiceAccounts and rights of the manifests."""

    folder = CHECKOUT / "deploy" / "overlays" / "default"
    done = subprocess.run([plane.binaries["kubectl"], "kustomize", folder], capture_output=True, text=True, check=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each["kind"] in ACCOUNT_KINDS]


def write_certificate(pair: KeyPair, pki: Pki, ends: datetime) -> None:
    """Another certificate of the same authority, in the same files."""
    issued = pki._authority.issue_cert("127.0.0.1", not_after=ends)
    pair.key.write_bytes(issued.private_key_pem.bytes())
    pair.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


@pytest.fixture(scope="module")
def installation(plane: ControlPlane, product_session: Product, folder: Path) -> Iterator[Installation]:
    """Takes the webhook over from the product of the session, and gives it back."""
    plane.kubectl.apply(*accounts(plane))
    before = plane.kubectl("get", CONFIGURATION, "-o", "json").json
    kubeconfig = account_kubeconfig(plane, plane.api.base, folder / "check-allocator.kubeconfig")
    lease = [f"--lease-namespace={NAMESPACE}", "--pod-name=allocator", f"--pod-uid={uuid.uuid4()}"]
    cluster = ["--cluster=kubernetes", f"--kubeconfig={kubeconfig}", *lease]
    with contextlib.ExitStack() as stack:
        allocator = Allocator(folder, plane.logs, *cluster, name="allocator-check")
        stack.callback(allocator.stop)
        tls = plane.pki.server("shim-check")
        shim = Shim(plane.logs, tls, allocator, name="shim-check")
        stack.callback(shim.stop)
        made = Installation(plane, allocator, shim, tls, lease)
        stack.callback(lambda: plane.kubectl("replace", "--force", "-f", "-", stdin=json.dumps(_bare(before))))
        install_webhook(made)
        yield made


def _bare(configuration: Any) -> Any:
    """Without what the API server adds, so that it can be created again; `kubectl apply` still knows it as its own."""
    metadata = {key: configuration["metadata"][key] for key in ("name", "annotations")}
    return {**configuration, "metadata": metadata}


def install_webhook(installation: Installation, *, ca_bundle: str = "") -> None:
    plane = installation.plane
    configuration = _bare(plane.kubectl("get", CONFIGURATION, "-o", "json").json)
    client = {"url": f"{installation.shim.base}/mutate", "caBundle": ca_bundle or plane.pki.ca_bundle}
    for webhook in configuration["webhooks"]:
        webhook["clientConfig"] = client
    plane.kubectl("replace", "-f", "-", stdin=json.dumps(configuration))


def steady(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"answers \(v[0-9.]+\)", "answers (VERSION)", text).replace(VERSION, "RELEASE")
    text = re.sub(r"would be [0-9]+", "would be NUMBER", text)
    return re.sub(r"\b([0-9]+[smhd])+( ago)?\)", r"AGE\2)", text)


def test_a_healthy_installation_is_all_green(installation: Installation) -> None:
    installation.until()

    done = installation.check()

    assert (done.returncode, done.stderr, steady(done.stdout)) == (0, "", HEALTHY)


BEFORE = """\
Kubernetes
✓ the API server answers (VERSION)
✓ its version is supported

Before an installation (`--pre`)
✓ the API server has what an installation needs
✓ you may make what an installation makes
✓ nothing of ours is installed yet
✓ the API server will reach the webhook, as far as is known

0 failed, 0 warnings, 6 fine
"""
FOUND = """\
‼ nothing of ours is installed yet
    cause: there is a MutatingWebhookConfiguration hostport-operator
"""


def test_what_an_installation_needs_is_checked_before_there_is_one(installation: Installation) -> None:
    plane = installation.plane
    assert FOUND in installation.check("--pre").stdout
    configuration = _bare(plane.kubectl("get", CONFIGURATION, "-o", "json").json)
    plane.kubectl("delete", CONFIGURATION)
    try:
        done = installation.check("--pre")
    finally:
        plane.kubectl("create", "-f", "-", stdin=json.dumps(configuration))

    assert (done.returncode, done.stderr, steady(done.stdout)) == (0, "", BEFORE)


def test_a_webhook_that_is_missing_is_named(installation: Installation) -> None:
    plane = installation.plane
    configuration = _bare(plane.kubectl("get", CONFIGURATION, "-o", "json").json)
    plane.kubectl("delete", CONFIGURATION)
    try:
        assert installation.until("webhook-installed") == {
            "webhook-installed": (
                "there is no MutatingWebhookConfiguration hostport-operator: Pods that ask for ports get none"
            )
        }
    finally:
        plane.kubectl("create", "-f", "-", stdin=json.dumps(configuration))
    installation.until()


def test_a_ca_bundle_that_is_wrong_is_named(installation: Installation) -> None:

    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    install_webhook(installation, ca_bundle=other)
    try:
        found = installation.until("webhook-trusted", "webhook-admits")
        assert "does not come from caBundle" in found["webhook-trusted"]
        assert "x509: certificate signed by unknown authority" in found["webhook-admits"]
    finally:
        install_webhook(installation)
    installation.until()


def test_an_allocator_that_is_down_is_named(installation: Installation) -> None:
    installation.allocator.kill()
    try:
        found = installation.until("allocator-answers", "webhook-admits")
        assert "Connection refused" in found["allocator-answers"]
        assert "ALLOCATOR_UNREACHABLE" in found["webhook-admits"]
    finally:
        installation.allocator.start()
    installation.until(seconds=60)


def test_a_certificate_that_is_about_to_end_is_named(installation: Installation) -> None:
    write_certificate(installation.tls, installation.plane.pki, datetime.now(UTC) + timedelta(hours=9))
    try:
        assert installation.until("webhook-certificate")["webhook-certificate"].startswith("it ends in 8h")
    finally:
        write_certificate(installation.tls, installation.plane.pki, datetime.now(UTC) + timedelta(days=90))
    installation.until()


def test_rights_that_are_missing_are_named(installation: Installation) -> None:
    plane = installation.plane
    plane.kubectl("delete", "clusterrolebinding", "hostport-allocator")
    try:
        assert installation.until("allocator-rights") == {
            "allocator-rights": (
                "it may not get pods, list pods, watch pods, list nodes, watch nodes, list namespaces, watch namespaces,"
                " list services, watch services, create events.events.k8s.io, patch events.events.k8s.io, create tokenreviews.authentication.k8s.io,"
                " create subjectaccessreviews.authorization.k8s.io, create portleases.hostport.io,"
                " delete portleases.hostport.io, get portleases.hostport.io, list portleases.hostport.io,"
                " watch portleases.hostport.io, patch portleases/status.hostport.io"
            )
        }
    finally:
        plane.kubectl.apply(*(each for each in accounts(plane) if each["kind"] == "ClusterRoleBinding"))
    installation.until(seconds=60)


def test_a_second_allocator_is_named(installation: Installation, folder: Path) -> None:
    plane = installation.plane
    plane.kubectl("create", "namespace", "second")
    kubeconfig = plane.kubectl.kubeconfig
    flags = ["--cluster=kubernetes", f"--kubeconfig={kubeconfig}", "--lease-namespace=second"]
    second = start_program(
        "allocator", plane.logs / "allocator-second.log", *flags, "--pod-name=x", f"--pod-uid={uuid.uuid4()}",
        "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--journal=memory",
    )  # fmt: skip
    try:
        assert installation.until("allocator-alone") == {
            "allocator-alone": "allocators hold Leases in the namespaces hostport-system, second"
        }
    finally:
        second.stop()
        plane.kubectl("delete", "namespace", "second", "--wait=false")
    installation.until()


def test_a_view_that_has_grown_old_is_named(installation: Installation, folder: Path) -> None:
    """Without a Lease, so that an allocator that is cut off goes on: with one it falls silent, which is named as well."""
    plane = installation.plane
    with wire(int(plane.api.base.rpartition(":")[2])) as way:
        around = account_kubeconfig(plane, f"https://127.0.0.1:{way.port}", folder / "check-cut.kubeconfig")
        installation.allocator.restart(f"--kubeconfig={around}", "--lease-namespace=")
        way.cut()
        try:
            found = installation.until("allocator-sees", seconds=60)
            assert re.fullmatch(r"it was last proven current [0-9]+s ago", found["allocator-sees"])
        finally:
            installation.allocator.restart()
    installation.until(seconds=60)


def test_it_waits_until_everything_holds(installation: Installation) -> None:
    installation.allocator.kill()
    running = installation.checking("--wait", "60s")
    assert running.stderr is not None
    waiting = running.stderr.readline()
    installation.allocator.start()
    stdout, _ = running.communicate(timeout=90)

    assert re.fullmatch(r"waiting for webhook-admits, allocator-answers \([0-9]+ s left\)\n", waiting)
    assert (running.returncode, stdout.splitlines()[-1]) == (0, "0 failed, 0 warnings, 16 fine")
