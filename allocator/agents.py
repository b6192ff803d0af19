"""ReportNode: the agents of nodes, one stream each; what they report goes into the books, what is wanted goes to them.

Rules:

* A node has one stream: a new one ends the one before, since its agent was started anew.
* What an agent may cost is bounded: sockets in a message and on a node, and sockets and messages in a second; who sends
  more is not read any further until its time has come, on a new stream as on the old one.
* So are the streams of a node in a second, by far more than an agent begins that pauses as ours do; one more is refused
  before anything of it is read, where the caller's token names the node. Refusals of a node have a line of the log once
  in some seconds.
* A report is told to the books in steps, in turns with all other reports, so that nobody waits for a large one.
* A report that is refused ends the stream. What the agent said before goes on counting.
* What is wanted of an agent is told at most four times in a second.
* An agent that keeps numbers out of outgoing connections is told those that are given on its node, and those that may
  be given next (`upcoming`).
* The stream of a node whose Node is gone is ended: what it told is forgotten, so that it has to begin anew. So it is
  where the Node is back before a report is told to its end: the first steps of it are forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from allocator.agent_budget import BURST_STREAMS, STREAMS_PER_SECOND, AgentBudget
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange
from allocator.core.ports import runs_of
from allocator.core.sockets import NodeFacts, NodeSockets
from allocator.engine import Engine
from allocator.node_reports import Report, parts
from allocator.slices import TimeSlice
from allocator.upcoming import Upcoming
from hostport.contract import Mistake, Reason
from hostport.contract.limits import LONGEST_NAME
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

FIRST_SECONDS = 30.0
"""How long a stream may be open without a first message."""

MESSAGE_WEIGHT = 20
"""What a message weighs by itself, in sockets."""

RECENT_SECONDS = 2.0
TELL_SECONDS = 0.25
LOOK_SECONDS = 0.1
"""Between two looks whether agents are to keep other numbers out of outgoing connections. Who asks for a range that no
agent was told of waits for that."""

Requests = AsyncIterator[pb.ReportNodeRequest]
Send = Callable[[pb.ReportNodeResponse], Awaitable[bool]]
"""Sends a message; whether the agent took it."""


class _Stream:
    """One stream, while it is open."""

    def __init__(self) -> None:
        self.replaced = asyncio.Event()
        self.news = asyncio.Event()
        self.report_now = False
        self.has_told = False  # whether a whole report has come
        self.is_forgotten = False  # whether what it told is, since its Node was gone
        # What is given, and upcoming, as sets, to be told; None: nothing new.
        self.wanted: tuple[int, int] | None = None
        self.told: tuple[int, int] | None = None  # the last that was wanted
        self.seen = (-1, 0)  # `changed_on` of its node, and what is upcoming, when that was last looked at

    async def ended(self) -> None:
        """Returns when another stream has taken its place, or the allocator stops."""
        await self.replaced.wait()

    async def tell(self, send: Send) -> None:
        """Tells what is wanted, as it comes up. Returns when the agent does not read."""
        while True:
            await self.news.wait()
            self.news.clear()
            given, upcoming = self.wanted or (0, 0)
            message = pb.ReportNodeResponse(report_now=self.report_now, has_given=self.wanted is not None)
            for numbers, ranges in ((given, message.given), (upcoming, message.upcoming)):
                for low, high in runs_of(numbers):
                    ranges.add(min=low, max=high)
            self.report_now, self.wanted = False, None
            if not await send(message):
                return
            await asyncio.sleep(TELL_SECONDS)


class AgentStreams(dict[NodeName, _Stream]):
    """The stream of each node whose agent is connected."""

    def report_now(self, name: NodeName) -> bool:
        """Has the agent of a node report at once; gives whether it is connected."""
        stream = self.get(name)
        if stream is None:
            return False
        stream.report_now = True
        stream.news.set()
        return True


class Agents:
    """See the module."""

    def __init__(self, engine: Engine, streams: AgentStreams, upcoming: Upcoming) -> None:
        """streams: those of this allocator, which `follow` adds to. upcoming: the numbers that agents are to keep."""
        self.refused: Counter[str] = Counter()  # reports, and callers that are no agents, by reason, since the start
        self.upcoming = upcoming
        self._engine = engine
        self._streams = streams
        self._budgets: dict[NodeName, AgentBudget] = {}  # of nodes that have a stream, or had one
        self._turn = asyncio.Lock()
        self._begun = 0  # streams on which a whole report has come

    def __len__(self) -> int:
        """How many agents are connected."""
        return len(self._streams)

    def look_again(self, name: NodeName) -> None:
        """Somebody looks at a node: its agent reports at once, unless it just has."""
        if self._engine.ledger.nodes.sockets.age(name) > RECENT_SECONDS:
            self._streams.report_now(name)

    def finish(self) -> None:
        """Ends all streams: the allocator stops."""
        for stream in self._streams.values():
            stream.replaced.set()

    async def follow(self, requests: Requests, own: NodeName | None, send: Send) -> None:
        """One stream, until it ends.

        own: the node that its caller is bound to; None: whoever calls may speak of any.

        Raises:
            Refused: what it says is not taken, or another stream has taken its place.

        """
        name = own
        try:
            if name is not None:
                self._check_pace(name)
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    first = await anext(aiter(requests), None)
            except TimeoutError:
                return
            if first is None:
                return
            if name is None:
                name = NodeName(first.node[:LONGEST_NAME])
                self._check_pace(name)
            await self._follow(first, requests, self._node(first, own), send)
        except Refused as refused:
            self._note_refused(name or NodeName(""), refused)
            raise

    def _check_pace(self, name: NodeName) -> None:
        """Raises Refused where streams of a node begin too fast."""
        if not self._budget(name).may_begin():
            message = (
                f"the agent of node {name[:64]} begins too many streams: at most {STREAMS_PER_SECOND:g} a second, and"
                f" {BURST_STREAMS} at once. Pause before the next one"
            )
            raise Refused(Mistake(Reason.TOO_MANY_CALLS, "", message))

    def _note_refused(self, name: NodeName, refused: Refused) -> None:
        reason = refused.mistakes[0].reason
        self.refused[reason] += 1
        count = self._budget(name).refused()
        if count is not None:
            log_event(
                log,
                "report refused",
                level=logging.WARNING,
                node=name[:64],
                reason=reason,
                detail=str(refused),
                refusals=count,
            )

    def _node(self, first: pb.ReportNodeRequest, own: NodeName | None) -> NodeName:
        if own is not None and first.node != own:
            message = f"the caller's token is bound to node {own}, and it speaks of {first.node[:64] or 'none'}"
            raise Refused(Mistake(Reason.NODE_NOT_ITS_OWN, "node", message))
        name = NodeName(first.node)
        self._check_known(name)
        if not first.snapshot:
            raise Refused(Mistake(Reason.INVALID_REQUEST, "snapshot", "the first message begins a snapshot"))
        return name

    def _check_known(self, name: NodeName) -> None:
        if not self._engine.ledger.nodes.is_known(name):
            message = f"there is no Node {name[:64]}, or it has not been seen yet"
            raise Refused(Mistake(Reason.NODE_NOT_FOUND, "node", message))

    async def _follow(self, first: pb.ReportNodeRequest, requests: Requests, name: NodeName, send: Send) -> None:
        stream, before = _Stream(), self._streams.get(name)
        self._streams[name] = stream
        if before is not None:
            before.replaced.set()
        budget = self._budget(name)
        try:
            async with budget.stream:  # of the one before: it may be telling the books of something
                await self._run(name, stream, (self._read(name, first, requests, budget), stream.tell(send)))
            if stream.is_forgotten:
                raise _forgotten(name)
            if self._streams.get(name) is not stream:
                message = f"another stream of node {name} has taken the place of this one"
                raise Refused(Mistake(Reason.REPORT_REPLACED, "", message))
        finally:
            if self._streams.get(name) is stream:
                del self._streams[name]

    async def _run(self, name: NodeName, stream: _Stream, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Until any of the work is done, or another stream takes the place of this one."""
        tasks = [asyncio.create_task(each, name=f"agent {name}") for each in (*work, stream.ended())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what it did
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, name: NodeName, first: pb.ReportNodeRequest, requests: Requests, budget: AgentBudget) -> None:
        """Takes report after report, until there are no more messages."""
        report = await self._take(name, Report(), first, budget)
        async for message in requests:
            if message.node not in ("", name):
                text = f"this stream is about node {name}, and it speaks of {message.node[:64]}"
                raise Refused(Mistake(Reason.NODE_NOT_ITS_OWN, "node", text))
            report = await self._take(name, report, message, budget)

    async def _take(self, name: NodeName, report: Report, message: pb.ReportNodeRequest, budget: AgentBudget) -> Report:
        """Takes a message; gives the report that the next one belongs to."""
        await budget.spend(MESSAGE_WEIGHT + len(message.opened) + len(message.closed) + len(message.reserved))
        self._engine.check_serving()
        known = self._engine.ledger.nodes.sockets.of(name)
        report.add(message, NodeFacts() if known is None else known.facts)
        if message.more:
            return report
        self._check_known(name)
        if known is None and not report.snapshot:
            raise _forgotten(name)
        await self._tell(name, report)
        return Report()

    async def _tell(self, name: NodeName, report: Report) -> None:
        """Tells the books of a whole report, step by step. Raises Refused where the Node was gone meanwhile."""
        ledger, maintenance = self._engine.ledger, self._engine.maintenance
        own = ledger.nodes.sockets.of(name)
        closed, opened = report.changes(NodeSockets() if own is None else own, partial(ledger.nodes.undeclared, name))
        facts = report.facts or NodeFacts()
        pace = TimeSlice(self._turn)
        for change in parts(name, closed, opened, facts, maintenance.socket_slice()):
            maintenance.observe(ClusterChange(reports=(change,), lists_pods=False))
            if own is None:
                own = ledger.nodes.sockets.of(name)  # the first step has made them
            await pace.rest()
            if ledger.nodes.sockets.of(name) is not own:
                raise _forgotten(name)
        stream = self._streams.get(name)
        if stream is not None and not stream.has_told:
            stream.has_told = True
            self._begun += 1

    # -- what is wanted of agents

    async def forever(self) -> None:
        """Tells the agents that keep numbers out of outgoing connections which those are, as they change."""
        last: tuple[int, int, int] | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            pace, nodes = TimeSlice(self._turn), self._engine.ledger.nodes
            upcoming = self.upcoming.numbers()
            if last == (now := (nodes.changes, self._begun, upcoming)):
                continue
            last = now
            for name, stream in list(self._streams.items()):
                known = nodes.sockets.of(name)
                if known is None:
                    if stream.has_told:
                        stream.is_forgotten = True
                        stream.replaced.set()
                    continue
                if not known.facts.reserves:
                    continue
                seen = nodes.changed_on(name), upcoming
                if seen != stream.seen:
                    self._want(stream, seen, nodes.given_on(name))
                await pace.rest()

    def _want(self, stream: _Stream, seen: tuple[int, int], given: int) -> None:
        """Has an agent keep the numbers that are given on its node, and those that may be given next."""
        self.upcoming.note_given(given)  # a range that is new has what was given before
        stream.seen, wanted = seen, (given, seen[1])
        if wanted != stream.told:
            stream.told = stream.wanted = wanted
            stream.news.set()

    def _budget(self, name: NodeName) -> AgentBudget:
        """That of a node. Those of nodes that have no stream any more are forgotten where there are many."""
        if len(self._budgets) > 2 * len(self._streams) + 1000:
            self._budgets = {known: each for known, each in self._budgets.items() if known in self._streams}
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = AgentBudget()
        return budget


def _forgotten(name: NodeName) -> Refused:
    text = f"nothing is known of node {name}, which was gone meanwhile. Begin anew with a snapshot"
    return Refused(Mistake(Reason.REPORT_REPLACED, "", text))
