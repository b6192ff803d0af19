"""The built-in authority on a real API server, with the rights that `make deploy` gives and no others.

The allocator runs with the token of its ServiceAccount. The shim reads its Secret as a kubelet would show it, late.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Certificate, load_pem_x509_certificates

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port, rendered
from e2e.mounted import Mount
from e2e.pki import KeyPair
from e2e.processes import Timeout, wait_for, wait_until
from e2e.product import Allocator, Product, Shim, install_webhook
from e2e.rights import NOTHING, rules, take_away
from e2e.soak import Clients, Witness
from e2e.test_live_cluster import Pool, pool

pytestmark = pytest.mark.workloads

__all__ = ["pool"]

NAMESPACE = "hostport-system"
RIGHTS = {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
CONFIGURATION = "mutatingwebhookconfiguration/hostport-operator"
LAG = 2.0  # of the mounted Secret
LIVES = ("--certificate-propagation=4s", "--certificate-lifetime=24s", "--ca-lifetime=48s")
ROLL_SECONDS = 85.0  # an authority signs for 36 seconds, so three of them sign
ROLES = "hostport-certificates"
ASKING = hostport(policy="Dynamic", min_port=26000, max_port=26999)


@dataclass(frozen=True)
class Installed:
    """The product with certificates of its own."""

    plane: ControlPlane
    kubectl: Kubectl
    allocator: Allocator
    shim: Shim
    mount: Mount

    def bundle(self) -> str:
        """What the API server trusts; empty: nobody."""
        client = self.plane.kubectl.get(CONFIGURATION)["webhooks"][0]["clientConfig"]
        return base64.b64decode(client.get("caBundle", "")).decode()

    def data(self, what: str) -> Any:
        return self.kubectl.get(what)["data"]


def read(pem: bytes) -> list[Certificate]:
    return load_pem_x509_certificates(pem)


def decoded(text: str) -> list[Certificate]:
    """As a Secret has them."""
    return read(base64.b64decode(text))


def webhook(plane: ControlPlane, base: str) -> dict[str, Any]:
    """The configuration that users apply, without caBundle, but for the way to the shim: here it is no Service."""
    (found,) = (each for each in rendered(plane, "default") if each["kind"] == "MutatingWebhookConfiguration")
    for each in found["webhooks"]:
        each["clientConfig"] = {"url": f"{base}/mutate"}
    return found


def token_kubeconfig(plane: ControlPlane, folder: Path) -> Path:
    """What the allocator's ServiceAccount is given."""
    token = plane.kubectl("create", "token", "hostport-allocator", "-n", NAMESPACE, "--duration=1h").stdout.strip()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "e2e", "cluster": {"server": plane.api.base, "certificate-authority": str(plane.pki.ca)}}
        ],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "user"}}],
        "current-context": "e2e",
    }
    path = folder / "allocator.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, product_session: Product, folder: Path) -> Iterator[Installed]:
    """Takes the place of the session's product, from nothing, and gives it back."""
    plane.kubectl.apply(*(each for each in rendered(plane, "default") if each["kind"] in RIGHTS))
    kubectl = plane.kubectl.within(NAMESPACE)
    here = Path(tempfile.mkdtemp(prefix="certificates-", dir=folder))
    flags = (
        "--cluster=kubernetes",
        f"--kubeconfig={token_kubeconfig(plane, here)}",
        f"--lease-namespace={NAMESPACE}",
        "--pod-name=allocator",
        f"--pod-uid={uuid.uuid4()}",
        "--certificates=builtin",
        "--certificate-names=127.0.0.1",
        *LIVES,
    )
    mount = Mount(plane.api, f"/api/v1/namespaces/{NAMESPACE}/secrets/hostport-shim-tls", here / "tls", lag=LAG)
    tls = KeyPair(mount.folder / "tls.crt", mount.folder / "tls.key")
    trust = (f"--allocator-ca={mount.folder}/ca.crt", f"--allocator-cert={tls.cert}", f"--allocator-key={tls.key}")
    with contextlib.ExitStack() as stack:
        stack.callback(_give_back, product_session)
        plane.kubectl("delete", CONFIGURATION)
        allocator = Allocator(here, plane.logs, *flags, name="allocator-builtin")
        stack.callback(allocator.stop)
        stack.enter_context(mount.following())
        shim = Shim(plane.logs, tls, allocator, *trust, name="shim-builtin")
        stack.callback(shim.stop)
        plane.kubectl.apply(webhook(plane, shim.base))
        yield Installed(plane, kubectl, allocator, shim, mount)


def _give_back(product: Product) -> None:
    product.plane.kubectl("delete", "--ignore-not-found", CONFIGURATION)
    install_webhook(product)


def created(kubectl: Kubectl, name: str) -> str:
    """What kubectl says to a Pod that asks for ports; empty: it is created."""
    run = kubectl.run("create", "-f", "-", stdin=json.dumps(pod(name, ASKING, port(80))))
    return "" if run.code == 0 else run.stderr


def create_soon(kubectl: Kubectl, name: str) -> None:
    wait_for("a Pod with ports", lambda: created(kubectl, name), lambda said: said == "", seconds=20)
    assert "hostport.io/allocation-id" in kubectl.get("pod", name)["metadata"]["annotations"]


def test_from_nothing_to_a_webhook_that_works(installed: Installed, kubectl: Kubectl) -> None:
    """The configuration was applied without a caBundle, and no person has made a Secret."""
    create_soon(kubectl, "web-0")

    assert installed.bundle() == installed.data("configmap/hostport-ca")["ca.crt"]
    secret = installed.data("secret/hostport-shim-tls")
    assert base64.b64decode(secret["ca.crt"]).decode() == installed.bundle()
    assert decoded(secret["tls.crt"])[0].issuer in {each.subject for each in decoded(secret["ca.crt"])}


@pytest.mark.parametrize("what", ["secret/hostport-ca", "secret/hostport-shim-tls", "configmap/hostport-ca"])
def test_what_is_deleted_comes_back(installed: Installed, kubectl: Kubectl, what: str) -> None:
    signer = decoded(installed.data("secret/hostport-ca")["ca.crt"])[-1]
    installed.kubectl("delete", what)

    wait_until(f"{what} to be back", lambda: installed.kubectl.run("get", what).code == 0, seconds=30)

    assert signer in decoded(installed.data("secret/hostport-ca")["ca.crt"]), "not another authority, but the same"
    create_soon(kubectl, "web-0")


def test_a_webhook_configuration_that_is_applied_anew_without_a_bundle_gets_one(
    installed: Installed, kubectl: Kubectl
) -> None:
    installed.plane.kubectl("delete", CONFIGURATION)
    installed.plane.kubectl.apply(webhook(installed.plane, installed.shim.base))

    wait_until("the bundle to be there", lambda: installed.bundle() != "", seconds=30)

    create_soon(kubectl, "web-0")


def test_applying_the_manifests_again_takes_no_bundle_away(installed: Installed) -> None:
    wait_until("the bundle to be there", lambda: installed.bundle() != "", seconds=30)

    run = installed.plane.kubectl.apply(webhook(installed.plane, installed.shim.base))

    assert "unchanged" in run.stdout
    assert installed.bundle() != ""


def test_a_killed_allocator_comes_back_with_the_authority_that_it_had(installed: Installed, kubectl: Kubectl) -> None:
    create_soon(kubectl, "before-0")
    known = read(installed.data("configmap/hostport-ca")["ca.crt"].encode())

    installed.allocator.kill()
    begin = time.monotonic()
    installed.allocator.start()

    seconds = time.monotonic() - begin
    assert {*known} & {*read(installed.data("configmap/hostport-ca")["ca.crt"].encode())}
    create_soon(kubectl, "after-0")
    assert seconds < 15  # and not the 36 that one without the journal waits


def test_when_certificates_end_is_told(installed: Installed) -> None:
    """With lives of seconds, each ends within the next minute."""
    told = installed.allocator.metrics() + installed.shim.metrics()
    ends = dict(
        re.findall(r'^hostport_certificate_expiration_timestamp_seconds{name="(\w+)"} (\S+)$', told, re.MULTILINE)
    )

    left = {name: float(end) - time.time() for name, end in ends.items()}
    assert left.keys() == {"allocator", "ca", "shim"}
    assert all(0 < seconds < 60 for seconds in left.values()), left


def test_certificates_and_authorities_follow_one_another_and_no_creation_fails(
    installed: Installed, namespace: str, kubectl: Kubectl, pool: Callable[[int], Pool]
) -> None:
    create_soon(kubectl, "first-0")
    witness = Witness(installed.plane.api, namespace)
    clients = Clients(installed.plane.api, namespace, pool(4).spec, count=8, webhook=installed.shim.base)
    before = len(installed.mount.versions)
    with witness.watching(), clients.working():
        begin = time.monotonic()
        time.sleep(ROLL_SECONDS)
        end = time.monotonic()

    tally, shown = clients.tally, [decoded(each["tls.crt"])[0] for each in installed.mount.versions[before:]]
    leaves = [leaf for leaf, _ in itertools.groupby(shown)]
    signers = [name for name, _ in itertools.groupby(leaf.issuer.rfc4514_string() for leaf in leaves)]
    sys.stderr.write(
        f"\n| creations | failed | longest pause | certificates of the shim | authorities that signed them |\n"
        f"|---|---|---|---|---|\n| {len(tally.created)} | {tally.unavailable + tally.others.total()} |"
        f" {tally.longest_pause(begin, end):.2f} s | {len(leaves)} | {len(signers)} |\n"
    )
    assert (tally.unavailable, dict(tally.others), witness.conflicts) == (0, {}, [])
    assert len(leaves) >= 4
    assert len(signers) >= 3
    assert len(set(signers)) == len(signers)


# -- rights: last, as nothing is renewed meanwhile


@dataclass(frozen=True)
class Mistake:
    """What somebody does to an object; `verb` is kubectl's, and its flags."""

    what: str
    verb: tuple[str, ...]
    is_there: Callable[[Installed], bool]
    """Whether it is not mended yet."""


STRANGER = base64.b64encode(b"stranger").decode()


def edit(data: dict[str, str]) -> tuple[str, ...]:
    return ("patch", "--type=merge", "-p", json.dumps({"data": data}))


NEEDED_FOR = {
    "get/update secrets": Mistake(
        "secret/hostport-shim-tls",
        edit({"tls.crt": STRANGER}),
        lambda installed: installed.data("secret/hostport-shim-tls")["tls.crt"] == STRANGER,
    ),
    "get/update configmaps": Mistake(
        "configmap/hostport-ca",
        edit({"ca.crt": STRANGER}),
        lambda installed: installed.data("configmap/hostport-ca")["ca.crt"] == STRANGER,
    ),
    "create secrets/configmaps": Mistake(
        "secret/hostport-ca",
        ("delete",),
        lambda installed: installed.kubectl.run("get", "secret/hostport-ca").code != 0,
    ),
    "get/patch mutatingwebhookconfigurations": Mistake(
        CONFIGURATION,
        ("patch", "--type=json", "-p", '[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]'),
        lambda installed: installed.bundle() == "",
    ),
}
"""What is mended by each rule."""


def test_it_is_said_of_each_rule_what_it_is_for() -> None:
    assert sorted(rules(ROLES)) == sorted(NEEDED_FOR)


@pytest.mark.parametrize("rule", NEEDED_FOR)
def test_without_a_rule_a_mistake_stays_and_with_it_it_is_mended(installed: Installed, rule: str) -> None:
    mistake = NEEDED_FOR[rule]
    verb, *flags = mistake.verb
    take_away(installed.plane, ROLES, rule)
    try:
        installed.kubectl(verb, mistake.what, *flags)
        with pytest.raises(Timeout):
            wait_until("it to be mended", lambda: not mistake.is_there(installed), seconds=8)
    finally:
        take_away(installed.plane, ROLES, NOTHING)
    wait_until("it to be mended", lambda: not mistake.is_there(installed), seconds=30)
