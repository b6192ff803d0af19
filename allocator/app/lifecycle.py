"""The order of start-up and of shutdown, and the loops between them.

Start: listen, NOT_SERVING → lock and read the journal, which may have to wait → acquire the Lease, where there is one →
see the whole cluster once, and listen for tokens → have a certificate, where they are built in → SERVING.
While another holds the Lease we stand by: the cluster is followed, nothing is decided and nothing written. When the
Lease is ours, and nothing of the other's can be on its way any more, the view is made as new as that → SERVING.
Stop (SIGTERM): NOT_SERVING → finish the calls that are under way → see the Pods that they admitted, and give the Lease
back → close the journal → exit 0. A second signal exits at once. A background loop that fails is named and ends the
program: the same, exit 1.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterator

from allocator.app.assembly import Assembly, assemble
from allocator.app.servers import Servers, filter_grpc_log
from allocator.clock import elapsed
from allocator.config import Config
from allocator.core.claims import State
from allocator.metrics import AllocatorMetrics
from allocator.slices import REST_SECONDS, in_turns
from hostport import process
from hostport.process import raise_file_limit
from hostport.supervision import Loops

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
UNSEEN_SECONDS = 36.0  # a create lives at most 34 s in the API server
HANDOVER_SECONDS = 8.0  # a create that we admitted is stored within milliseconds, if at all; some never are
HEALTH_SECONDS = 0.1  # between two looks; the Lease may end by itself


async def serve(config: Config) -> None:
    """Runs the allocator until a signal ends it.

    Raises:
        JournalError: the journal cannot be used.
        LoopError: a background loop failed.
        OSError, RuntimeError: an address cannot be listened on.

    """
    raise_file_limit()
    filter_grpc_log()
    metrics = AllocatorMetrics()
    journal = config.journal(metrics.of_journal())
    try:
        await Lifecycle(assemble(config, journal, metrics)).run()
    finally:
        journal.close()


class Lifecycle:
    """See the module."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._config = assembly.config
        self._journal = assembly.journal
        self._source = assembly.source
        self._engine = assembly.application.engine
        self._metrics = assembly.application.metrics
        self._health = assembly.application.health
        self._reconciler = assembly.reconciler
        parts = assembly.kubernetes
        self._parts = parts
        self._watch = parts.watch if parts else None
        self._elector = parts.elector if parts else None
        self._may_follow, self._has_lease = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Serves until a signal comes, or a background loop fails.

        Raises:
            LoopError: a loop failed.
            OSError, RuntimeError: an address cannot be listened on.

        """
        servers = Servers(self._assembly)
        stop = self._signals()
        await servers.start()
        is_handed_over = False
        try:
            async with Loops() as loops:
                self._start(loops, servers)
                await stop.wait()
                await self._stop_answering(servers)  # NOT_SERVING first, then the calls that are under way
                is_handed_over = await self._all_told()  # by the loops, which go on until here
        finally:
            await self._stop_answering(servers)
            await self._let_go(is_handed_over=is_handed_over)
            await servers.close()

    def _start(self, loops: Loops, servers: Servers) -> None:
        """Everything that runs beside the calls. Any of it that fails ends the program."""
        loops.start("cluster", self._follow())
        loops.start("start", self._start_serving(servers), ends=True)
        loops.start("sight", self._see_all(servers), ends=True)
        loops.start("tick", self._tick())
        loops.start("agents", self._assembly.application.agents.forever())
        loops.start("health", self._tell_health(servers))
        if self._elector is not None:
            loops.start("lease", self._keep_lease())
        if self._reconciler is not None:
            loops.start("portleases", self._follow_leases())
        if self._parts is None:
            return
        loops.start("events", self._parts.events.forever())
        if self._parts.signpost is not None:
            loops.start("signpost", self._parts.signpost.forever())
        if self._parts.keeper is not None:
            loops.start("certificates", self._parts.keeper.forever())

    # -- the start, in its order

    async def _start_serving(self, servers: Servers) -> None:
        await self._open_journal()  # before the Lease: whoever cannot read its journal keeps nobody from serving
        if self._elector is not None:
            await self._take_lease()
        else:
            await self._wait_until(elapsed() + self._unseen_seconds())
        await self._catch_up()
        await self._have_certificate()
        if not self._health.is_stopping:  # a signal may have come meanwhile
            process.freeze()
            self._engine.is_serving = True
            await servers.tell_health()
            log.info("serving (cluster %s)", self._config.cluster)

    async def _open_journal(self) -> None:
        """Reads what was kept. Waits for as long as the environment is in the way.

        Raises:
            JournalError: that will not pass by itself.

        """
        self._health.waiting_for = lambda: self._journal.trouble or "the journal, which is being read"
        await self._journal.open()
        await in_turns(self._engine.recovery.restore(self._journal), rests=False)
        self._health.is_journal_read = True
        if self._elector is not None:
            self._elector.has_journal(self._journal.identity)

    async def _take_lease(self) -> None:
        """Returns when the Lease is ours, and nothing that a predecessor granted can be on its way any more.

        Where it is ours at once, the lists begin after that. Who has to wait follows the cluster meanwhile.
        """
        if self._elector is None:
            return
        self._wait_for("the Lease {}/{}, which another allocator may hold".format(*self._elector.place))
        serve_at = await self._elector.acquire(stands_by=self._may_follow.set)
        self._has_lease.set()
        await self._wait_until(serve_at)

    def _unseen_seconds(self) -> float:
        """Where no Lease tells of a predecessor: how long Pods may be on their way that our journal lacks."""
        anew = self._journal.began_anew_at if self._watch else 0.0
        return min(UNSEEN_SECONDS, max(0.0, anew + UNSEEN_SECONDS - time.time()))

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
        reached = self._elector.reached if self._elector else {}
        pods = self._watch.mark() if self._watch else 0
        leases = self._reconciler.mark() if self._reconciler else 0
        self._may_follow.set()
        self._health.waiting_for = self._health.first_view
        await self._source.synced()
        if self._watch is not None:
            await self._watch.caught_up(pods, reached.get("pods"))
        if self._reconciler is not None:
            await self._reconciler.recover(leases, reached.get("portleases"))
        await in_turns(self._replanned())  # the leases may stand where a plan was

    def _replanned(self) -> Iterator[None]:
        while self._engine.maintenance.go_on():
            yield

    async def _have_certificate(self) -> None:
        """Returns when there is a certificate, where we make it ourselves."""
        keeper = self._parts.keeper if self._parts else None
        if keeper is not None:
            await keeper.ready()
            self._metrics.certificate("allocator", keeper.expires)
            self._metrics.certificate("ca", keeper.authority_expires)
            self._metrics.trust(keeper.trusted)

    def _wait_for(self, what: str) -> None:
        self._health.waiting_for = lambda: what

    # -- the loops

    async def _follow(self) -> None:
        await self._may_follow.wait()
        await self._source.run(self._engine.maintenance)

    async def _follow_leases(self) -> None:
        await self._may_follow.wait()
        if self._reconciler is not None:
            await self._reconciler.run()

    async def _keep_lease(self) -> None:
        """Renews the Lease once it is ours.

        Raises:
            LostError: it is not ours any more.

        """
        await self._has_lease.wait()
        if self._elector is not None:
            await self._elector.keep()

    async def _see_all(self, servers: Servers) -> None:
        """Notes when the cluster has been seen once. From then on callers with tokens are heard, too."""
        await self._source.synced()
        if self._reconciler is not None:
            await self._reconciler.synced()
        self._health.is_followed = True
        await servers.listen_for_tokens()

    async def _tell_health(self, servers: Servers) -> None:
        while True:
            await servers.tell_health()
            await asyncio.sleep(HEALTH_SECONDS)

    async def _tick(self) -> None:
        engine = self._engine
        while True:
            await asyncio.sleep(TICK_SECONDS)
            engine.maintenance.look_at_clock()
            if engine.is_serving:
                engine.maintenance.tick()
            elif engine.around.who_serves():
                engine.maintenance.stand_by()
            ends = asyncio.get_running_loop().time() + TICK_SECONDS
            while (engine.is_serving or engine.around.who_serves()) and engine.maintenance.go_on():
                if asyncio.get_running_loop().time() >= ends:
                    break
                await asyncio.sleep(REST_SECONDS)

    # -- the stop, in its order

    async def _stop_answering(self, servers: Servers) -> None:
        """Finishes what is under way: a call that was decided is still committed and answered."""
        if not self._health.is_stopping:
            self._health.is_stopping = True
            self._wait_for("its end: it was told to stop")
            log.info("stopping")
        await servers.stop_answering()
        self._engine.is_serving = False

    async def _all_told(self) -> bool:
        """Whether the cluster shows by now whatever was granted, so that a successor need not wait."""
        is_written = await self._reconciler.stop() if self._reconciler else True
        holds = self._elector is not None and self._elector.is_valid()
        return is_written and holds and await self._all_shown()

    async def _all_shown(self) -> bool:
        """Waits a little until the cluster shows every Pod that was admitted: a successor then need not wait at all."""
        until = time.monotonic() + HANDOVER_SECONDS
        while self._engine.ledger.claims.tally().states.get(State.RESERVED):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _let_go(self, *, is_handed_over: bool) -> None:
        """Gives the Lease back first: a successor waits for it. No loop runs any more."""
        if self._elector is not None:
            await self._elector.release(handed_over=is_handed_over, reached=self._latest())
        if self._reconciler is not None:
            await self._reconciler.give_up()
        self._engine.changes.save_all()
        if self._parts is not None:
            await self._parts.client.close()

    def _latest(self) -> dict[str, int]:
        """What we have seen of the cluster: a successor that has seen as much knows every grant of ours."""
        found = {"pods": self._watch.latest()} if self._watch else {}
        return found | ({"portleases": self._reconciler.latest()} if self._reconciler else {})

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
