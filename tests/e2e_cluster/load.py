"""Clients that create and delete annotated Pods as fast as they can, and what they saw.

    load.py KUBECONFIG SECONDS CLIENTS

Prints one JSON line. The Pods have a scheduler that does not exist, so that only admission is loaded. Runs where the API
server can be reached, with nothing but the standard library.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOLD = 0.1  # seconds that a Pod lives, so that many numbers are in use at once


def config(path: str) -> tuple[str, ssl.SSLContext]:
    """Server and TLS of a kubeconfig that `kubectl config view --raw -o json` printed."""
    view = json.loads(Path(path).read_text(encoding="utf-8"))
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        for key in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[key]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return cluster["server"], context


class Clients:
    """The clients, and their books: (moment, seconds, error or None) of each creation, and numbers in use."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._address, self._tls = urlsplit(server), tls
        self._lock = threading.Lock()
        self._in_use: set[int] = set()
        self.creations: list[tuple[float, str | None]] = []
        self.conflicts = 0

    def run(self, name: str, until: float) -> None:
        host, port = self._address.hostname or "", self._address.port
        connection = http.client.HTTPSConnection(host, port or 443, context=self._tls, timeout=40)
        turn = 0
        while time.monotonic() < until:
            turn += 1
            self._one(connection, f"{name}-{turn}")
        connection.close()

    def _one(self, connection: http.client.HTTPSConnection, name: str) -> None:
        status, answer = self._ask(connection, "POST", "", pod(name))
        with self._lock:
            self.creations.append((time.monotonic(), None if status == 201 else str(answer.get("message"))[:300]))
        if status != 201:
            return
        number = answer["spec"]["containers"][0]["ports"][0].get("hostPort", 0)
        with self._lock:
            self.conflicts += number == 0 or number in self._in_use
            self._in_use.add(number)
        time.sleep(HOLD)
        with self._lock:  # before the DELETE: from there on the number may be anybody's
            self._in_use.discard(number)
        self._ask(connection, "DELETE", f"/{name}?gracePeriodSeconds=0", None)

    def _ask(self, connection: http.client.HTTPSConnection, method: str, path: str, body: Any) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        try:
            connection.request(
                method, f"/api/v1/namespaces/load/pods{path}", data, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError as error:
            connection.close()
            return 0, {"message": str(error)}


def pod(name: str) -> dict[str, Any]:
    wants = {"enabled": "true", "policy": "Dynamic", "min-port": "20000", "max-port": "29999"}
    return {
        "metadata": {"name": name, "annotations": {f"hostport.io/{key}": value for key, value in wants.items()}},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}],
        },
    }


def main(kubeconfig: str, seconds: str, count: str) -> None:
    clients = Clients(*config(kubeconfig))
    begin = time.monotonic()
    threads = [
        threading.Thread(target=clients.run, args=(f"l{int(time.time())}-{each}", begin + float(seconds)))
        for each in range(int(count))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = [begin, *sorted(moment for moment, error in clients.creations if error is None)]
    errors = [error for _, error in clients.creations if error is not None]
    report = {
        "creations": len(good) - 1,
        "failed": len(errors),
        "gap": round(max(b - a for a, b in itertools.pairwise(good)), 2),
        "conflicts": clients.conflicts,
        "errors": sorted(set(errors))[:5],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
