"""The control plane of the cluster on a plain Linux machine, with everything as users have it: default node monitoring,
Node authorization, the Service network.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.api import Https, Kubectl
from e2e.binaries import Binaries
from e2e.pki import Pki
from e2e.processes import Process, wait_until

SERVICES = "198.18.0.0/16"
API_SERVICE = "198.18.0.1"
PODS = "198.19.0.0/16"
ADDRESS = "198.51.100.1"
API_PORT = 6443
ETCD = "http://127.0.0.1:2379"
DNS = Path(__file__).with_name("dns.py")


@dataclass(frozen=True, slots=True)
class Plane:
    """What the nodes and the tests need to know of it."""

    api: Https
    kubectl: Kubectl
    pki: Pki
    proxy_config: Path

    def kubeconfig(self, user: str, *, group: str | None = None) -> Path:
        return self.pki.kubeconfig(f"https://{ADDRESS}:{API_PORT}", self.pki.client(user, group=group))


def start(stack: contextlib.ExitStack, control: Binaries, nodes: Binaries, folder: Path) -> Plane:
    """Starts it in the network namespace of the caller, where it has ADDRESS. The stack ends it."""
    logs = folder / "logs"
    logs.mkdir(parents=True)

    def run(program: str, *command: str) -> Process:
        process = Process(program, command, log=logs / f"{program}.log")
        stack.callback(process.stop)
        return process

    pki = Pki(folder)
    admin = pki.client("admin", group="system:masters")
    base = f"https://{ADDRESS}:{API_PORT}"
    api = Https(base, pki.trusting(admin))
    kubectl = Kubectl(control["kubectl"], pki.kubeconfig(base, admin))
    plane = Plane(api, kubectl, pki, folder / "proxy.json")

    run("etcd", control["etcd"], *etcd_flags(folder)).wait_until("healthy", lambda: Https(ETCD).is_ok("/health"))
    server = run("kube-apiserver", control["kube-apiserver"], *api_server_flags(pki))
    server.wait_until("ready", lambda: api.is_ok("/readyz"), seconds=60)
    manager = plane.kubeconfig("system:kube-controller-manager")
    run("kube-controller-manager", control["kube-controller-manager"], *controller_flags(manager, pki, folder))
    scheduler = plane.kubeconfig("system:kube-scheduler")
    run("kube-scheduler", control["kube-scheduler"], f"--kubeconfig={scheduler}", "--leader-elect=false")
    proxy = plane.kubeconfig("system:kube-proxy")
    plane.proxy_config.write_text(json.dumps(proxy_config(proxy)), encoding="utf-8")
    # The API server calls webhooks through their Service.
    run("kube-proxy", nodes["kube-proxy"], f"--config={plane.proxy_config}")
    run("dns", sys.executable, "-I", "-S", str(DNS), ADDRESS, control["kubectl"], str(kubectl.kubeconfig))
    wait_until("the default ServiceAccount", lambda: api.is_ok("/api/v1/namespaces/default/serviceaccounts/default"))
    return plane


def etcd_flags(folder: Path) -> tuple[str, ...]:
    peer = "http://127.0.0.1:2380"
    return (
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # nothing here has to survive a power cut
        "--log-level=warn",
    )


def api_server_flags(pki: Pki) -> tuple[str, ...]:
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    serving, signing = pki.server("kube-apiserver", ADDRESS, API_SERVICE, *names), pki.signing_key("service-accounts")
    kubelets = pki.client("kube-apiserver-kubelet-client", group="system:masters")
    return (
        f"--etcd-servers={ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={pki.ca}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={kubelets.cert}",
        f"--kubelet-client-key={kubelets.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={signing}",
        f"--service-account-signing-key-file={signing}",
        f"--service-cluster-ip-range={SERVICES}",
    )


def controller_flags(kubeconfig: Path, pki: Pki, folder: Path) -> tuple[str, ...]:
    return (
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={folder / 'service-accounts.key'}",
        f"--root-ca-file={pki.ca}",
    )


def proxy_config(kubeconfig: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        # They belong to the machine, not to a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
