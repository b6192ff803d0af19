"""How this allocator is, for people and their tools: what GetStatus answers. Nothing is decided here.

It answers while nothing else does: who asks why an allocator does not serve must be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized

from google.protobuf.duration_pb2 import Duration

from allocator.access.guard import RecentCallers
from allocator.core.claims import LIVE_STATES
from allocator.health import Health, HealthSnapshot
from allocator.wire import STATES, to_timestamp
from hostport.v1 import allocator_pb2 as pb


class Status:
    """See the module."""

    def __init__(self, health: Health, agents: Sized) -> None:
        """agents: those of nodes that are connected."""
        self.callers = RecentCallers(health.engine.clock.wall)
        self._health = health
        self._agents = agents
        self._started = health.engine.clock.wall()

    def response(self) -> pb.GetStatusResponse:
        """The answer to GetStatus: one snapshot of health, the counts of claims, and who called lately."""
        engine, info, tally = self._health.engine, self._health.info, self._health.engine.ledger.claims.tally()
        now, health = engine.clock.wall(), self._health.snapshot()
        return pb.GetStatusResponse(
            version=info.version,
            start_time=to_timestamp(self._started),
            current_time=to_timestamp(now),
            cluster=info.cluster.partition(":")[0],
            serving=health.is_serving,
            waiting_for=health.waiting_for,
            journal=pb.GetStatusResponse.Journal(
                kind=info.journal, set_aside=", ".join(health.set_aside), unsaved_count=health.unsaved
            ),
            watch=_watch(health, now),
            lease=_lease(health),
            claims=[
                pb.GetStatusResponse.StateCount(state=STATES[state], count=tally.states.get(state, 0))
                for state in LIVE_STATES
            ],
            unplaceable_count=tally.unplaceable,
            outsider_count=tally.unmanaged,
            node_count=tally.known_nodes,
            certificates=_ends(health.certificates),
            authorities=_ends(health.authorities),
            callers=[
                pb.GetStatusResponse.Caller(
                    program=one.program, version=one.version, address=one.address, call_time=to_timestamp(one.at)
                )
                for one in self.callers.recent()
            ],
            clock_step_count=health.clock_steps,
            agent_count=len(self._agents),
        )


def _ends(ends: Mapping[str, float]) -> list[pb.GetStatusResponse.Certificate]:
    """`ends`: seconds since the epoch by name."""
    return [pb.GetStatusResponse.Certificate(name=name, expire_time=to_timestamp(end)) for name, end in ends.items()]


def _watch(health: HealthSnapshot, now: float) -> pb.GetStatusResponse.Watch | None:
    if health.watch is None:
        return None
    told, lag = (
        pb.GetStatusResponse.Watch(relist_count=health.watch.relists, unseen=health.watch.unseen),
        health.watch.lag,
    )
    if lag < math.inf:
        told.proof_time.CopyFrom(to_timestamp(now - lag))
        told.lag.CopyFrom(Duration(seconds=int(lag), nanos=int(lag % 1 * 1e9)))
    return told


def _lease(health: HealthSnapshot) -> pb.GetStatusResponse.Lease | None:
    lease = health.lease
    if lease is None:
        return None
    return pb.GetStatusResponse.Lease(
        namespace=lease.namespace,
        name=lease.name,
        identity=lease.identity,
        held=lease.is_held,
        served_by=health.served_by,
    )
