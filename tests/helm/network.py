"""The Service network of a cluster without machines: a proxy that knows which Service is where on loopback.

The API server reaches Services through it (an egress selector, as where the control plane has no way into the network of
Pods), and so does the shim on its way to the allocator (`grpc_proxy`). Both say CONNECT with the name or address of a
Service; nobody in between reads what they then say, so that certificates are held against the Service's own name.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast


class _Proxy(socketserver.ThreadingTCPServer):
    """For the shim's gRPC library, which takes an address of a proxy."""

    daemon_threads = True
    routes: dict[str, int]


class _ProxyAtPath(socketserver.ThreadingUnixStreamServer):
    """For the API server, which wants TLS or a socket in the file system."""

    daemon_threads = True
    routes: dict[str, int]


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            """The headers say nothing that matters."""
        port = cast("_Proxy | _ProxyAtPath", self.server).routes.get(target)
        with contextlib.suppress(OSError):
            if port is None:
                self.wfile.write(b"HTTP/1.1 502 No such Service\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", port), timeout=5) as there:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                _carry(self.connection, there)


def _carry(here: socket.socket, there: socket.socket) -> None:
    """Both ways, until one end is done."""
    with selectors.DefaultSelector() as either:
        either.register(here, selectors.EVENT_READ, there)
        either.register(there, selectors.EVENT_READ, here)
        while True:
            for key, _ in either.select():
                data = cast("socket.socket", key.fileobj).recv(65536)
                if not data:
                    return
                key.data.sendall(data)


class ServiceNetwork:
    """Which Service leads to which port of loopback."""

    def __init__(self, url: str, socket_file: Path) -> None:
        self.routes: dict[str, int] = {}
        self.url = url
        self._socket_file = socket_file

    def route(self, service: Mapping[str, Any], ports: Mapping[str, int]) -> None:
        """Leads a Service to its Pod, whose ports of these names are these ports of loopback."""
        meta, spec = service["metadata"], service["spec"]
        for port in spec["ports"]:
            for host in (spec["clusterIP"], f"{meta['name']}.{meta['namespace']}.svc"):
                if port["targetPort"] in ports:  # the twin does not run here
                    self.routes[f"{host}:{port['port']}"] = ports[port["targetPort"]]

    def selector(self, folder: Path) -> Path:
        """What tells an API server to reach Services through the proxy."""
        connection = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(self._socket_file)}}}
        file = folder / "egress.json"
        document = {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": connection}],
        }
        file.write_text(json.dumps(document), encoding="utf-8")
        return file


@contextlib.contextmanager
def service_network(folder: Path) -> Iterator[ServiceNetwork]:
    socket_file = folder / "services.sock"
    with _Proxy(("127.0.0.1", 0), _Tunnel) as proxy, _ProxyAtPath(str(socket_file), _Tunnel) as at_path:
        network = ServiceNetwork(f"http://127.0.0.1:{proxy.server_address[1]}", socket_file)
        proxy.routes = at_path.routes = network.routes
        with _serving(proxy), _serving(at_path):
            yield network


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, name="service-network", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
