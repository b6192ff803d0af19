"""Another team's mutating webhooks: one puts a container with a port in front of all others, one takes ports away."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from e2e.control_plane import ControlPlane
from e2e.manifests import container, port

NAME = "proxy"
LABEL = "injector.example.com/port"
TAKES = "injector.example.com/takes"
"""How many of the last ports of a Pod's first container are taken away, each time that it has all of 10."""

WHOLE = 10


def inject(review: dict[str, Any]) -> dict[str, Any]:
    """The port is the value of the Pod's label; a Pod that has the container already stays as it is."""
    pod = review["request"]["object"]
    patch = []
    if NAME not in [each["name"] for each in pod["spec"]["containers"]]:
        injected = container(NAME, port(int(pod["metadata"]["labels"][LABEL]), "proxy"))
        patch = [{"op": "add", "path": "/spec/containers/0", "value": injected}]
    return _answer(review, patch)


def take(review: dict[str, Any]) -> dict[str, Any]:
    """Each time that the Pod has all of its ports, some are gone: also when they were added anew."""
    pod = review["request"]["object"]
    gone = int(pod["metadata"]["labels"][TAKES])
    has_all = len(pod["spec"]["containers"][0].get("ports", ())) == WHOLE
    places = range(WHOLE - 1, WHOLE - 1 - gone, -1) if has_all else ()
    return _answer(review, [{"op": "remove", "path": f"/spec/containers/0/ports/{at}"} for at in places])


def _answer(review: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
    return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps((take if self.path.startswith("/take") else inject)(review)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
        """Says nothing."""


@contextlib.contextmanager
def injector(plane: ControlPlane) -> Iterator[None]:
    """Serves, and is registered for all Pods with one of the labels. Its name sorts after ours, so it comes second."""
    pair = plane.pki.server("injector")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="injector", daemon=True)
    thread.start()
    configuration = _configuration(plane, f"https://127.0.0.1:{server.server_address[1]}/")
    try:
        plane.kubectl.apply(configuration)
        yield
    finally:
        plane.kubectl.run("delete", "mutatingwebhookconfiguration", configuration["metadata"]["name"])
        server.shutdown()
        thread.join()
        server.server_close()


def _configuration(plane: ControlPlane, url: str) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "istio-like-injector"},
        "webhooks": [
            {
                "name": name,
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": url + path, "caBundle": plane.pki.ca_bundle},
                "objectSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}]},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "sideEffects": "None",
                "reinvocationPolicy": again,
            }
            for name, path, label, again in (
                ("injector.example.com", "inject", LABEL, "Never"),
                ("taker.example.com", "take", TAKES, "IfNeeded"),
            )
        ],
    }
