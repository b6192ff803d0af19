"""The interface between the allocator and its view of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange, PodUid
from allocator.core.foreign import ServiceName


class Observer(Protocol):
    """Who wants to know."""

    def observe(self, change: ClusterChange) -> None:
        """Takes what changed since the last call, in memory and at once; the iterables are gone through once."""

    def proven(self, until: float) -> None:
        """The view reaches this far: whoever existed then has been told. By the clock by which reservations end."""

    def known_pods(self) -> Collection[PodUid]:
        """The Pods that hold something: one of them that a full list lacks is gone."""

    def pod_weight(self, uid: PodUid) -> int:
        """What the end of a Pod that holds something weighs, in ports (see `slices`)."""

    def node_weight(self) -> int:
        """What one Node that changed weighs: as many ports of Pods would take as long to tell (see `slices`)."""

    def close_sockets(self, name: NodeName) -> Iterator[None]:
        """Before a Node is told as gone: closes what its agent said is open there, in steps."""


class Source(Protocol):
    """A view of the cluster."""

    async def run(self, observer: Observer) -> None:
        """Tells the observer what there is, then what changes, for ever.

        What there is includes which of `known_pods` are gone. Calls `proven` when all of that is told, and each time
        that the view is known to be current.
        """

    async def synced(self) -> None:
        """Returns when the observer has been told everything once."""


@dataclass(frozen=True, slots=True)
class PodRef:
    """Which Pod."""

    namespace: str
    name: str
    uid: PodUid


class Watch(Source, Protocol):
    """A view that can fall behind what it shows."""

    def progress(self) -> str:
        """How far the first full view is, for people; empty before it begins."""

    def lag(self) -> float:
        """Seconds since the view was last proven current; infinite until it was."""

    def relists(self) -> int:
        """How often history was lost, so that everything had to be listed anew."""

    def unseen(self) -> list[str]:
        """What is not seen of the cluster, as a right is missing or nobody answers, and what follows, in sentences."""

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        """Looks some Pods up and tells the observer what has become of them; False where that did not succeed.

        `asker` is the namespace for which it is done: the looks of one do not use up those of others.
        """

    async def look_up_services(self, services: Collection[ServiceName], asker: str) -> bool:
        """Looks some Services up that hold numbers, likewise."""

    def mark(self) -> int:
        """Marks this moment, for `caught_up`."""

    async def caught_up(self, mark: int, version: int | None) -> None:
        """Returns when the observer has been told every Pod that was stored at the moment that was marked.

        `version`: the version of the last of them, where somebody knows it; None: nobody does.
        """

    def latest(self) -> int:
        """The version of the newest Pod that was told."""

    def hurry(self) -> None:
        """Somebody waits for `proven`: it should come soon."""


IMPLICIT_NODE = NodeName("localhost")


class NoCluster:
    """`--cluster none`: one implicit node, about which every ask is, and nobody who could confirm a Pod.

    The node is part of the ledger's rules, so that nothing has to be told.
    """

    async def run(self, observer: Observer) -> None:
        await asyncio.Event().wait()

    async def synced(self) -> None:
        return
