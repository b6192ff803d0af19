"""Clients that create and delete Pods as fast as they can, and what they saw.

    load.py KUBECONFIG SECONDS CLIENTS PLAIN NODE...

CLIENTS create Pods that ask for a host port, each on one of the NODEs, which are only entries in the API: nothing runs
there, so the load is admission alone. PLAIN more clients create Pods that ask for nothing. SIGTERM ends it earlier. Prints
one JSON line.

What counts: an answer of the API server other than 201 is a failure, and so is none. Conflicts are two live Pods with
one (node, protocol, port), by the objects that the API server returned, and by its own list of all Pods twice a second.
Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOLD = 0.1  # seconds that a Pod lives, so that many numbers are in use at once
PAUSE = 0.1  # seconds after a failure, as a controller would wait at least
LOOK = 0.5
NAMESPACE = "load"
FIRST_NUMBER, LAST_NUMBER = 20000, 20999

Held = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Creation:
    """One attempt: when it was asked and answered, and why it failed."""

    asked: float
    answered: float
    error: str | None


class Api:
    """The API server, over one connection."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        address = urlsplit(server)
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port or 443, context=tls, timeout=40
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer; status 0 where nobody answered."""
        data = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return 0, {"message": f"no answer of the API server: {error!r}"}


class Books:
    """Who holds what, as the API server told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: Counter[Held] = Counter()
        self.conflicts: set[Held] = set()

    def add(self, pod: Any) -> None:
        with self._lock:
            self._holders.update(held(pod))
            self.conflicts.update(key for key, count in self._holders.items() if count > 1)

    def remove(self, pod: Any) -> None:
        """To be called before the DELETE is sent: from there on the number may be anybody's."""
        with self._lock:
            self._holders.subtract(held(pod))

    def look(self, pods: Iterable[Any]) -> None:
        """A list of all Pods is a snapshot: whatever stands in it lived at one time."""
        counts = Counter(key for pod in pods for key in held(pod))
        with self._lock:
            self.conflicts.update(key for key, count in counts.items() if count > 1)


def held(pod: Any) -> list[Held]:
    """What a live Pod holds on its node."""
    node = pod["spec"].get("nodeName")
    if not node or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return []
    return [
        (node, port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if "hostPort" in port
    ]


class Client(threading.Thread):
    """Creates a Pod, keeps it for a moment, deletes it, and so on."""

    def __init__(
        self,
        api: Api,
        name: str,
        until: float,
        nodes: Sequence[str],
        books: Books | None,
        is_over: threading.Event,
    ) -> None:
        super().__init__(name=name)
        self._is_over = is_over
        self._api, self._until, self._nodes, self._books = api, until, itertools.cycle(nodes), books
        self.creations: list[Creation] = []

    def run(self) -> None:
        for turn in itertools.count():
            if time.monotonic() >= self._until or self._is_over.is_set():
                return
            self._one(f"{self.name}-{turn}")

    def _one(self, name: str) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        wanted = plain(name) if self._books is None else asking(name, next(self._nodes))
        asked = time.monotonic()
        status, answer = self._api.ask("POST", path, wanted)
        error = None if status == 201 else f"{status}: {answer.get('message')}"
        if error is None and self._books is not None and not held(answer):
            error = "201, but without a host port"
        self.creations.append(Creation(asked, time.monotonic(), error))
        if status != 201:
            time.sleep(PAUSE)
            return
        if self._books is not None:
            self._books.add(answer)
        time.sleep(HOLD)
        if self._books is not None:
            self._books.remove(answer)
        for _ in range(3):
            if self._api.ask("DELETE", f"{path}/{name}?gracePeriodSeconds=0")[0] != 0:
                return


def asking(name: str, node: str) -> dict[str, Any]:
    wants = {"enabled": "true", "policy": "Dynamic", "min-port": str(FIRST_NUMBER), "max-port": str(LAST_NUMBER)}
    pod = plain(name)
    pod["metadata"]["annotations"] = {f"hostport.io/{key}": value for key, value in wants.items()}
    pod["spec"]["nodeName"] = node
    return pod


def plain(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "ports": [{"containerPort": 80}]}
    return {"metadata": {"name": name}, "spec": {"schedulerName": "nobody", "containers": [container]}}


def connection(kubeconfig: str) -> tuple[str, ssl.SSLContext]:
    """Server and TLS of a kubeconfig that `kubectl config view --raw --flatten -o json` printed."""
    view = json.loads(Path(kubeconfig).read_text(encoding="utf-8"))
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        for key in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[key]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return cluster["server"], context


def summary(creations: Sequence[Creation], begin: float, end: float) -> dict[str, Any]:
    """The longest gap is between two successes, or between one and an end of the run."""
    good = sorted(each.answered for each in creations if each.error is None)
    moments = [begin, *good, max(end, good[-1] if good else end)]
    gap_end, gap_begin = max(((b, a) for a, b in itertools.pairwise(moments)), key=lambda pair: pair[0] - pair[1])
    failures = [each for each in creations if each.error is not None]
    took = sorted(each.answered - each.asked for each in creations if each.error is None) or [0.0]
    return {
        "creations": len(good),
        "failed": len(failures),
        "longest_gap": round(gap_end - gap_begin, 2),
        "gap_began": round(gap_begin - begin, 2),
        "first_failure": round(min((each.answered for each in failures), default=begin) - begin, 2),
        "last_failure": round(max((each.answered for each in failures), default=begin) - begin, 2),
        "failed_outside_gap": sum(not gap_begin <= each.answered <= gap_end for each in failures),
        "p50": round(took[len(took) // 2], 4),
        "p99": round(took[len(took) * 99 // 100], 4),
        "slowest": round(took[-1], 3),
        "errors": Counter(str(each.error)[:300] for each in failures).most_common(8),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("seconds", type=float)
    parser.add_argument("clients", type=int)
    parser.add_argument("plain", type=int)
    parser.add_argument("nodes", nargs="+")
    given = parser.parse_args()
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    server, tls = connection(given.kubeconfig)
    books, begin = Books(), time.monotonic()
    end, run = begin + given.seconds, f"r{int(time.time())}"
    asking = [
        Client(Api(server, tls), f"{run}-a{each}", end, given.nodes, books, is_over) for each in range(given.clients)
    ]
    plain = [Client(Api(server, tls), f"{run}-p{each}", end, given.nodes, None, is_over) for each in range(given.plain)]
    for client in (*asking, *plain):
        client.start()
    watcher = Api(server, tls)
    while any(client.is_alive() for client in (*asking, *plain)):
        status, pods = watcher.ask("GET", "/api/v1/pods")
        if status == 200:
            books.look(pods["items"])
        time.sleep(LOOK)
    end = min(end, time.monotonic())
    report = {
        "asking": summary([each for client in asking for each in client.creations], begin, end),
        "plain": summary([each for client in plain for each in client.creations], begin, end) if plain else None,
        "conflicts": sorted(books.conflicts),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
