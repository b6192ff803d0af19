"""The allocator behind the fuzzed reviews: what its books hold, and how its Pods come and go."""

from __future__ import annotations

import asyncio
from typing import Any

from allocator.core.admission import LedgerRules, Shares
from allocator.core.candidates import Taint
from allocator.core.claims import ClaimId, ClusterChange
from allocator.core.ports import parse_numbers
from testing.kit import lease, node
from testing.observing import parse_pod
from testing.servicekit import Running

from .reviews import NODES, Json

RULES = LedgerRules(
    reserved=parse_numbers("22,6443,7003"), shares=Shares(reservations=40, reserved_ports=1_200, leases=50)
)
CLUSTER = [
    node(NODES[0], labels={"zone": "a", "rank": "1"}),
    node(NODES[1], labels={"zone": "a", "rank": "2"}),
    node(NODES[2], labels={"zone": "b"}),
    node(NODES[3], labels={"zone": "b"}, taints=(Taint(key="dedicated", value="x", effect="NoSchedule"),)),
]
LEASE = ClaimId("e" * 32)


def furnish(service: Running) -> None:
    """Four nodes, a namespace that enforces Pod Security, and a lease on 7001."""
    service.engine.maintenance.observe(ClusterChange(nodes=CLUSTER, lists_pods=True))
    service.engine.maintenance.observe(ClusterChange(enforced={"guarded": "restricted"}, lists_pods=False))
    service.engine.ledger.reserve(lease("lobby", "x:1=7001", policy="Static"), LEASE, service.now)
    service.engine.ledger.publish(LEASE)


def contents(service: Running) -> dict[str, Any]:
    """What the allocator remembers of anybody. The indexes over the claims: see `storekit`."""
    engine = service.engine
    return {
        "claims": dict(engine.ledger._claims),
        "pending": set(engine.ledger._store.pending),
        "answers of": dict(engine._answers._of),
        "under way": set(engine._answers.under_way),
    }


class Pods:
    """The Pods that were created after their admission, in order."""

    MOST = 25

    def __init__(self, service: Running) -> None:
        self._service = service
        self._living: list[str] = []

    def create(self, obj: Json, uid: str, at: str) -> None:
        """A Pod is stored as it was admitted, with a name, and has a node or none yet."""
        metadata = obj["metadata"]
        name = metadata.get("name") or f"{metadata.get('generateName') or 'x'}{uid[:5]}"
        spec = obj["spec"] | ({"nodeName": at} if at else {})
        stored = parse_pod({"metadata": metadata | {"uid": uid, "name": name}, "spec": spec})
        self._service.engine.maintenance.observe(ClusterChange(pods=[stored], lists_pods=True))
        self._living.append(uid)
        while len(self._living) > self.MOST:
            self._service.engine.maintenance.observe(ClusterChange(gone_pods=[self._living.pop(0)], lists_pods=True))  # type: ignore[list-item]

    async def pass_time(self, seconds: float) -> None:
        """What is due by then has ended afterwards."""
        self._service.now += seconds
        self._service.engine.maintenance.proven(self._service.now)
        self._service.engine.maintenance.tick()
        while self._service.engine.changes.ending:
            await asyncio.sleep(0)
