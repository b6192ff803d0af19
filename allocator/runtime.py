"""Wiring, the order of start-up, and shutdown.

Start: listen, NOT_SERVING → lock and read the journal, which may have to wait → acquire the Lease, where there is one →
see the whole cluster once, and have a certificate, where they are built in → SERVING.
While another holds the Lease we stand by: the cluster is followed, nothing is decided and nothing written. When the
Lease is ours, and nothing of the other's can be on its way any more, the view is made as new as that → SERVING.
Stop (SIGTERM): NOT_SERVING → finish the calls that are under way → see the Pods that they admitted, and give the Lease
back → close the journal → exit 0. A second signal exits at once. A background loop that fails: the same, exit 1.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2  # noqa: F401 - reflection then knows the types of our error details
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from allocator import http
from allocator.access.guard import Guard
from allocator.certificates.authority import Rules as CertificateRules
from allocator.certificates.files import Files
from allocator.certificates.serving import Serving
from allocator.certificates.settings import Settings
from allocator.clock import Clock, elapsed
from allocator.cluster.contract import Source, Watch
from allocator.cluster.file import FileCluster
from allocator.cluster.happenings import Happening
from allocator.cluster.none import IMPLICIT_NODE, NoCluster
from allocator.config import Config
from allocator.core.claims import ClaimId, State
from allocator.core.ledger import Ledger, Rules
from allocator.core.tenants import Shares
from allocator.decisions import Decisions
from allocator.engine import Engine, Meters, always
from allocator.journal.contract import Journal
from allocator.journal.memory import MemoryJournal
from allocator.journal.sqlite import SqliteJournal
from allocator.malformed import tell_briefly
from allocator.metrics import Metrics, Standing
from allocator.page.access import Access
from allocator.page.handlers import Page, page
from allocator.page.views import Identity, Views
from allocator.reports import Reports, nobody
from allocator.service import AllocatorService
from allocator.slices import REST_SECONDS, in_turns
from allocator.status import Status
from hostport import garbage
from hostport.flags import Address
from hostport.limits import raise_file_limit
from hostport.serving import BoundedServer
from hostport.supervision import Loops
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from hostport.version import program_version

if TYPE_CHECKING:
    from allocator.access.reviews import Reviews
    from allocator.certificates.keeper import Keeper
    from allocator.cluster.events import EventWriter
    from allocator.cluster.lease import Leadership, Legacy
    from allocator.cluster.signpost import Signpost
    from allocator.portleases.keeper import LeaseKeeper
    from allocator.portleases.parts import Parts

log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AllocatorService"].full_name
DEFAULT_NAMESPACE = "default"  # of leases that name none, where no allocator has a Pod of its own
TICK_SECONDS = 0.5
DRAIN_SECONDS = 10.0
UNSEEN_SECONDS = 36.0  # a create lives at most 34 s in the API server
HANDOVER_SECONDS = 8.0  # a create that we admitted is stored within milliseconds, if at all; some never are
HEALTH_SECONDS = 0.1  # between two looks; the Lease may end by itself
HEALTH = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
LAGGING_SECONDS = 10.0  # a proof takes up to five seconds in a quiet cluster
MAX_HTTP_BODY = 1 << 16  # nobody has to send one
LONGEST_BODY_SECONDS = 10.0
MOST_READERS = 500  # connections of the http port: probes, scrapes, and people who look at the page
MOST_CONNECTIONS = 2000
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.so_reuseport", 0),  # a second allocator on the port must fail, not share it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    # What a stranger may cost: a connection takes about 100 KiB. The bound is that of one listener, so that nobody on
    # the one for tokens keeps a shim out. A connection that is idle, or whose handshake does not come, is closed.
    ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # Every connection ends, whatever its peer does: what it was given by a right or certificate that is gone, and what
    # it did not read, goes with it. Calls go over to the next connection; a watch has to begin anew.
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


async def serve(config: Config) -> None:
    """Runs the allocator until a signal ends it.

    Raises:
        JournalError: the journal cannot be used.
        OSError, RuntimeError: an address cannot be listened on.

    """
    raise_file_limit()
    tell_briefly()
    journal: Journal = SqliteJournal(config.journal) if config.journal else MemoryJournal()
    try:
        await Allocator(config, journal).run()
    finally:
        journal.close()


class Allocator:
    """The running program."""

    def __init__(self, config: Config, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        clock = Clock()
        self._leadership = _leadership(config) if config.lease_namespace else None
        holds_lease = self._leadership.is_valid if self._leadership else always
        leases = _port_leases(config, journal, holds_lease, clock) if config.port_leases else None
        self._events = _events(config, self._may_answer) if config.cluster == "kubernetes" else None
        self._watch = _watch(config.kubeconfig, clock, self._events.tell) if self._events else None
        self._source: Source = self._watch or NoCluster()
        if config.cluster.startswith("file:"):
            self._source = FileCluster(Path(config.cluster.removeprefix("file:")), now=clock)
        rules = Rules(
            reserved=config.reserved_ports,
            discloses_holders=config.disclose_holders == "all",
            reservation_seconds=config.reservation_ttl,
            when_full=config.when_full,
            shares=Shares(
                reservations=config.namespace_reservations,
                reserved_ports=config.namespace_reserved_ports,
                leases=config.namespace_leases,
            ),
            implicit_node=IMPLICIT_NODE if config.cluster == "none" else None,
        )
        self._engine = Engine(
            ledger=Ledger(rules),
            journal=leases.journal if leases else journal,
            now=clock,
            new_id=_new_id,
            clock=clock,
        )
        clock.counts = self._may_answer
        self._engine.watch = self._watch
        self._engine.holds_lease = holds_lease
        self._lease_keeper: LeaseKeeper | None = None
        if leases is not None:
            self._engine.lease_namespace = config.lease_namespace or DEFAULT_NAMESPACE
            self._lease_keeper = leases.keeper(self._engine, legacy=self._legacy)
        self._metrics = Metrics()
        self._engine.meters = Meters(
            decided=self._metrics.decide_seconds.observe, committed=self._metrics.commit_seconds.observe
        )
        if isinstance(journal, SqliteJournal):
            journal.on_commit = self._metrics.committed
        self._reports = Reports(
            discloses_holders=rules.discloses_holders, event=self._events.tell if self._events else nobody
        )
        self._engine.report = self._reports.incident
        self._metrics.registry.register(
            Standing(self._engine, watch=self._watch, events=self._events.counts if self._events else None)
        )
        self._decisions = Decisions()
        self._identity = Identity(
            version=program_version(),
            instance=config.pod_name or socket.gethostname(),
            cluster=config.cluster,
            started=clock.wall(),
            epoch=self._leadership.identity.rpartition("/")[2] if self._leadership else "",
            certificates=self._metrics.certificates,
            trusted=self._metrics.trusted,
        )
        self._health = health.aio.HealthServicer()
        self._reviews: Reviews | None = None
        self._status = Status(
            self._engine,
            cluster=config.cluster.partition(":")[0],
            journal="sqlite" if config.journal else "memory",
            certificates=self._metrics.certificates,
            trusted=self._metrics.trusted,
            leadership=self._leadership,
        )
        self._serving = Serving(now=clock.wall()) if config.is_builtin else None
        self._keeper = _keeper(config, self._serving, self._leadership) if self._serving and self._leadership else None
        self._signpost = _signpost(config, self._may_answer) if self._leadership else None
        self._is_stopping = False
        self._is_followed = False  # whether the cluster has been seen once
        self._may_follow, self._has_lease = asyncio.Event(), asyncio.Event()
        self._told_health: dict[str, bool] = {}
        self._engine.who_serves = self._who_serves
        self._journal_read = asyncio.Event()

    async def run(self) -> None:
        """Serves until a signal comes, or a background loop fails.

        Raises:
            LoopError: a loop failed.
            OSError, RuntimeError: an address cannot be listened on.

        """
        server, health_server = self._grpc_server(), self._health_server()
        stop = self._signals()
        await self._set_health()
        await server.start()
        await health_server.start()
        http_server = self._http_server()
        is_handed_over = False
        try:
            async with Loops() as loops:
                self._start(loops)
                await stop.wait()
                await self._stop_answering(server)
                is_handed_over = await self._all_told()  # by the loops, which go on until here
        finally:
            await self._stop_answering(server)
            await self._let_go(is_handed_over=is_handed_over)
            await health_server.stop(None)
            http_server.stop()
            await http_server.close_all_connections()

    def _start(self, loops: Loops) -> None:
        """Everything that runs beside the calls; any of it that fails ends the process."""
        loops.start("cluster", self._follow())
        loops.start("start", self._start_serving(), ends=True)
        loops.start("sight", self._see_all(), ends=True)
        loops.start("tick", self._tick())
        loops.start("health", self._tell_health())
        if self._leadership is not None:
            loops.start("lease", self._keep_lease())
        if self._signpost is not None:
            loops.start("signpost", self._signpost.forever())
        if self._lease_keeper is not None:
            loops.start("portleases", self._follow_leases())
        if self._events is not None:
            loops.start("events", self._events.forever())
        if self._keeper is not None:
            loops.start("certificates", self._keeper.forever())

    async def _follow(self) -> None:
        await self._may_follow.wait()
        await self._source.run(self._engine)

    async def _follow_leases(self) -> None:
        await self._may_follow.wait()
        if self._lease_keeper is not None:
            await self._lease_keeper.run()

    async def _keep_lease(self) -> None:
        """Renews the Lease once it is ours.

        Raises:
            LostError: it is not ours any more.

        """
        await self._has_lease.wait()
        if self._leadership is not None:
            await self._leadership.keep()

    def _unseen_seconds(self) -> float:
        """Where no Lease tells of a predecessor: how long Pods may be on their way that our journal lacks."""
        anew = self._journal.began_anew_at if self._watch else 0.0
        return min(UNSEEN_SECONDS, max(0.0, anew + UNSEEN_SECONDS - time.time()))

    async def _open_journal(self) -> None:
        """Reads what was kept. Waits for as long as the environment is in the way.

        Raises:
            JournalError: that will not pass by itself.

        """
        self._status.waiting_for = lambda: self._journal.trouble or "the journal, which is being read"
        await self._journal.open()
        await in_turns(self._engine.restore())
        self._journal_read.set()
        if self._leadership is not None:
            self._leadership.has_journal(self._journal.identity)

    async def _take_lease(self, leadership: Leadership) -> None:
        """Returns when the Lease is ours, and nothing that a predecessor granted can be on its way any more.

        Where it is ours at once, the lists begin after that. Who has to wait follows the cluster meanwhile.
        """
        self._wait_for("the Lease {}/{}, which another allocator may hold".format(*leadership.place))
        serve_at = await leadership.acquire(stands_by=self._may_follow.set)
        self._has_lease.set()
        await self._wait_until(serve_at)

    async def _wait_until(self, serve_at: float) -> None:
        """`serve_at` is in seconds of `elapsed`."""
        delay = serve_at - elapsed()
        if delay > 0:
            self._may_follow.set()
            log.info("without its journal: waiting %.0f s for what a predecessor may have admitted", delay)
            self._wait_for(f"{delay:.0f} s for what a predecessor without its journal may have admitted")
            await asyncio.sleep(delay)

    async def _catch_up(self) -> None:
        """Returns when the view is as new as now, and the leases are in the books."""
        reached = self._leadership.reached if self._leadership else {}
        pods = self._watch.mark() if self._watch else 0
        leases = self._lease_keeper.mark() if self._lease_keeper else 0
        self._may_follow.set()
        self._status.waiting_for = self._first_view
        await self._source.synced()
        if self._watch is not None:
            await self._watch.caught_up(pods, reached.get("pods"))
        if self._lease_keeper is not None:
            await self._lease_keeper.recover(leases, reached.get("portleases"))
        await in_turns(self._mended())  # the leases may stand where a plan was

    def _mended(self) -> Iterator[None]:
        while self._engine.go_on():
            yield

    def _legacy(self) -> Legacy:
        """Without a Lease there is one allocator with one journal, which may have begun anew."""
        from allocator.cluster.lease import Legacy  # noqa: PLC0415 - loaded by then

        if self._leadership is not None:
            return self._leadership.legacy
        return Legacy.NOTHING if self._journal.began_anew_at else Legacy.JOURNAL

    def _wait_for(self, what: str) -> None:
        self._status.waiting_for = lambda: what

    def _first_view(self) -> str:
        progress = self._watch.progress() if self._watch else ""
        return f"the first full view of {self._config.cluster}" + (f": {progress}" if progress else "")

    async def _start_serving(self) -> None:
        await self._open_journal()
        if self._leadership is not None:
            await self._take_lease(self._leadership)
        else:
            await self._wait_until(elapsed() + self._unseen_seconds())
        await self._catch_up()
        if self._keeper is not None:
            await self._keeper.ready()
            self._metrics.certificate("allocator", self._keeper.expires)
            self._metrics.certificate("ca", self._keeper.authority_expires)
            self._metrics.trust(self._keeper.trusted)
        if not self._is_stopping:
            garbage.serve()
            self._engine.is_serving = True
            await self._set_health()
            log.info("serving (cluster %s)", self._config.cluster)

    async def _tell_health(self) -> None:
        while True:
            await self._set_health()
            await asyncio.sleep(HEALTH_SECONDS)

    async def _set_health(self) -> None:
        """For the kubelet (no name) whether we are ready, for callers (the service's name) whether we serve."""
        is_serving = self._may_answer() and not self._is_stopping
        for name, holds in (("", is_serving or self._stands_by()), (SERVICE_NAME, is_serving)):
            if self._told_health.get(name) is not holds:
                self._told_health[name] = holds
                await self._health.set(name, HEALTH[holds])

    def _stands_by(self) -> bool:
        """Whether another serves, and we could take over at once: a standby is ready, so that a rollout goes on."""
        if not self._who_serves() or self._is_stopping or not self._is_followed:
            return False
        return self._keeper is None or self._keeper.missing is None

    def _who_serves(self) -> str:
        """The Pod of another allocator that serves; empty where none is known."""
        other = self._leadership.other if self._leadership else None
        return (other.pod_name or other.identity) if other else ""

    async def _see_all(self) -> None:
        """Notes when the cluster has been seen once."""
        await self._source.synced()
        if self._lease_keeper is not None:
            await self._lease_keeper.synced()
        self._is_followed = True

    def _may_answer(self) -> bool:
        return self._engine.is_serving and self._engine.holds_lease()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._engine.see_clock()
            if self._engine.is_serving:
                self._engine.tick()
            elif self._who_serves():
                self._engine.stand_by()
            ends = asyncio.get_running_loop().time() + TICK_SECONDS
            while (self._engine.is_serving or self._who_serves()) and self._engine.go_on():
                if asyncio.get_running_loop().time() >= ends:
                    break
                await asyncio.sleep(REST_SECONDS)

    async def _stop_answering(self, server: grpc.aio.Server) -> None:
        """Finishes what is under way: a call that was decided is still committed and answered."""
        if not self._is_stopping:
            self._is_stopping = True
            self._wait_for("its end: it was told to stop")
            log.info("stopping")
        await self._health.enter_graceful_shutdown()
        self._service.finish_streams()
        await server.stop(DRAIN_SECONDS)
        self._engine.is_serving = False

    async def _all_told(self) -> bool:
        """Whether the cluster shows by now whatever was granted, so that a successor need not wait."""
        is_written = await self._lease_keeper.stop() if self._lease_keeper else True
        holds = self._leadership is not None and self._leadership.is_valid()
        return is_written and holds and await self._all_shown()

    def _latest(self) -> dict[str, int]:
        """What we have seen of the cluster: a successor that has seen as much knows every grant of ours."""
        found = {"pods": self._watch.latest()} if self._watch else {}
        return found | ({"portleases": self._lease_keeper.latest()} if self._lease_keeper else {})

    async def _let_go(self, *, is_handed_over: bool) -> None:
        """Gives the Lease back first: a successor waits for it. No loop runs any more."""
        if self._leadership is not None:
            await self._leadership.release(handed_over=is_handed_over, reached=self._latest())
            await self._leadership.close()
        if self._lease_keeper is not None:
            await self._lease_keeper.give_up()
        if self._reviews is not None:
            await self._reviews.close()
        self._engine.save_all_changes()
        if self._lease_keeper is not None:
            await self._lease_keeper.close()

    async def _all_shown(self) -> bool:
        """Waits a little until the cluster shows every Pod that was admitted: a successor then need not wait at all."""
        until = time.monotonic() + HANDOVER_SECONDS
        while self._engine.ledger.tally().states.get(State.RESERVED):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    def _signals(self) -> asyncio.Event:
        """Set by the first SIGTERM or SIGINT; the second one ends the process as if nobody caught it."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def caught(number: signal.Signals) -> None:
            loop.remove_signal_handler(number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, caught, number)
        return stop

    # -- servers

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        self._service = AllocatorService(
            self._engine, self._metrics, self._reports, self._status, self._guard(), self._decisions
        )
        pb_grpc.add_AllocatorServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._listen(server)
        return server

    def _health_server(self) -> grpc.aio.Server:
        """For the kubelet, whose grpc probe speaks no TLS and shows nothing. Nothing else is served there."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if listen := self._config.listen_health:
            port = server.add_insecure_port(str(listen))
            log.info("listening for health on grpc %s", Address(listen.host, port))
        return server

    def _listen(self, server: grpc.aio.Server) -> None:
        config, listen = self._config, self._config.listen
        credentials = self._credentials(asks_clients=True)
        if credentials is None:
            self._listening = Address(listen.host, server.add_insecure_port(str(listen)))
            return
        self._listening = Address(listen.host, server.add_secure_port(str(listen), credentials))
        if config.listen_tokens and (tokens := self._credentials(asks_clients=False)):
            port = server.add_secure_port(str(config.listen_tokens), tokens)
            log.info("listening for tokens on grpc %s", Address(config.listen_tokens.host, port))

    def _credentials(self, *, asks_clients: bool) -> grpc.ServerCredentials | None:
        """Of one port; None: plain text."""
        config = self._config
        if self._serving is not None:
            return self._serving.credentials(asks_clients=asks_clients)
        if not config.tls_cert:
            return None
        files = Files(
            cert=Path(config.tls_cert),
            key=Path(config.tls_key),
            client_ca=Path(config.tls_client_ca) if config.tls_client_ca else None,
            also=config.also_trust,
            delay=config.certificate_delay,
            asks_clients=asks_clients,
        )
        if asks_clients:
            self._metrics.certificate("allocator", lambda: files.expires)
            self._metrics.trust(files.authorities)
        return files.credentials()

    def _guard(self) -> Guard:
        """Who is let in. Made inside the event loop."""
        config = self._config
        self._reviews = _reviews(config) if config.tells_callers_apart else None
        return Guard(
            self._reviews, home=config.lease_namespace, shim_name=config.shim_name, audience=config.token_audience
        )

    def _http_server(self) -> HTTPServer:
        server = BoundedServer(
            http.application(self._checks, self._notes, self._metrics.registry, self._page()),
            max_body_size=MAX_HTTP_BODY,
            body_timeout=LONGEST_BODY_SECONDS,
            most=MOST_READERS,
        )
        listen = self._config.http
        sockets = bind_sockets(listen.port, listen.host)
        server.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        log.info("listening on grpc %s, http %s from now on", self._listening, Address(listen.host, port))
        return server

    def _page(self) -> Page:
        views = Views(
            engine=self._engine,
            decisions=self._decisions,
            identity=self._identity,
            checks=self._checks,
            notes=self._notes,
        )
        return page(views, Access(audience=self._config.page, names=self._config.page_hosts))

    # -- health

    def _checks(self) -> Mapping[str, str | None]:
        is_synced = self._engine.is_serving or self._is_stopping or self._stands_by()
        return {
            "journal": None if self._journal_read.is_set() else self._journal.trouble or "it is being read",
            "cluster": None if is_synced else f"waiting for {self._status.waiting_for() or self._first_view()}",
            **({"certificate": self._keeper.missing} if self._keeper else {}),
            "stopping": "SIGTERM was received" if self._is_stopping else None,
        }

    def _notes(self) -> list[str]:
        notes = [
            f"the journal was damaged and set aside as {aside}, which nobody has acknowledged:"
            f" python -m allocator journal acknowledge {self._config.journal}"
            for aside in self._journal.set_aside
        ]
        if self._journal_read.is_set() and self._journal.trouble:
            notes.append(f"the journal takes no commits: {self._journal.trouble}")
        if steps := sum(self._engine.clock_steps.values()):
            notes.append(f"the wall clock was set, or this process stopped, {steps} times since the start: see the log")
        if other := self._who_serves():
            notes.append(f"standing by: {other} serves")
        if self._watch and LAGGING_SECONDS < self._watch.lag() < math.inf:
            notes.append(f"the view of the cluster was last proven current {self._watch.lag():.0f} seconds ago")
        if self._keeper and self._keeper.trouble:
            notes.append(f"certificates: {self._keeper.trouble}")
        return notes


def _watch(kubeconfig: str, clock: Clock, tell: Callable[[Happening], None]) -> Watch:
    # Costs 0.3 s and 44 MiB that other clusters do not need.
    from allocator.cluster.client import Client, loader  # noqa: PLC0415
    from allocator.cluster.kubernetes import KubernetesCluster  # noqa: PLC0415

    return KubernetesCluster(Client(loader(kubeconfig)), ends=clock, tell=tell)


def _port_leases(config: Config, journal: Journal, may_write: Callable[[], bool], clock: Clock) -> Parts:
    from allocator.cluster.client import Client, loader  # noqa: PLC0415 - as above
    from allocator.portleases.parts import Parts  # noqa: PLC0415

    return Parts(Client(loader(config.kubeconfig)), journal, may_write=may_write, now=clock, ahead=lambda: clock.ahead)


def _events(config: Config, may_write: Callable[[], bool]) -> EventWriter:
    from allocator.cluster.client import Client, loader  # noqa: PLC0415 - as above
    from allocator.cluster.events import EventWriter  # noqa: PLC0415

    instance = config.pod_name or socket.gethostname()
    return EventWriter(Client(loader(config.kubeconfig)), instance=instance, may_write=may_write)


def _signpost(config: Config, may_write: Callable[[], bool]) -> Signpost:
    from allocator.cluster.client import Client, loader  # noqa: PLC0415 - as above
    from allocator.cluster.signpost import Signpost  # noqa: PLC0415

    client = Client(loader(config.kubeconfig))
    return Signpost(client, namespace=config.lease_namespace, pod_name=config.pod_name, may_write=may_write)


def _reviews(config: Config) -> Reviews:
    from allocator.access.reviews import Reviews  # noqa: PLC0415 - as above
    from allocator.cluster.client import Client, loader  # noqa: PLC0415

    return Reviews(Client(loader(config.kubeconfig)), audience=config.token_audience)


def _new_id() -> ClaimId:
    return ClaimId(secrets.token_hex(16))


def _leadership(config: Config) -> Leadership:
    from allocator.cluster.client import Client, loader  # noqa: PLC0415 - as above
    from allocator.cluster.lease import Holder, Leadership  # noqa: PLC0415

    me = Holder(pod_uid=config.pod_uid, pod_name=config.pod_name, start=secrets.token_hex(8))
    return Leadership(Client(loader(config.kubeconfig)), me, namespace=config.lease_namespace)


def _keeper(config: Config, serving: Serving, leadership: Leadership) -> Keeper:
    from allocator.certificates.keeper import Keeper  # noqa: PLC0415 - as above
    from allocator.cluster.client import Client, loader  # noqa: PLC0415

    settings = Settings(
        namespace=config.lease_namespace,
        webhook=config.webhook_configuration,
        shim_name=config.shim_name,
        more_names=config.certificate_names,
        rules=CertificateRules(
            authority_seconds=config.ca_lifetime,
            certificate_seconds=config.certificate_lifetime,
            propagation_seconds=config.certificate_propagation,
        ),
    )
    return Keeper(
        Client(loader(config.kubeconfig)),
        settings,
        serving,
        callers=Path(config.tls_client_ca).read_text if config.tls_client_ca else str,
        may_write=leadership.is_valid,
    )
