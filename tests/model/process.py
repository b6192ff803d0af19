"""One life of the allocator: the real engine, ledger, reader of objects and sinks of the watch, without sockets.

What is left out is the transport: the lines of the watch are handed over as `reflector.Reflector` would, and the journal
is a queue that the test commits, fails, or loses with the process.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, cast
from urllib.parse import unquote

from msgspec.structs import replace

from allocator.app.build import Collaborators, build
from allocator.clock import Clock
from allocator.cluster.client import ApiClient, ApiError, UnreachableError
from allocator.cluster.kubernetes import NODES, PODS, SERVICES, KubernetesCluster
from allocator.cluster.services import ServiceSink
from allocator.cluster.sinks import NodeSink, PodSink
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import Claim, ClaimId, ClusterChange
from allocator.core.ledger import Ledger
from allocator.core.ports import Protocol, slot_of
from allocator.core.sockets import NodeFacts, SocketChange, listener
from allocator.idempotency import IdempotencyKey
from allocator.journal.contract import Answer, Drop, Entry, Forget, JournalError, Kept, Put, always
from allocator.journal.tables import decode_claim, encode_claim
from allocator.slices import at_once
from hostport.contract import PodWarning
from testing.journals import EntryJournal

from .reality import Event, Key, Reality, RealNode, RealPod

CALL_SECONDS = 30.0
TURNS = 14  # of the event loop, until whatever can happen has happened


class Disk:
    """What is durable."""

    def __init__(self) -> None:
        self.claims: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}
        self.clock: float | None = None

    def write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            match entry:
                case Put(claim):
                    self.claims[claim.id] = encode_claim(claim)
                case Drop(claim_id, at):
                    self.claims.pop(claim_id, None)
                    for request_id, answer in self.answers.items():
                        if answer.claim_id == claim_id:
                            self.answers[request_id] = replace(answer, ended=at)
                case Answer():
                    self.answers[entry.request_id] = entry
                case Forget(before):
                    ended = [i for i, answer in self.answers.items() if answer.ended and answer.ended < before]
                    for request_id in ended:
                        del self.answers[request_id]

    def read(self) -> dict[ClaimId, Claim]:
        return {ClaimId(claim_id): decode_claim(text) for claim_id, text in self.claims.items()}


class QueueJournal(EntryJournal):
    """Submissions wait until the test decides what becomes of them, in order."""

    identity = "journal"

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.queue: deque[tuple[Sequence[Entry], Callable[[], bool], asyncio.Future[bool]]] = deque()

    def _kept(self) -> Kept:
        return Kept(tuple(self.disk.read().values()), tuple(self.disk.answers.values()), self.disk.clock)

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.queue.append((entries, is_wanted, future))
        return future

    def commit(self, most: int = 1 << 30) -> None:
        for _ in range(min(most, len(self.queue))):
            entries, is_wanted, future = self.queue.popleft()
            if is_wanted():
                self._write(entries)
            future.set_result(is_wanted())

    def fail(self) -> None:
        """The disk is full, for the oldest submission."""
        if self.queue:
            self.queue.popleft()[2].set_exception(JournalError("disk full"))

    def die(self, written: int) -> None:
        """The process is killed when some of the queue is written and nobody was told."""
        for entries, is_wanted, _ in list(self.queue)[:written]:
            if is_wanted():
                self._write(entries)
        self.queue.clear()

    def _write(self, entries: Sequence[Entry]) -> None:
        self.disk.write(entries)
        self.disk.clock = self.clock()


class StoreClient:
    """Answers GET of one Pod from the store, where it can be reached."""

    def __init__(self, reality: Reality) -> None:
        self._reality = reality
        self.is_reachable = True
        self.asked = 0

    async def get(self, path: str, params: Mapping[str, str] | None = None, *, accept: str) -> bytes:
        self.asked += 1
        if not self.is_reachable:
            raise UnreachableError("unreachable")
        namespace, _, name = path.removeprefix("/api/v1/namespaces/").split("/")
        pod = self._reality.find(unquote(namespace), unquote(name))
        if pod is None:
            raise ApiError(404, "NotFound", "")
        return self._reality.one(pod)


def encoded(claim: Claim, warnings: Sequence[PodWarning], asked: Constraints) -> bytes:
    """The answer, as the caller needs it: with the nodes to keep the Pod off, which it did not exclude itself."""
    ports = [
        (port.container, port.protocol.value, number, port.host_ip, port.count if number == port.host_port else 0)
        for port in claim.ports
        for number in port.key.numbers
    ]
    answer: dict[str, Any] = {"id": claim.id, "node": claim.node, "ports": ports}
    answer["avoid"] = sorted(claim.constraints.excluded - asked.excluded)
    return json.dumps(answer | {"warnings": [warning.reason for warning in warnings]}).encode()


class Process:
    """See the module. `clock` is that of the allocator."""

    def __init__(
        self,
        reality: Reality,
        disk: Disk,
        *,
        clock: Clock,
        rules: LedgerRules,
        ids: count[int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._reality = reality
        self._loop = loop
        self.now = now = clock
        self.journal = QueueJournal(disk)
        self.ledger = Ledger(rules)
        self.client = StoreClient(reality)
        self._cluster = KubernetesCluster(cast("ApiClient", self.client), now=now)
        given = Collaborators(
            ledger=self.ledger,
            journal=self.journal,
            new_id=lambda: ClaimId(f"{next(ids):032x}"),
            clock=clock,
            watch=self._cluster,
        )
        self.engine = build(given).engine
        at_once(self.engine.recovery.restore(self.journal))
        self._cluster._observer = self.engine.maintenance
        self._pods = PodSink(self.engine.maintenance, self.prove)
        self._nodes = NodeSink(self.engine.maintenance)
        self._services = ServiceSink(self.engine.maintenance)
        self.known_nodes: dict[str, RealNode] = {}
        self.told: set[str] = set()  # uids whose Pods were told, and not their end
        self._listing: deque[RealPod] | None = None  # what is left of a list that is under way
        self._as_of = 0.0
        self._proof: tuple[float, int] | None = None

    def inside(self, action: Callable[[], Any]) -> Any:
        """Does something in the event loop, and lets happen what follows from it."""

        async def turn() -> Any:
            result = action()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            return result

        return self._loop.run_until_complete(turn())

    def start(self) -> None:
        """Nodes and Services, then Pods, then serving."""
        self.list_nodes()
        self.list_services()
        self.begin_list([])
        self.go_on_listing(1 << 30)
        self.engine.is_serving = True

    def allocate(self, ask: Ask, request_id: str, decided: Callable[[], None] = lambda: None) -> asyncio.Task[bytes]:
        """A call whose caller waits for as long as a webhook may take. `decided` is told of the moment of a grant."""
        deadline = self.now() + CALL_SECONDS
        key = IdempotencyKey(request_id, repr(ask).encode())

        def encode_response(claim: Claim, warnings: Sequence[PodWarning], *_: object) -> bytes:
            decided()
            return encoded(claim, warnings, ask.constraints)

        async def call() -> bytes:
            granted = await self.engine.allocate(
                ask, key=key, encode=encode_response, is_wanted=lambda: self.now() <= deadline
            )
            return granted.response

        return cast("asyncio.Task[bytes]", self.inside(lambda: self._loop.create_task(call())))

    def commit(self, most: int = 1 << 30) -> None:
        self.inside(lambda: self.journal.commit(most))

    def die(self, written: int) -> None:
        """Killed, when some of what was submitted is written."""
        self.journal.die(written)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self.inside(lambda: None)

    def report(self, node: str, *, opened: Iterable[Key] = (), closed: Iterable[Key] = ()) -> None:
        """The agent of a node tells what has been opened and closed there since it told last."""
        change = SocketChange(
            node=NodeName(node),
            closed=[(slot_of(Protocol(protocol), number), ip) for ip, protocol, number in closed],
            opened=[(slot_of(Protocol(protocol), number), listener(ip, "sshd", 0)) for ip, protocol, number in opened],
            facts=NodeFacts(),
        )
        told = ClusterChange(reports=(change,), lists_pods=False)
        self.inside(lambda: self.engine.maintenance.observe(told))

    def tick(self) -> None:
        self.inside(self.engine.maintenance.tick)

    # -- the watch

    @property
    def is_listing(self) -> bool:
        return self._listing is not None

    def tell_pods(self, events: Sequence[Event], *, twice: bool = False) -> None:
        lines = [PODS.reader.event(event.line) for event in events]
        self.inside(lambda: list(self._pods.changed(lines)))
        if twice:
            self.inside(lambda: list(self._pods.changed(lines)))
        for event in events:
            self._reality.pod_events.remove(event)
            (self.told.discard if event.type == "DELETED" else self.told.add)(event.subject)
        self._conclude_proof()

    def tell_nodes(self, most: int) -> None:
        events = self._reality.node_events[:most]
        del self._reality.node_events[:most]
        lines = [NODES.reader.event(event.line) for event in events]
        self.inside(lambda: list(self._nodes.changed(lines)))
        for event in events:
            self.known_nodes.pop(event.subject, None)
            if event.type != "DELETED":
                self.known_nodes[event.subject] = cast("RealNode", event.seen)

    def list_nodes(self) -> None:
        """The watch was lost: a new list."""
        self._reality.node_events.clear()
        page = NODES.reader.page(self._reality.page(list(self._reality.nodes.values())))

        def tell() -> None:
            self._nodes.began()
            list(self._nodes.listed(page.items or []))
            list(self._nodes.complete(self.now()))

        self.inside(tell)
        self.known_nodes = dict(self._reality.nodes)

    def list_services(self) -> None:
        """The watch was lost: a new list."""
        page = SERVICES.reader.page(self._reality.page(list(self._reality.services.values())))

        def tell() -> None:
            self._services.began()
            list(self._services.listed(page.items or []))
            list(self._services.complete(self.now()))

        self.inside(tell)

    def tell_service(self, event: Event) -> None:
        self.inside(lambda: list(self._services.changed([SERVICES.reader.event(event.line)])))

    def begin_list(self, last: Sequence[str]) -> None:
        """The watch was lost: a list of everything as it is now, to be told page by page. `last`: uids for its end."""
        self._reality.pod_events.clear()
        self._proof = None
        self._listing = deque(sorted(self._reality.pods.values(), key=lambda pod: pod.uid in last))
        self._as_of = self.now()
        self._pods.began()

    def go_on_listing(self, most: int) -> None:
        """The next page; after the last one what the list lacks is gone."""
        assert self._listing is not None
        items = [self._listing.popleft() for _ in range(min(most, len(self._listing)))]
        page = PODS.reader.page(self._reality.page(items))
        self.inside(lambda: list(self._pods.listed(page.items or [])))
        self.told.update(pod.uid for pod in items)
        if not self._listing:
            self.inside(lambda: list(self._pods.complete(self._as_of)))
            still_coming = {event.subject for event in self._reality.pod_events if event.type == "DELETED"}
            self.told &= self._reality.pods.keys() | still_coming
            self._listing = None

    # -- proofs

    def prove(self, until: float) -> None:
        self._cluster._proven_until = max(self._cluster._proven_until, until)
        self.engine.maintenance.proven(until)

    def begin_proof(self) -> None:
        """Reads the current version; proven as soon as the watch has told everything up to it."""
        self._proof = (self.now(), self._reality.version)
        self._conclude_proof()

    def _conclude_proof(self) -> None:
        if self._proof is None or self.is_listing:
            return
        at, version = self._proof
        if all(event.version > version for event in self._reality.pod_events):
            self._proof = None
            self.prove(at)
