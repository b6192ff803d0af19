"""The product under test: the real allocator and the real shim, started as a user starts them.

The allocator of the session watches the API server. A second one, for a few cases, learns the cluster from a file that
a driver keeps fresh, as `kubectl get` prints it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import yaml

from e2e.api import Https
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane, create_namespace
from e2e.pki import KeyPair
from e2e.processes import Process, free_ports, repeating, wait_for
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as rpc

WEBHOOK = CHECKOUT / "deploy" / "base" / "webhook.yaml"
PACE = 1.0
HIDDEN = "e2e.hostport.io/hidden"
"""Label of what the file does not show: somebody outside the books of the allocator that reads it."""
FILE_NAMESPACE = {"hostport.io/webhook": "ignore", "e2e.hostport.io/cluster": "file"}


class Allocator:
    """The running allocator, and its API. It can be ended and started again with its journal, at the same address."""

    def __init__(self, folder: Path, logs: Path, *cluster: str, name: str = "allocator") -> None:
        port, http_port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self.log = logs / f"{name}.log"
        self._http = Https(f"http://127.0.0.1:{http_port}")
        self._flags = (
            f"--listen={self.address}",
            f"--http=127.0.0.1:{http_port}",
            *cluster,
            f"--journal=sqlite:{folder / f'{name}.db'}",
        )
        self._channel = grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 500)])
        self._stub = rpc.AllocatorServiceStub(self._channel)
        self.start()

    def start(self, *more: str) -> None:
        """Starts it, with more flags if given: a later flag wins."""
        self._process = start_program("allocator", self.log, *self._flags, *more)
        self._process.wait_until("ready", lambda: self._http.is_ok("/readyz"))

    def restart(self, *more: str) -> None:
        """Ends it politely and starts it again with its journal."""
        if (code := self._process.stop()) != 0:
            raise RuntimeError(f"the allocator ended with {code}")
        self.start(*more)

    def kill(self) -> None:
        self._process.kill()

    def allocations(self, namespace: str = "") -> list[pb.Allocation]:
        """All live allocations, or those of a namespace, ordered by id."""
        found: list[pb.Allocation] = []
        request = pb.ListAllocationsRequest(namespace=namespace, page_size=1000)
        while True:
            page = self._stub.ListAllocations(request, timeout=5, wait_for_ready=True)
            found.extend(page.allocations)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def preview(self, number: int, constraints: pb.NodeConstraints) -> str:
        """The node on which a Pod with a fixed number would be planned; empty where it has no candidate."""
        request = pb.AllocateRequest(
            dry_run=True,
            owner=pb.Owner(kind="Pod", namespace="preview", name="preview"),
            policy=pb.POLICY_STATIC,
            ports=[pb.PortRequest(container="main", container_port=number, host_port=number)],
            constraints=constraints,
        )
        return str(self._stub.Allocate(request, timeout=5, wait_for_ready=True).allocation.node)

    def held_on(self, node: str) -> set[int]:
        """The numbers that allocations hold on a node."""
        answer = self._stub.GetNode(pb.GetNodeRequest(name=node), timeout=5, wait_for_ready=True)
        return {port.host_port for port in answer.ports if not port.HasField("foreign")}

    def lease(self, node: str, number: int) -> str:
        """Leases one number on one node, as another service would; returns the id."""
        answer = self._stub.Allocate(
            pb.AllocateRequest(
                owner=pb.Owner(kind="Service", name="e2e", description="holds a port for a test"),
                policy=pb.POLICY_STATIC,
                ports=[pb.PortRequest(host_port=number)],
                constraints=pb.NodeConstraints(node_name=node),
            ),
            timeout=5,
        )
        return str(answer.allocation.id)

    def report(self, node: str, *opened: int) -> None:
        """Tells, as the agent of a node would, that processes have these TCP ports and nothing else is open there."""
        sockets = [pb.Socket(protocol=pb.PROTOCOL_TCP, port=number, process="squatter") for number in opened]
        report = pb.ReportNodeRequest(node=node, snapshot=True, opened=sockets)
        list(self._stub.ReportNode(iter([report]), timeout=10))

    def foreign(self, node: str, number: int) -> list[str]:
        """The processes that hold a TCP port of a node."""
        asked = pb.ExplainPortRequest(node=node, protocol=pb.PROTOCOL_TCP, host_port=number)
        return [each.name for each in self._stub.ExplainPort(asked, timeout=5).foreign]

    def release(self, allocation_id: str) -> None:
        self._stub.Release(pb.ReleaseRequest(id=allocation_id), timeout=5)

    @contextlib.contextmanager
    def agent_of(self, node: str, *numbers: int) -> Iterator[None]:
        """An agent that says these TCP numbers are open on a node, and says so again whenever it is asked."""
        opened = [pb.Socket(protocol=pb.PROTOCOL_TCP, port=number, process="program") for number in numbers]
        messages: SimpleQueue[pb.ReportNodeRequest | None] = SimpleQueue()
        messages.put(pb.ReportNodeRequest(node=node, snapshot=True, opened=opened))
        call = self._stub.ReportNode(iter(messages.get, None), wait_for_ready=True)

        def answer() -> None:
            with contextlib.suppress(grpc.RpcError):  # it is cancelled
                for wanted in call:
                    if wanted.report_now:
                        messages.put(pb.ReportNodeRequest(node=node))

        threading.Thread(target=answer, daemon=True).start()
        try:
            yield
        finally:
            call.cancel()
            messages.put(None)

    def metrics(self) -> str:
        return self._http.ask("GET", "/metrics").text

    def stop(self) -> int:
        self._channel.close()
        return self._process.stop()


class Shim:
    """The running shim. It can be stopped and started again at the same address."""

    def __init__(self, logs: Path, tls: KeyPair, allocator: Allocator, *more: str, name: str = "shim") -> None:
        port, http_port = free_ports(2)
        self.base = f"https://127.0.0.1:{port}"
        self.log = logs / f"{name}.log"
        self._http = Https(f"http://127.0.0.1:{http_port}")
        self._flags = (
            f"--listen=127.0.0.1:{port}",
            f"--http=127.0.0.1:{http_port}",
            f"--tls-cert={tls.cert}",
            f"--tls-key={tls.key}",
            f"--allocator={allocator.address}",
            *more,
        )
        self.start()

    def start(self) -> None:
        self._process = start_program("shim", self.log, *self._flags)
        self._process.wait_until("ready", lambda: self._http.is_ok("/readyz"))

    def stop(self) -> int:
        return self._process.stop()

    def metrics(self) -> str:
        return self._http.ask("GET", "/metrics").text


class Product:
    """Both programs on one control plane."""

    def __init__(self, plane: ControlPlane, allocator: Allocator, shim: Shim) -> None:
        self.plane = plane
        self.allocator = allocator
        self.shim = shim
        self.webhook = Https(shim.base, plane.pki.trusting())

    def review(self, review: Any) -> Any:
        """Sends an AdmissionReview as the API server would; returns the response part of the answer."""
        answer = self.webhook.ask("POST", "/mutate?timeout=5s", review)
        assert answer.status == 200, answer.text
        return answer.json["response"]


@contextlib.contextmanager
def watching_product(plane: ControlPlane, folder: Path) -> Iterator[Product]:
    """The product that watches the cluster, with the webhook as users install it."""
    flags = ("--cluster=kubernetes", f"--kubeconfig={plane.kubectl.kubeconfig}")
    with _programs(plane, folder, flags) as running:
        install_webhook(running)
        yield running


@contextlib.contextmanager
def file_product(plane: ControlPlane, folder: Path) -> Iterator[Product]:
    """A second product, for the namespaces with its label alone. It reads the cluster from a file."""
    cluster = folder / "cluster.json"

    def write_cluster() -> None:
        fresh = cluster.with_suffix(".new")
        seen = plane.kubectl("get", "nodes,namespaces,pods", "-A", "-l", f"!{HIDDEN}", "-o", "json")
        fresh.write_text(seen.stdout, encoding="utf-8")
        fresh.replace(cluster)

    write_cluster()
    configuration = _configuration()
    configuration["metadata"]["name"] += "-file"
    for webhook in configuration["webhooks"]:
        webhook["namespaceSelector"] = {"matchLabels": FILE_NAMESPACE}
    with (
        repeating("cluster-file", PACE, write_cluster),
        _programs(plane, folder, (f"--cluster=file:{cluster}",), suffix="-file") as running,
    ):
        create_namespace(plane, "file-probe", labels=FILE_NAMESPACE)
        install_webhook(running, configuration, namespace="file-probe")
        try:
            yield running
        finally:
            plane.kubectl("delete", "mutatingwebhookconfiguration", configuration["metadata"]["name"])


@contextlib.contextmanager
def _programs(plane: ControlPlane, folder: Path, cluster: Sequence[str], *, suffix: str = "") -> Iterator[Product]:
    """Starts both programs, ends both."""
    with contextlib.ExitStack() as stack:
        allocator = Allocator(folder, plane.logs, *cluster, name=f"allocator{suffix}")
        stack.callback(_end_well, allocator)
        shim = Shim(plane.logs, plane.pki.server(f"shim{suffix}"), allocator, name=f"shim{suffix}")
        stack.callback(_end_well, shim)
        yield Product(plane, allocator, shim)


def _end_well(program: Allocator | Shim) -> None:
    """A program that is asked to end finishes what is in flight and ends with 0."""
    if (code := program.stop()) != 0:
        raise RuntimeError(f"{type(program).__name__} ended with {code}")


def start_program(program: str, log: Path, *flags: str) -> Process:
    """Without the HOSTPORT_* variables of whoever runs the tests: they are flags, too."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HOSTPORT_")}
    environ["PYTHONPATH"] = str(CHECKOUT)
    return Process(log.stem, [sys.executable, "-m", program, "serve", *flags], log=log, environ=environ)


def _configuration() -> Any:
    return yaml.safe_load(WEBHOOK.read_text(encoding="utf-8"))


def install_webhook(product: Product, configuration: Any = None, *, namespace: str = "default") -> None:
    """The configuration that users install, but for the way to the shim: here it is no Service."""
    plane, configuration = product.plane, configuration or _configuration()
    for webhook in configuration["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {"url": f"{product.shim.base}{path}", "caBundle": plane.pki.ca_bundle}
    plane.kubectl.apply(configuration)
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe-0", "annotations": {"hostport.io/enabled": "true"}},
        "spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]},
    }
    wait_for(
        "the API server to call the webhook",
        lambda: plane.kubectl.within(namespace).try_apply(probe, options=["--dry-run=server", "-o", "json"]),
        lambda run: run.code == 0 and "hostNetwork" in run.json["spec"],
        seconds=20,
    )
