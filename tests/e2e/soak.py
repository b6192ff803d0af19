"""Clients that create and delete Pods through the API server, and a witness who does not ask the allocator.

The clients know what they were answered. The witness follows the stored Pods alone, and holds every two that live on one
node at one time against the scheduler's rule.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from e2e.api import Https
from e2e.manifests import Pod, hostport, port
from e2e.manifests import pod as bare_pod
from hostport.contract import Reason

KEPT = 6  # Pods of a client that live at a time
SLICE = 5  # seconds of one watch
DYNAMIC = hostport(policy="Dynamic", min_port=22000, max_port=22199)

PortKey = tuple[str, str, int]


class Witness:
    """Follows the Pods of a namespace."""

    def __init__(self, api: Https, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._live: dict[str, Pod] = {}
        self.seen = 0
        self.conflicts: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follows until the context ends."""
        version = self._api.ask("GET", self._path).json["metadata"]["resourceVersion"]
        done = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(self._follow, version, done)
            try:
                yield
            finally:
                done.set()
                following.result()

    def _follow(self, version: str, done: threading.Event) -> None:
        while True:
            last = done.is_set()  # a slice that begins after the end sees all that came before it
            path = f"{self._path}?watch=1&resourceVersion={version}&timeoutSeconds={1 if last else SLICE}"
            answer = self._api.ask("GET", path, timeout=SLICE + 30)
            assert answer.status == 200, answer.text
            for line in answer.text.splitlines():
                event = json.loads(line)
                assert event["type"] in {"ADDED", "MODIFIED", "DELETED"}, line
                version = event["object"]["metadata"]["resourceVersion"]
                self._note(event["type"], event["object"])
            if last:
                return

    def _note(self, kind: str, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        is_over = kind == "DELETED" or pod["status"].get("phase") in {"Succeeded", "Failed"}
        if pod["status"].get("reason") == "NodePorts":
            self.conflicts.append(f"the kubelet refused {pod['metadata']['name']}")
        if is_over or not pod["spec"].get("nodeName"):
            self._live.pop(uid, None)
            return
        if uid not in self._live:
            self.seen += 1
            self.conflicts += [_both(pod, other) for other in self._live.values() if clash(pod, other)]
        self._live[uid] = pod


def clash(one: Pod, other: Pod) -> bool:
    """Whether two Pods cannot both stand where they stand."""
    return one["spec"]["nodeName"] == other["spec"]["nodeName"] and any(
        a[1:] == b[1:] and (a[0] == b[0] or "0.0.0.0" in {a[0], b[0]})
        for a, b in itertools.product(_keys(one), _keys(other))
    )


def _keys(pod: Pod) -> list[PortKey]:
    return [
        (each.get("hostIP") or "0.0.0.0", each.get("protocol", "TCP"), each["hostPort"])
        for container in pod["spec"]["containers"]
        for each in container.get("ports", [])
    ]


def _both(one: Pod, other: Pod) -> str:
    names = " and ".join(each["metadata"]["name"] for each in (one, other))
    return f"{names} on {one['spec']['nodeName']}: {_keys(one)}, {_keys(other)}"


_503 = ("503", *(f"{reason.name}: " for reason in Reason if reason.code.admission_status == 503))
"""What the API server says of such an answer of the webhook's: its own words, or those that came with it."""


@dataclass
class Tally:
    """What the clients were answered."""

    created: list[float] = field(default_factory=list)  # when, monotonic
    unavailable: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def longest_pause(self, begin: float, end: float) -> float:
        """Seconds without a creation, at most, between two moments."""
        inside = [begin, *sorted(at for at in self.created if begin < at < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(inside))


class Clients:
    """Each creates Pods of two kinds in turn, with numbers that the allocator picks and with its own, and deletes them."""

    def __init__(self, api: Https, namespace: str, spec: Mapping[str, Any], *, count: int, webhook: str) -> None:
        self._api, self._path, self._spec, self._count = api, f"/api/v1/namespaces/{namespace}/pods", spec, count
        self._webhook = webhook
        self.tally = Tally()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Works until the context ends, then deletes what is left."""
        done = threading.Event()
        with ThreadPoolExecutor(self._count) as threads:
            clients = [threads.submit(self._work, number, done) for number in range(self._count)]
            try:
                yield
            finally:
                done.set()
                for client in clients:
                    client.result()

    def _work(self, number: int, done: threading.Event) -> None:
        names: list[str] = []
        for turn in itertools.count():
            if done.is_set():
                break
            names += self._create(self._pod(number, turn))
            if len(names) > KEPT:
                self._delete(names.pop(0))
        for name in names:
            self._delete(name)

    def _pod(self, number: int, turn: int) -> Pod:
        """An indexed one returns under its name while its predecessor may still be there for the allocator."""
        if turn % 2:
            return bare_pod(f"dynamic-{number}-{turn}", DYNAMIC, port(80), port(81, protocol="UDP"), **self._spec)
        index = number * (KEPT + 1) + turn // 2 % (KEPT + 1)
        return bare_pod(f"indexed-{index}", hostport(min_port=23000, stride=500), port(80), port(81), **self._spec)

    def _create(self, pod: Pod) -> list[str]:
        answer = self._api.ask("POST", self._path, pod, timeout=40)
        if answer.status == 201:
            self.tally.created.append(time.monotonic())
            return [pod["metadata"]["name"]]
        message = answer.json.get("message", "").replace(self._webhook, "")  # its port may have a 503 in it
        if answer.status == 500 and "failed calling webhook" in message and any(each in message for each in _503):
            self.tally.unavailable += 1
        else:
            self.tally.others[f"{answer.status} {message}"] += 1
        return []

    def _delete(self, name: str) -> None:
        answer = self._api.ask("DELETE", f"{self._path}/{name}", {"gracePeriodSeconds": 0})
        assert answer.status in {200, 404}, answer.text
