"""The overlay `cert-manager` on a real API server, beside cert-manager's own controllers and CA injector.

The programs have the flags of the overlay's Deployments that name files, and see the Secrets as two kubelets would show
them: each late, one later than the other.
"""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate, load_pem_x509_certificates
from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import rendered
from e2e.mounted import Mount, Projected
from e2e.pki import KeyPair
from e2e.processes import Process, wait_until
from e2e.product import Allocator, Shim
from e2e.secured import token_of
from e2e.tools import module_folder

NAMESPACE = "hostport-system"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
CONFIGURATION = "mutatingwebhookconfiguration/hostport-operator"
RIGHTS = {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
ISSUED = {"Issuer", "Certificate"}
TLS, AUTHORITIES = "/etc/hostport/tls", "/etc/hostport/authorities"
CA, SHIM, ALLOCATOR = "hostport-ca", "hostport-shim-tls", "hostport-allocator-tls"
DELAY = 8.0
"""Seconds; more than any of the lags, as in a cluster."""

LAGS = {"hostport-shim": 1.0, "hostport-allocator": 5.0}
"""Seconds until a kubelet shows what changed."""


class CertManager:
    """Its controllers, and what cmctl does."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl.within(NAMESPACE)

    def renew(self, name: str) -> None:
        """As `cmctl renew` does; returns when the Secret has another certificate."""
        before = self.secret(name)["tls.crt"]
        condition = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by a test"}
        status = {"status": {"conditions": [*self._conditions(name), condition]}}
        self.kubectl("patch", "certificate", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        self._until_another(name, before)

    def replace_key(self, name: str) -> None:
        """Deletes the Secret: cert-manager makes another key, and does not touch what it signed."""
        before = self.secret(name)["tls.crt"]
        self.kubectl("delete", "secret", name)
        self._until_another(name, before)

    def secret(self, name: str) -> Mapping[str, str]:
        run = self.kubectl.run("get", "secret", name, "-o", "json")
        data: Mapping[str, str] = run.json.get("data", {}) if run.code == 0 else {}
        return data

    def _conditions(self, name: str) -> list[Any]:
        found = self.kubectl.get("certificate", name).get("status", {}).get("conditions", [])
        return [each for each in found if each["type"] != "Issuing"]

    def _until_another(self, name: str, before: str) -> None:
        wait_until(
            f"another certificate in {name}",
            lambda: self.secret(name).get("tls.crt", before) not in {before, ""},
            seconds=60,
        )


@contextlib.contextmanager
def cert_manager(plane: ControlPlane, program: str) -> Iterator[CertManager]:
    """Its kinds, and its controllers and CA injector as a process."""
    folder = module_folder("cert-manager", "github.com/cert-manager/cert-manager")
    kinds = sorted((folder / "deploy" / "crds").glob("*.yaml"))
    plane.kubectl("create", *(f"--filename={each}" for each in kinds))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    plane.kubectl("create", "namespace", "cert-manager")
    log = plane.logs / "cert-manager.log"
    process = Process("cert-manager", [program, str(plane.kubectl.kubeconfig)], log=log)
    try:
        yield CertManager(plane.kubectl)
    finally:
        process.stop()


@dataclass(frozen=True)
class Installed:
    """The product, and whose certificates it has."""

    plane: ControlPlane
    certificates: CertManager
    allocator: Allocator
    shim: Shim
    mounts: Mapping[str, Mount]

    def bundle(self) -> str:
        """What the API server trusts; empty: nobody."""
        client = self.plane.kubectl.get(CONFIGURATION)["webhooks"][0]["clientConfig"]
        return base64.b64decode(client.get("caBundle", "")).decode()

    def until_mounted(self, name: str) -> None:
        """Until the program shows its files of a Secret in their newest version."""
        mount, newest = self.mounts[name], self.certificates.secret(name)
        wait_until(f"{name} to be mounted", lambda: mount.versions[-1] == newest)


@contextlib.contextmanager
def install(plane: ControlPlane, certificates: CertManager, folder: Path) -> Iterator[Installed]:
    """Applies the overlay but for its Deployments, which run here."""
    objects = rendered(plane, "cert-manager")
    plane.kubectl.apply(*(each for each in objects if each["kind"] in RIGHTS))
    plane.kubectl.apply(*map(_on_loopback, (each for each in objects if each["kind"] in ISSUED)))
    deployments = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Deployment"}
    with contextlib.ExitStack() as stack:
        shim_mounts, shim_flags = _mounted(stack, plane, deployments["hostport-shim"], folder)
        allocator_mounts, allocator_flags = _mounted(stack, plane, deployments["hostport-allocator"], folder)
        allocator = Allocator(folder, plane.logs, *_cluster(plane, folder), *allocator_flags, name="allocator-cm")
        stack.callback(allocator.stop)
        tls = KeyPair(shim_mounts[SHIM].folder / "tls.crt", shim_mounts[SHIM].folder / "tls.key")
        shim = Shim(plane.logs, tls, allocator, *shim_flags, name="shim-cm")
        stack.callback(shim.stop)
        (webhook,) = (each for each in objects if each["kind"] == "MutatingWebhookConfiguration")
        for each in webhook["webhooks"]:
            each["clientConfig"] = {"url": f"{shim.base}/mutate"}
        plane.kubectl.apply(webhook)
        stack.callback(plane.kubectl, "delete", CONFIGURATION)
        mounts = {SHIM: shim_mounts[SHIM], ALLOCATOR: allocator_mounts[ALLOCATOR]}
        yield Installed(plane, certificates, allocator, shim, mounts)


def _on_loopback(issued: dict[str, Any]) -> dict[str, Any]:
    """The programs are reached there, and not by their Services."""
    if issued["kind"] == "Certificate" and not issued["spec"].get("isCA"):
        issued["spec"]["ipAddresses"] = ["127.0.0.1"]
    return issued


def _mounted(
    stack: contextlib.ExitStack, plane: ControlPlane, deployment: Any, folder: Path
) -> tuple[dict[str, Mount], list[str]]:
    """The Secrets of a Deployment as files, and its flags that name them."""
    name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    secret, lag = volumes["tls"]["secret"]["secretName"], LAGS[name]
    tls = Mount(plane.api, f"{SECRETS}/{secret}", folder / f"{name}-tls", lag=lag)
    sources = volumes["authorities"]["projected"]["sources"]
    authorities = Projected(plane.api, SECRETS, sources, folder / f"{name}-authorities", lag=lag)
    for mount in (tls, authorities):
        stack.enter_context(mount.following())
    flags = [each for each in pod["containers"][0]["args"] if TLS in each or AUTHORITIES in each]
    flags = [each.replace(TLS, str(tls.folder)).replace(AUTHORITIES, str(authorities.folder)) for each in flags]
    return {secret: tls}, [*flags, f"--certificate-delay={DELAY:g}s"]


def _cluster(plane: ControlPlane, folder: Path) -> tuple[str, ...]:
    """With the rights of the overlay."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "e2e", "cluster": {"server": plane.api.base, "certificate-authority": str(plane.pki.ca)}}
        ],
        "users": [{"name": "pod", "user": {"token": token_of(plane, NAMESPACE, "hostport-allocator")}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "pod"}}],
        "current-context": "e2e",
    }
    path = folder / "service-account.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    lease = (f"--lease-namespace={NAMESPACE}", "--pod-name=allocator", f"--pod-uid={uuid.uuid4()}")
    return ("--cluster=kubernetes", f"--kubeconfig={path}", *lease)


def read(text: str) -> list[Certificate]:
    """The certificates of base64 of PEM."""
    return load_pem_x509_certificates(base64.b64decode(text))
