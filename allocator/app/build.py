"""The composition root: the one place where an allocator is put together.

`build` makes it around collaborators. Production gives it those that the flags name (`assembly`); tests and benchmarks
give it journals, clocks and views of their own. Nothing here runs: what happens over time is the affair of `lifecycle`.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allocator.access.guard import Guard
from allocator.agents import Agents, AgentStreams
from allocator.clock import Clock
from allocator.cluster.contract import Watch
from allocator.cluster.correlator import ObjectEvent
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger
from allocator.decisions import Decisions
from allocator.engine import Engine
from allocator.health import Health, InstanceInfo, OwnCertificate, ServingLease
from allocator.journal.contract import Journal
from allocator.maintenance import Surroundings
from allocator.metrics import AllocatorMetrics, StateCollector
from allocator.page.access import PageAccess
from allocator.page.handlers import StatusPage, page
from allocator.page.views import Views
from allocator.reports import Reports, nobody
from allocator.service import AllocatorService
from allocator.status import Status
from allocator.upcoming import Upcoming
from hostport.version import VERSION

if TYPE_CHECKING:
    from allocator.leases.reconciler import PortLeases


def new_id() -> ClaimId:
    """A fresh claim id: 32 hexadecimal digits."""
    return ClaimId(secrets.token_hex(16))


def this_machine() -> InstanceInfo:
    """An allocator on this machine that follows no cluster and keeps its journal in memory."""
    return InstanceInfo(version=VERSION, name=socket.gethostname(), cluster="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What an allocator is built around. What has a default need not be there."""

    ledger: Ledger
    journal: Journal
    clock: Clock  # the one by which claims end, whose reading the journal keeps
    new_id: Callable[[], ClaimId] = new_id
    metrics: AllocatorMetrics = field(default_factory=AllocatorMetrics)  # of the journal, too, where it tells any
    info: InstanceInfo = field(default_factory=this_machine)
    discloses_holders: bool = False  # whether an Event names a holder of another namespace
    guard: Guard = field(default_factory=Guard)
    watch: Watch | None = None  # a view of the cluster that can be asked
    event: Callable[[ObjectEvent], None] = nobody
    event_counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    lease: ServingLease | None = None
    holds_lease: Callable[[], bool] | None = None  # None: there is no Lease
    who_serves: Callable[[], str] = str  # another allocator, while this one stands by
    leases: PortLeases | None = None  # leases as objects of the API server
    lease_namespace: str = ""  # of leases whose owners name none
    own_certificate: OwnCertificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An allocator without its servers and its loops."""

    engine: Engine
    metrics: AllocatorMetrics
    reports: Reports
    decisions: Decisions
    health: Health
    status: Status
    agents: Agents
    service: AllocatorService

    def page(self, access: PageAccess) -> StatusPage:
        """The status page, for whom `access` lets in."""
        views = Views(engine=self.engine, decisions=self.decisions, info=self.health.info, health=self.health.snapshot)
        return page(views, access)


def build(given: Collaborators) -> Application:
    """Puts an allocator together. It serves when its journal was read (`Recovery.restore`) and it is told to."""
    metrics, streams = given.metrics, AgentStreams()
    reports = Reports(discloses_holders=given.discloses_holders, event=given.event)
    upcoming = Upcoming(given.ledger.nodes, streams.report_now)
    engine = _engine(given, reports, streams, upcoming)
    health = Health(
        engine=engine,
        journal=given.journal,
        info=given.info,
        certificates=metrics.certificates,
        authorities=metrics.trusted,
        own_certificate=given.own_certificate,
        lease=given.lease,
    )
    decisions, agents = Decisions(), Agents(engine, streams, upcoming)
    metrics.registry.register(StateCollector(health, agents, events=given.event_counts))
    status = Status(health, agents)
    return Application(
        engine=engine,
        metrics=metrics,
        reports=reports,
        decisions=decisions,
        health=health,
        status=status,
        agents=agents,
        service=AllocatorService(
            engine,
            metrics,
            reports,
            status,
            given.guard,
            decisions,
            agents=agents,
            lease_namespace=given.lease_namespace,
        ),
    )


def _engine(given: Collaborators, reports: Reports, streams: AgentStreams, upcoming: Upcoming) -> Engine:
    return Engine(
        ledger=given.ledger,
        durability=given.leases.durability if given.leases else given.journal,
        clock=given.clock,
        new_id=given.new_id,
        around=Surroundings(
            watch=given.watch,
            holds_lease=given.holds_lease,
            who_serves=given.who_serves,
            report=reports.incident,
            report_now=streams.report_now,
            decided=given.metrics.decide_seconds.observe,
            committed=given.metrics.commit_seconds.observe,
        ),
        upcoming=upcoming,
    )
