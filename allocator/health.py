"""How this allocator is at one moment: the one value that GetStatus, the page, /metrics and /readyz tell.

Rules:

* `Health.snapshot` is the one place that computes it, so that no two of them disagree.
* Nothing is decided here, and a snapshot is to be had at any time: who asks why an allocator does not serve is told.
* How far the start is, and that the stop has begun, is written by the lifecycle alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from allocator.engine import Engine
from allocator.journal.contract import Journal

LAGGING_SECONDS = 10.0
"""A view that was not proven current for so long is told of. A proof takes up to five seconds in a quiet cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceInfo:
    """What does not change while the program runs."""

    version: str
    name: str  # of its Pod, or of its machine
    cluster: str  # where nodes and Pods come from, as in --cluster
    journal: str = "memory"  # its kind
    journal_path: str = ""
    started: float = 0.0  # seconds since the epoch
    epoch: str = ""  # what tells this start in the Lease; empty where there is none


class ServingLease(Protocol):
    """The Lease by which one allocator serves."""

    @property
    def place(self) -> tuple[str, str]:
        """Its namespace and name."""

    @property
    def identity(self) -> str:
        """What we write into it as its holder."""

    def is_valid(self) -> bool:
        """Whether it is ours, so that we may answer."""


class OwnCertificate(Protocol):
    """A certificate that this allocator makes for itself."""

    @property
    def missing(self) -> str | None:
        """Why there is none yet; None: there is one."""

    @property
    def trouble(self) -> str:
        """What keeps us from renewing it now; empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHealth:
    """The Lease as one snapshot has it."""

    namespace: str
    name: str
    identity: str
    is_held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchHealth:
    """The view of the cluster as one snapshot has it."""

    lag: float  # seconds since it was last proven current; infinite until it was
    relists: int  # lists that were needed because history was lost
    unseen: Sequence[str] = ()  # what is not seen of the cluster, in sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSnapshot:
    """See the module."""

    is_serving: bool  # it answers: it is told to serve, and holds the Lease where there is one
    is_standing_by: bool  # another serves, and this one could take over at once
    holds_lease: bool  # also where there is no Lease
    served_by: str  # the Pod of another allocator that serves; empty where none is known
    waiting_for: str  # why it does not serve; empty while it does
    checks: Mapping[str, str | None]  # of /readyz: what must hold, each with None or with what is wrong
    notes: Sequence[str]  # what people should know, though nothing is wrong with answering
    journal_trouble: str
    set_aside: Sequence[str]  # damaged journals that nobody has acknowledged
    unsaved: int  # changes of the cluster that could not be journalled
    clock_steps: int
    certificates: Mapping[str, float]  # when each of ours ends: seconds since the epoch, by name
    authorities: Mapping[str, float]  # when each trusted one ends: the same, by fingerprint
    watch: WatchHealth | None  # None: there is none
    lease: LeaseHealth | None  # None: there is none


@dataclass(slots=True, kw_only=True)
class Health:
    """Computes snapshots. The last four fields are the lifecycle's to write."""

    engine: Engine
    journal: Journal  # below that of leases
    info: InstanceInfo
    certificates: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    authorities: Callable[[], Mapping[str, float]] = dict
    own_certificate: OwnCertificate | None = None
    lease: ServingLease | None = None
    waiting_for: Callable[[], str] = str  # what the start waits for; empty: for nothing that it knows of
    is_journal_read: bool = False
    is_followed: bool = False  # whether the cluster has been seen once
    is_stopping: bool = False

    def snapshot(self) -> HealthSnapshot:
        """How it is now."""
        engine, journal = self.engine, self.journal
        watch = engine.around.watch
        is_serving = self.may_answer()
        return HealthSnapshot(
            is_serving=is_serving,
            is_standing_by=self.is_standing_by(),
            holds_lease=engine.holds_lease(),
            served_by=engine.around.who_serves(),
            waiting_for="" if is_serving else self._obstacle(),
            checks=self._checks(),
            notes=self._notes(),
            journal_trouble=journal.trouble,
            set_aside=journal.set_aside,
            unsaved=len(engine.changes.unsaved),
            clock_steps=sum(engine.clock.steps.values()),
            certificates={name: ends() for name, ends in sorted(self.certificates.items())},
            authorities=self.authorities(),
            watch=WatchHealth(lag=watch.lag(), relists=watch.relists(), unseen=watch.unseen()) if watch else None,
            lease=self._lease(),
        )

    def may_answer(self) -> bool:
        """Whether callers may be answered and the cluster be written to: we are told to serve, and hold the Lease."""
        return self.engine.is_serving and self.engine.holds_lease()

    def is_standing_by(self) -> bool:
        """Whether another serves, and we could take over at once: a standby is ready, so that a rollout goes on."""
        if not self.engine.around.who_serves() or self.is_stopping or not self.is_followed:
            return False
        return self.own_certificate is None or self.own_certificate.missing is None

    def first_view(self) -> str:
        """What a start waits for that has not seen the whole cluster, and how far it is."""
        watch = self.engine.around.watch
        progress = watch.progress() if watch else ""
        return f"the first full view of {self.info.cluster}" + (f": {progress}" if progress else "")

    def _obstacle(self) -> str:
        if self.engine.is_serving:
            return "its Lease, which it cannot renew: another allocator may take over"
        if other := self.engine.around.who_serves():
            return f"its turn: it stands by, and {other} serves"
        return self.waiting_for()

    def _checks(self) -> dict[str, str | None]:
        is_synced = self.engine.is_serving or self.is_stopping or self.is_standing_by()
        return {
            "journal": None if self.is_journal_read else self.journal.trouble or "it is being read",
            "cluster": None if is_synced else f"waiting for {self.waiting_for() or self.first_view()}",
            **({"certificate": self.own_certificate.missing} if self.own_certificate else {}),
            "stopping": "SIGTERM was received" if self.is_stopping else None,
        }

    def _notes(self) -> list[str]:
        engine, watch = self.engine, self.engine.around.watch
        notes = [
            f"the journal was damaged and set aside as {aside}, which nobody has acknowledged:"
            f" python -m allocator journal acknowledge {self.info.journal_path}"
            for aside in self.journal.set_aside
        ]
        if self.is_journal_read and self.journal.trouble:
            notes.append(f"the journal takes no commits: {self.journal.trouble}")
        if steps := sum(engine.clock.steps.values()):
            notes.append(f"the wall clock was set, or this process stopped, {steps} times since the start: see the log")
        if other := engine.around.who_serves():
            notes.append(f"standing by: {other} serves")
        if watch and LAGGING_SECONDS < watch.lag() < math.inf:
            notes.append(f"the view of the cluster was last proven current {watch.lag():.0f} seconds ago")
        notes += watch.unseen() if watch else []
        if self.own_certificate and self.own_certificate.trouble:
            notes.append(f"certificates: {self.own_certificate.trouble}")
        return notes

    def _lease(self) -> LeaseHealth | None:
        if self.lease is None:
            return None
        namespace, name = self.lease.place
        return LeaseHealth(namespace=namespace, name=name, identity=self.lease.identity, is_held=self.lease.is_valid())
