"""Nodes without machines, and a kubelet that only says so: bound Pods run at once, terminating ones go at once.

A Pod with the annotation LINGERS uses all of its grace period.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from e2e.api import MERGE_PATCH, Https
from e2e.processes import repeating

PACE = 0.1
LINGERS = "e2e.hostport.io/lingers"
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"}
READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "so it says"}

log = logging.getLogger(__name__)


class Fleet:
    """The nodes, and one kubelet for all of them. It still ends the Pods of a node that was removed."""

    def __init__(self, api: Https) -> None:
        self._api = api
        self._addresses: dict[str, str] = {}

    def add(self, name: str, **labels: str) -> None:
        """A node that is ready at once."""
        self._addresses[name] = f"192.0.2.{len(self._addresses) % 254 + 1}"
        _create_node(self._api, name, self._addresses[name], labels)

    def remove(self, name: str) -> None:
        self._api.ask("DELETE", f"/api/v1/nodes/{name}")

    def look_once(self) -> None:
        """resourceVersion=0 reads the API server's cache, as a kubelet does. Without nodes there is nothing to look for."""
        if not self._addresses:
            return
        answer = self._api.ask("GET", "/api/v1/pods?resourceVersion=0")
        if answer.status != 200:
            log.warning("fake kubelet: %s", answer.text)
            return
        for pod in answer.json["items"]:
            if pod["spec"].get("nodeName") in self._addresses:
                self._tend(pod)

    def _tend(self, pod: Mapping[str, Any]) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        preconditions = {"preconditions": {"uid": meta["uid"]}}
        if "deletionTimestamp" in meta:
            # With grace 0 it waits for a finalizer, not for us.
            if meta.get("deletionGracePeriodSeconds") != 0 and not _lingers(meta):
                self._api.ask("DELETE", path, {"gracePeriodSeconds": 0} | preconditions)
        elif pod["status"]["phase"] == "Pending":
            status = _running(pod, self._addresses[pod["spec"]["nodeName"]])
            patch = {"metadata": {"uid": meta["uid"]}, "status": status}
            self._api.ask("PATCH", f"{path}/status", patch, content_type=MERGE_PATCH)


@contextlib.contextmanager
def fake_nodes(api: Https, names: Sequence[str]) -> Iterator[Fleet]:
    """Creates the nodes; their kubelet works until the context ends."""
    fleet = Fleet(api)
    for name in names:
        fleet.add(name)
    with repeating("fake-kubelet", PACE, fleet.look_once):
        yield fleet


def _lingers(meta: Mapping[str, Any]) -> bool:
    """Whether a terminating Pod wants its grace period and still has some. deletionTimestamp is where it ends."""
    if meta.get("annotations", {}).get(LINGERS) != "true":
        return False
    return datetime.now(UTC) < datetime.fromisoformat(meta["deletionTimestamp"])


def _create_node(api: Https, name: str, address: str, more: Mapping[str, str]) -> None:
    """A new Node is tainted not-ready; here nobody else would take the taint away."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **more}
    api.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    status = {
        "capacity": CAPACITY,
        "allocatable": CAPACITY,
        "conditions": [READY],
        "addresses": [{"type": "InternalIP", "address": address}],
    }
    api.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=MERGE_PATCH)
    answer = api.ask("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, content_type=MERGE_PATCH)
    if answer.status != 200:
        raise RuntimeError(f"node {name}: {answer.text}")


def _running(pod: Mapping[str, Any], address: str) -> dict[str, Any]:
    now = pod["metadata"]["creationTimestamp"]
    return {
        "phase": "Running",
        "hostIP": address,
        "startTime": now,
        "conditions": [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready")],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }
