"""A real control plane on loopback: etcd, kube-apiserver, and where they are there controllers and scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.api import Https, Kubectl
from e2e.binaries import Binaries
from e2e.nodes import Fleet, fake_nodes
from e2e.pki import Pki
from e2e.processes import Process, free_ports, wait_until


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What a test needs to know of it."""

    api: Https
    server: Process
    etcd: Https
    etcd_server: Process
    kubectl: Kubectl
    pki: Pki
    binaries: Binaries
    nodes: tuple[str, ...]
    fleet: Fleet
    logs: Path


@contextlib.contextmanager
def control_plane(
    binaries: Binaries,
    folder: Path,
    *,
    nodes: tuple[str, ...],
    api_server_flags: tuple[str, ...] = (),
    api_server_environ: Mapping[str, str] | None = None,
) -> Iterator[ControlPlane]:
    """Starts everything, yields once Pods are accepted, ends everything. `api_server_environ`: None is ours."""
    pki, logs = Pki(folder), folder / "logs"
    logs.mkdir()
    with contextlib.ExitStack() as stack:
        etcd_port, etcd_peer_port, api_port = free_ports(3)
        etcd_server = _etcd(stack, binaries, folder, logs, etcd_port, etcd_peer_port)
        base = f"https://127.0.0.1:{api_port}"
        admin = pki.client("admin", group="system:masters")
        api = Https(base, pki.trusting(admin))
        kubectl = Kubectl(binaries["kubectl"], pki.kubeconfig(base, admin))
        server = _api_server(stack, binaries, pki, logs, etcd_port, api_port, api_server_flags, api_server_environ)
        server.wait_until("ready", lambda: api.is_ok("/readyz"), seconds=60)
        _controllers(stack, binaries, pki, logs, kubectl.kubeconfig, server_key=folder / "service-accounts.key")
        fleet = stack.enter_context(fake_nodes(api, nodes))
        etcd = Https(f"http://127.0.0.1:{etcd_port}")
        plane = ControlPlane(api, server, etcd, etcd_server, kubectl, pki, binaries, nodes, fleet, logs)
        _make_namespace_usable(plane, "default")
        yield plane


def _run(
    stack: contextlib.ExitStack,
    program: str,
    binaries: Binaries,
    logs: Path,
    *flags: str,
    environ: Mapping[str, str] | None = None,
) -> Process:
    process = Process(program, [binaries[program], *flags], log=logs / f"{program}.log", environ=environ)
    stack.callback(process.stop)
    return process


def _etcd(
    stack: contextlib.ExitStack, binaries: Binaries, folder: Path, logs: Path, client_port: int, peer_port: int
) -> Process:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    etcd = _run(
        stack,
        "etcd",
        binaries,
        logs,
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # nothing here has to survive a power cut
        "--log-level=warn",
    )
    etcd.wait_until("healthy", lambda: Https(client).is_ok("/health"))
    return etcd


def _api_server(
    stack: contextlib.ExitStack,
    binaries: Binaries,
    pki: Pki,
    logs: Path,
    etcd_port: int,
    port: int,
    more: tuple[str, ...],
    environ: Mapping[str, str] | None,
) -> Process:
    serving, signing = pki.server("kube-apiserver"), pki.signing_key("service-accounts")
    return _run(
        stack,
        "kube-apiserver",
        binaries,
        logs,
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={pki.ca}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={signing}",
        f"--service-account-signing-key-file={signing}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--endpoint-reconciler-type=none",  # it would insist on an address that is not loopback
        *more,
        environ=environ,
    )


def _controllers(
    stack: contextlib.ExitStack, binaries: Binaries, pki: Pki, logs: Path, kubeconfig: Path, *, server_key: Path
) -> None:
    common = (f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0", "--kube-api-qps=200")
    if "kube-controller-manager" in binaries.paths:
        _run(
            stack,
            "kube-controller-manager",
            binaries,
            logs,
            *common,
            "--kube-api-burst=400",
            f"--service-account-private-key-file={server_key}",
            f"--root-ca-file={pki.ca}",
            "--controllers=*,-node-lifecycle-controller",  # no kubelet renews the nodes' leases
        )
    if "kube-scheduler" in binaries.paths:
        _run(stack, "kube-scheduler", binaries, logs, *common, "--kube-api-burst=400")


def _make_namespace_usable(plane: ControlPlane, name: str) -> None:
    """Pods are refused in a namespace until its default ServiceAccount is there."""
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    if "kube-controller-manager" not in plane.binaries.paths:
        plane.api.ask("POST", path, {"metadata": {"name": "default"}})
    wait_until(f"the ServiceAccount of {name}", lambda: plane.api.is_ok(f"{path}/default"))


def create_namespace(plane: ControlPlane, name: str, *, labels: dict[str, str] | None = None) -> Kubectl:
    """Creates a namespace that accepts Pods at once, and returns kubectl for it."""
    plane.kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}},
    )
    _make_namespace_usable(plane, name)
    return plane.kubectl.within(name)
