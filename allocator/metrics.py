"""What the allocator tells Prometheus.

What happens in a request is counted as it happens (`AllocatorMetrics`). How things stand is read when it is asked for
(`StateCollector`): from counters that are kept anyway, from one snapshot of health, and from a scan of the nodes that
runs beside the decisions (`core.watch.utilization`). So a scrape costs much the same for ten nodes as for five
thousand, and has as many series.

Longer than 350 lines because every metric is described here, once for the program and for docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from allocator.agents import Agents
from allocator.clock import Step
from allocator.core.claims import LIVE_STATES, State
from allocator.core.view import Tally
from allocator.core.watch.replanner import IncidentKind
from allocator.core.watch.utilization import FULLEST_NODES, MOST_RANGES, UtilizationSnapshot, bands
from allocator.health import Health
from allocator.journal.contract import CommitMeters
from hostport.contract import Reason
from hostport.contract.policies import POLICIES, SEARCHED
from hostport.metering import (
    AUTHORITY_EXPIRY,
    BUCKETS,
    BUILD_INFO,
    CERTIFICATE_EXPIRY,
    Authorities,
    CounterChildren,
    Described,
    Sample,
)
from hostport.version import VERSION

RESULTS = (
    "`granted`, `previewed` (dry run), `refused` (the caller's fault or the state of the world), `unavailable` (ours)"
)
RANGE = f"`min-max` as the Pods asked; the {MOST_RANGES} with most claims"
QUANTILES = (0.5, 0.9, 1.0)

ALLOCATIONS = Described(
    name="hostport_allocations_total",
    kind="counter",
    help="Answers to Allocate",
    labels={
        "policy": f"of the request: {', '.join(f'`{name.upper()}`' for name in POLICIES)}, `UNSPECIFIED` or `UNKNOWN`",
        "result": RESULTS,
        "reason": "a reason of the contract; empty where it was granted",
    },
)
ALLOCATE_SECONDS = Described(
    name="hostport_allocate_seconds",
    kind="histogram",
    help="From the arrival of an Allocate call to its answer, whatever that is",
    buckets=BUCKETS,
)
DECIDE_SECONDS = Described(
    name="hostport_decide_seconds",
    kind="histogram",
    help="The decision alone, of those that were granted",
    buckets=(0.00005, 0.0001, 0.00025, *BUCKETS),
)
COMMIT_SECONDS = Described(
    name="hostport_commit_seconds",
    kind="histogram",
    help="From a decision to its being durable: the wait for the commit under way, and its own",
    buckets=BUCKETS,
)
JOURNAL_BATCH = Described(
    name="hostport_journal_batch_submissions",
    kind="histogram",
    help="How many submissions shared a commit of the journal",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
JOURNAL_SECONDS = Described(
    name="hostport_journal_commit_seconds",
    kind="histogram",
    help="One commit of the journal: an fsync",
    buckets=BUCKETS,
)
JOURNAL_FAILURES = Described(
    name="hostport_journal_failures_total",
    kind="counter",
    help="Commits of the journal that failed; they granted nothing",
)
JOURNAL_TROUBLE = Described(
    name="hostport_journal_trouble",
    kind="gauge",
    help="1 while the journal cannot be opened, or its last commit failed; `/readyz?verbose` says why",
)
JOURNAL_SET_ASIDE = Described(
    name="hostport_journal_set_aside",
    kind="gauge",
    help="Damaged journals that were set aside and that nobody has acknowledged",
)
SERVING = Described(
    name="hostport_serving", kind="gauge", help="1 while this allocator answers, 0 while it starts, waits or stops"
)
STANDBY = Described(
    name="hostport_standby", kind="gauge", help="1 while this allocator stands by and another serves, else 0"
)
CLAIMS = Described(
    name="hostport_claims",
    kind="gauge",
    help="Live claims",
    labels={"state": ", ".join(f"`{state.value}`" for state in LIVE_STATES)},
)
UNPLACEABLE = Described(
    name="hostport_unplaceable_claims",
    kind="gauge",
    help="Claims that have candidate nodes and fit on none of them: their Pods stay Pending",
)
EXPIRED = Described(
    name="hostport_expired_total",
    kind="counter",
    help="Claims whose time was up: reservations whose Pod never appeared, leases that were not renewed",
    labels={"state": "`RESERVED` or `LEASED`"},
)
NOT_LISTENING = Described(
    name="hostport_pods_not_listening",
    kind="gauge",
    help="Pods that are Ready and have not listened on all of their numbers for a minute, where there is a report",
)
AGENTS = Described(name="hostport_agents", kind="gauge", help="Agents of nodes that are connected")
REPORT_AGE = Described(
    name="hostport_agent_report_age_seconds",
    kind="gauge",
    help="Age of the oldest report that counts: what an agent said stands until it says otherwise, or its Node is gone",
)
REPORTS_REFUSED = Described(
    name="hostport_reports_refused_total",
    kind="counter",
    help="Reports that were refused, be it since their caller is no agent; the log names the nodes of the others",
    labels={"reason": "a reason of the contract"},
)
FOREIGN_PORTS = Described(
    name="hostport_foreign_ports",
    kind="gauge",
    help="Numbers that processes hold and no Pod declares, summed over the nodes whose agents report",
)
OUTSIDERS = Described(
    name="hostport_outsider_pods", kind="gauge", help="Pods with host ports that were never allocated here"
)
OUTSIDER_PORTS = Described(name="hostport_outsider_ports", kind="gauge", help="The host ports of those Pods")
NODES = Described(name="hostport_nodes", kind="gauge", help="Node objects")
INCIDENTS = Described(
    name="hostport_incidents_total",
    kind="counter",
    help="What went wrong although every decision was right",
    labels={"kind": ", ".join(f"`{kind.value}`" for kind in IncidentKind)},
)
REJECTIONS = Described(
    name="hostport_port_rejections_total",
    kind="counter",
    help="Times that Kubernetes itself found no free host port for a Pod of ours",
    labels={
        "by": "`scheduler` (the Pod waits) or `kubelet` (the Pod has failed)",
        "explained": "`true` where the books know who holds the ports; `false`: somebody is outside the books",
    },
)
DRIFT = Described(
    name="hostport_drift",
    kind="gauge",
    help="Where books and cluster disagree; 0 is the only good value",
    labels={
        "kind": "`contradicted`: claims that the scheduler turns down although the books have room; `held_twice`: ports"
        " that two Pods have on one node; `unsaved`: changes that are not in the journal yet"
    },
)
NODE_PORT_CONFLICTS = Described(
    name="hostport_node_port_conflicts",
    kind="gauge",
    help="Numbers of allocations and of Pods without one that a Service holds as well: kube-proxy takes their traffic."
    " A number of one node is counted once, however many Pods share it",
)
RANGE_USED = Described(
    name="hostport_range_used_ratio",
    kind="gauge",
    help="How full a range is on a node, in 0..1, over the nodes where anything of it is held",
    labels={
        "range": RANGE,
        "share_of_nodes": "on how many of those nodes it is no fuller: `0.5`, `0.9`, `1` (all: the fullest)",
    },
)
RANGE_NUMBERS_USED = Described(
    name="hostport_range_used_numbers",
    kind="gauge",
    help="Numbers of a range that are held, summed over the nodes where anything of it is held",
    labels={"range": RANGE},
)
RANGE_NUMBERS = Described(
    name="hostport_range_numbers",
    kind="gauge",
    help="Numbers of a range that may be handed out, summed over the same nodes",
    labels={"range": RANGE},
)
RANGE_NODES = Described(
    name="hostport_range_nodes",
    kind="gauge",
    help="Nodes on which at most this share of a range is held, of those where anything is: a histogram over nodes",
    labels={"range": RANGE, "up_to": "upper bound of the share, tenths and 0.95"},
)
NODE_RANGE_USED = Described(
    name="hostport_node_range_used_ratio",
    kind="gauge",
    help="How full a range is on the fullest nodes, in 0..1",
    labels={
        "node": f"its name; no more than {FULLEST_NODES} series at a time, whatever the size of the cluster",
        "range": RANGE,
    },
)
EVENTS = Described(
    name="hostport_events_total",
    kind="counter",
    help="Kubernetes Events",
    labels={
        "reason": ", ".join(f"`{kind.value}`" for kind in IncidentKind) + ", `Denied`",
        "result": "`written`, `refused` by the API server, `dropped` for being too many",
    },
)
WATCH_LAG = Described(
    name="hostport_watch_lag_seconds",
    kind="gauge",
    help="Since the view of the cluster was last proven current; +Inf before that (`--cluster kubernetes`)",
)
RELISTS = Described(
    name="hostport_relists_total",
    kind="counter",
    help="Lists that were needed because the API server had forgotten the history (`--cluster kubernetes`)",
)

CLOCK_STEPS = Described(
    name="hostport_clock_steps_total",
    kind="counter",
    help="Times that the wall clock was set by a second or more, or that the allocator did not run",
    labels={"kind": "`forward`, `back`: the wall clock was set; `pause`: the process or its machine was stopped"},
)

METRICS = (
    BUILD_INFO, SERVING, STANDBY, JOURNAL_TROUBLE, JOURNAL_SET_ASIDE,
    ALLOCATIONS, ALLOCATE_SECONDS, DECIDE_SECONDS, COMMIT_SECONDS, JOURNAL_BATCH, JOURNAL_SECONDS,
    JOURNAL_FAILURES, CLAIMS, UNPLACEABLE, EXPIRED, INCIDENTS, REJECTIONS, DRIFT,
    NODE_PORT_CONFLICTS, OUTSIDERS, OUTSIDER_PORTS, NODES,
    RANGE_USED, RANGE_NUMBERS_USED, RANGE_NUMBERS, RANGE_NODES, NODE_RANGE_USED, EVENTS, WATCH_LAG, RELISTS,
    CLOCK_STEPS,
    NOT_LISTENING, AGENTS, REPORT_AGE, REPORTS_REFUSED, FOREIGN_PORTS,
    CERTIFICATE_EXPIRY,
    AUTHORITY_EXPIRY,
)  # fmt: skip


class AllocatorMetrics:
    """What is counted as it happens."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        BUILD_INFO.info(registry, component="allocator", version=VERSION)
        allocations = ALLOCATIONS.counter(registry)
        for policy in SEARCHED:  # there before the first: no alert sees a counter grow that appears with a denial
            allocations.labels(policy.upper(), "refused", Reason.RANGE_EXHAUSTED)
        self.allocations = CounterChildren(allocations)
        self.allocate_seconds = ALLOCATE_SECONDS.histogram(registry)
        self.decide_seconds = DECIDE_SECONDS.histogram(registry)
        self.commit_seconds = COMMIT_SECONDS.histogram(registry)
        self._batch = JOURNAL_BATCH.histogram(registry)
        self._journal_seconds = JOURNAL_SECONDS.histogram(registry)
        self._failures = JOURNAL_FAILURES.counter(registry)
        self._expiry = CERTIFICATE_EXPIRY.gauge(registry)
        self.certificates: dict[str, Callable[[], float]] = {}
        self._trusted: Callable[[], Mapping[str, float]] = dict
        self.registry.register(Authorities(self.trusted))

    def of_journal(self) -> CommitMeters:
        """What the journal is given to tell of its commits: the library's own methods."""
        return CommitMeters(
            submissions=self._batch.observe, seconds=self._journal_seconds.observe, failed=self._failures.inc
        )

    def certificate(self, name: str, expires: Callable[[], float]) -> None:
        """From now on, when this certificate ends: seconds since the epoch."""
        self._expiry.labels(name).set_function(expires)
        self.certificates[name] = expires

    def trust(self, ends: Callable[[], Mapping[str, float]]) -> None:
        """From now on, when each authority ends that is trusted: by fingerprint, seconds since the epoch."""
        self._trusted = ends

    def trusted(self) -> Mapping[str, float]:
        return self._trusted()


class StateCollector(Collector):
    """How things stand, read when it is asked for. `events` has counts by reason and result."""

    def __init__(self, health: Health, agents: Agents, *, events: Mapping[tuple[str, str], int]) -> None:
        self._health = health
        self._agents = agents
        self._events = events

    def describe(self) -> Iterable[Metric]:
        return ()  # registering reads nothing

    def collect(self) -> Iterator[Metric]:
        """The families that describe the state at this moment, from one snapshot of health and one tally."""
        engine, health = self._health.engine, self._health.snapshot()
        tally = engine.ledger.claims.tally()
        yield SERVING.family([((), float(health.is_serving))])
        yield STANDBY.family([((), float(bool(health.served_by)))])
        yield JOURNAL_TROUBLE.family([((), float(bool(health.journal_trouble)))])
        yield JOURNAL_SET_ASIDE.family([((), len(health.set_aside))])
        yield CLAIMS.family(((state.value,), tally.states.get(state, 0)) for state in LIVE_STATES)
        yield UNPLACEABLE.family([((), tally.unplaceable)])
        yield EXPIRED.family(((s.value,), engine.changes.expired[s]) for s in (State.RESERVED, State.LEASED))
        yield INCIDENTS.family(((kind.value,), engine.maintenance.incidents[kind]) for kind in IncidentKind)
        yield REJECTIONS.family(_rejections(tally))
        yield DRIFT.family(
            [
                (("contradicted",), tally.contradictions),
                (("held_twice",), tally.utilization.held_twice),
                (("unsaved",), health.unsaved),
            ]
        )
        yield NOT_LISTENING.family([((), engine.ledger.listening.silent)])
        yield AGENTS.family([((), len(self._agents))])
        yield REPORT_AGE.family([((), engine.ledger.nodes.sockets.oldest())])
        yield REPORTS_REFUSED.family(((reason,), count) for reason, count in self._agents.refused.items())
        yield FOREIGN_PORTS.family([((), tally.utilization.foreign)])
        yield NODE_PORT_CONFLICTS.family([((), tally.node_port_conflicts)])
        yield OUTSIDERS.family([((), tally.unmanaged)])
        yield OUTSIDER_PORTS.family([((), tally.unmanaged_ports)])
        yield NODES.family([((), tally.known_nodes)])
        yield EVENTS.family(list(self._events.items()))
        yield from _ranges(tally.utilization)
        yield CLOCK_STEPS.family(((step.name.lower(),), engine.clock.steps.get(step, 0)) for step in Step)
        if health.watch is not None:
            yield WATCH_LAG.family([((), health.watch.lag)])
            yield RELISTS.family([((), health.watch.relists)])


def _rejections(tally: Tally) -> Iterator[Sample]:
    for judge in ("scheduler", "kubelet"):
        for explained in (True, False):
            yield (judge, str(explained).lower()), tally.rejections.get((judge, explained), 0)


def _ranges(picture: UtilizationSnapshot) -> Iterator[Metric]:
    uses = [("-".join(map(str, use.bounds)), use) for use in picture.ranges]
    yield RANGE_USED.family(((name, f"{q:g}"), use.quantile(q)) for name, use in uses for q in QUANTILES)
    yield RANGE_NUMBERS_USED.family(((name,), sum(use.used)) for name, use in uses)
    yield RANGE_NUMBERS.family(((name,), use.size * len(use.used)) for name, use in uses)
    yield RANGE_NODES.family(
        chain.from_iterable((((name, f"{le:g}"), use.nodes_up_to(le)) for le in bands()) for name, use in uses)
    )
    yield NODE_RANGE_USED.family(((node, "-".join(map(str, bounds))), ratio) for ratio, node, bounds in picture.fullest)
