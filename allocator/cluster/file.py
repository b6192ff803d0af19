"""`--cluster file:PATH`: a YAML or JSON list of Nodes and Pods (and Namespaces and Services), reread when it changes.

Rules:

* The file is the whole truth: a Pod that is not in it is gone. So it is used only when it parses as a whole, and a
  writer should replace it by rename. What does not parse, whatever the reason, is reported, and the last good content
  stays in force: a file is data, and none ends the process.
* The view is proven up to the file's modification time, which cannot be later than the time when it was looked at.
* A file that has never listed a Pod cannot confirm one, so that no reservation expires for want of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.contract import Observer
from allocator.cluster.messages import observed_pod
from allocator.cluster.objects import (
    addressed_namespace,
    as_message,
    enforced_level,
    flatten,
    parse_node,
    parse_service_ports,
)
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import ClusterChange, ObservedPod, PodUid
from allocator.core.foreign import ObservedService, ServiceName
from allocator.slices import in_turns, slices

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file says."""

    nodes: dict[NodeName, Node] = field(default_factory=dict)
    pods: dict[PodUid, ObservedPod] = field(default_factory=dict)
    enforced: dict[str, str] = field(default_factory=dict)
    addressed: set[str] = field(default_factory=set)  # the namespaces whose Pods are told an address
    services: dict[ServiceName, ObservedService] = field(default_factory=dict)


def parse(text: str) -> FileContent:
    """The content of a cluster file; other kinds of objects are passed over.

    Raises:
        ValueError: the text is neither JSON nor YAML, or an object is malformed.

    """
    try:
        return _content(text)
    except ValueError:
        raise
    except Exception as error:  # one kind of error for data: what stands in a file may fail in any way
        raise ValueError(f"what it says makes no sense: {type(error).__name__}: {error}") from error


def _content(text: str) -> FileContent:
    content = FileContent()
    for obj in flatten(_parsed_documents(text)):
        match obj.get("kind"):
            case "Node":
                node = parse_node(obj)
                content.nodes[node.name] = node
            case "Pod":
                pod = observed_pod(as_message(obj, pb.Pod))
                content.pods[pod.uid] = pod
            case "Service":
                service = parse_service_ports(obj)
                content.services[service.full_name] = service
            case "Namespace":
                content.enforced.update(filter(None, [enforced_level(obj)]))
                content.addressed.update(filter(None, [addressed_namespace(obj)]))
    return content


def _parsed_documents(text: str) -> Iterable[Any]:
    if text.lstrip()[:1] in {"{", "["}:
        return [json.loads(text)]
    try:
        return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise ValueError(f"neither JSON nor YAML: {error}") from error


class FileCluster:
    """See the module. `now` is the clock by which reservations end, `wall` the one by which files are dated."""

    def __init__(
        self,
        path: Path,
        *,
        poll_seconds: float = POLL_SECONDS,
        now: Callable[[], float] = time.time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._now = now
        self._wall = wall
        self._looked = float("-inf")
        self._poll_seconds = poll_seconds
        self._synced = asyncio.Event()
        self._content = FileContent()
        self._lists_pods = False
        self._last_stat: tuple[int, int, int] | None = None
        self._last_trouble = ""

    async def run(self, observer: Observer) -> None:
        """Looks at the file every `poll_seconds`, and tells what is new in it, for ever."""
        while True:
            await self._look(observer)
            await asyncio.sleep(self._poll_seconds)

    async def synced(self) -> None:
        await self._synced.wait()

    async def _look(self, observer: Observer) -> None:
        """Reads the file if it changed; reports trouble once, until it is another."""
        at, wall, before = self._now(), self._wall(), self._looked
        self._looked = at
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._last_stat:
                return
            content = await asyncio.to_thread(lambda: parse(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            self._report(str(error) or repr(error))
            return
        self._last_stat, self._last_trouble = seen, ""
        await self._tell(observer, content)
        age = wall - stat.st_mtime
        observer.proven(at - age if age >= 0 else before)  # a file of the future: the wall clock was set back
        self._synced.set()

    def _report(self, trouble: str) -> None:
        if trouble != self._last_trouble:
            self._last_trouble = trouble
            state = "the last good content stays in force" if self._synced.is_set() else "waiting for it"
            log.warning("cluster file %s cannot be used (%s): %s", self._path, trouble, state)

    async def _tell(self, observer: Observer, content: FileContent) -> None:
        """In steps, between which others are served: Nodes first, then what is gone, then what is new."""
        old, self._content = self._content, content
        known_pods = list(observer.known_pods())
        self._lists_pods = self._lists_pods or bool(content.pods or known_pods)
        observer.observe(ClusterChange(enforced=content.enforced, addressed=content.addressed, lists_pods=False))
        gone_services = old.services.keys() - content.services.keys()
        services = _changed(old.services, content.services)
        observer.observe(ClusterChange(gone_services=gone_services, services=services, lists_pods=False))
        for gone_nodes in slices(_gone_nodes(old.nodes, content.nodes), lambda _: observer.node_weight()):
            for name in gone_nodes:
                await in_turns(observer.close_sockets(name))
            observer.observe(ClusterChange(gone_nodes=gone_nodes, lists_pods=self._lists_pods))
            await asyncio.sleep(0)
        changed = await asyncio.to_thread(_changed, old.nodes, content.nodes)
        for nodes in slices(changed, lambda _: observer.node_weight()):
            observer.observe(ClusterChange(nodes=nodes, lists_pods=self._lists_pods))
            await asyncio.sleep(0)
        for gone_pods in slices((uid for uid in known_pods if uid not in content.pods), observer.pod_weight):
            observer.observe(ClusterChange(gone_pods=gone_pods, lists_pods=self._lists_pods))
            await asyncio.sleep(0)
        for pods in slices(await asyncio.to_thread(_changed, old.pods, content.pods), lambda pod: 1 + len(pod.ports)):
            observer.observe(ClusterChange(pods=pods, lists_pods=self._lists_pods))
            await asyncio.sleep(0)
        observer.observe(ClusterChange(lists_pods=self._lists_pods))


def _gone_nodes(old: Mapping[NodeName, Node], new: Mapping[NodeName, Node]) -> list[NodeName]:
    """Those that are not there any more, or were made anew (see `sinks`)."""
    return [name for name, node in old.items() if name not in new or node.is_another(new[name].uid)]


K = TypeVar("K")
V = TypeVar("V")


def _changed(old: Mapping[K, V], new: Mapping[K, V]) -> list[V]:
    """What is new or differs."""
    return [value for key, value in new.items() if old.get(key) != value]
