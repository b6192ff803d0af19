"""The allocator that a command line asks for: the collaborators that the flags name, put together by `build`."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allocator.app.build import Application, Collaborators, build
from allocator.clock import Clock
from allocator.cluster.contract import IMPLICIT_NODE, NoCluster, Source
from allocator.cluster.file import FileCluster
from allocator.config import Config
from allocator.core.admission import LedgerRules, Shares
from allocator.core.ledger import Ledger
from allocator.health import InstanceInfo
from allocator.journal.contract import Journal
from allocator.metrics import AllocatorMetrics
from hostport.version import VERSION

if TYPE_CHECKING:
    from allocator.app.kubernetes import KubernetesParts
    from allocator.leases.reconciler import LeaseReconciler


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """An application, and what runs beside it."""

    config: Config
    journal: Journal  # the one on disk or in memory, below that of leases
    application: Application
    source: Source
    kubernetes: KubernetesParts | None = None  # what only an API server makes possible
    reconciler: LeaseReconciler | None = None


def assemble(config: Config, journal: Journal, metrics: AllocatorMetrics) -> Assembly:
    """Puts together what the flags say. Called inside the event loop that runs it.

    metrics: the allocator's, which the journal tells of its commits.
    """

    def may_answer() -> bool:
        return application.health.may_answer()  # asked only while it runs, when there is an application

    clock = Clock(counts=may_answer)
    given = _collaborators(config, journal, clock, metrics)
    if config.cluster != "kubernetes":
        application = build(given)
        return Assembly(config=config, journal=journal, application=application, source=_source(config, clock))
    # Costs 0.3 s and 44 MiB that other clusters do not need.
    from allocator.app.kubernetes import kubernetes_parts  # noqa: PLC0415

    parts = kubernetes_parts(config, journal, clock, may_answer)
    application = build(parts.joined(given, config))
    return Assembly(
        config=config,
        journal=journal,
        application=application,
        source=parts.watch,
        kubernetes=parts,
        reconciler=parts.reconciler(application.engine, journal),
    )


def _collaborators(config: Config, journal: Journal, clock: Clock, metrics: AllocatorMetrics) -> Collaborators:
    """Those that there are in any cluster."""
    info = InstanceInfo(
        version=VERSION,
        name=config.pod_name or socket.gethostname(),
        cluster=config.cluster,
        journal=journal.kind,
        journal_path=str(journal.path or ""),
        started=clock.wall(),
    )
    rules = _rules(config)
    return Collaborators(
        ledger=Ledger(rules),
        journal=journal,
        clock=clock,
        metrics=metrics,
        info=info,
        discloses_holders=rules.discloses_holders,
    )


def _rules(config: Config) -> LedgerRules:
    return LedgerRules(
        reserved=config.reserved_ports.numbers,
        reserved_for=config.reserved_ports.owners,
        discloses_holders=config.disclose_holders == "all",
        reservation_seconds=config.reservation_ttl,
        when_full=config.when_full,
        cool_down=config.cool_down,
        reuse=config.reuse,
        shares=Shares(
            reservations=config.namespace_reservations,
            reserved_ports=config.namespace_reserved_ports,
            leases=config.namespace_leases,
        ),
        implicit_node=IMPLICIT_NODE if config.cluster == "none" else None,
    )


def _source(config: Config, clock: Clock) -> Source:
    """Where there is no API server."""
    if config.cluster.startswith("file:"):
        return FileCluster(Path(config.cluster.removeprefix("file:")), now=clock)
    if config.cluster == "none":
        return NoCluster()
    raise AssertionError(f"nothing makes the view of --cluster {config.cluster}")  # `Config` takes it
