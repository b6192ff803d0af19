"""One namespace floods the allocator over gRPC: the others get their ports, and a healthy burst is not denied."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import cast

import pytest
from google.rpc import error_details_pb2, status_pb2

from allocator.cluster.contract import PodRef
from allocator.cluster.kubernetes import LOOK_SECONDS, Lookups
from allocator.core.admission import HANDFUL, LedgerRules, Shares
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange, ObservedPod, PodUid, State
from allocator.sight import MOST_LOOKS
from hostport.v1 import allocator_pb2 as pb
from testing import kit
from testing.kit import node
from testing.servicekit import Running, Start
from testing.waiting import until

FLOOD = 3_100
VICTIMS = 20


class View:
    """A watch that shows the Pods of some namespaces soon after their admission, and never those of others."""

    def __init__(self, service: Running, shows: Collection[str], *, lag: float = 0.0) -> None:
        self._service, self._shows, self._lag = service, shows, lag

    def hurry(self) -> None: ...

    def lag(self) -> float:
        return self._lag

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        return True

    async def forever(self) -> None:
        engine = self._service.engine
        while True:
            await asyncio.sleep(0.02)
            seen = [c for c in engine.ledger.claims if c.state is State.RESERVED and c.owner.namespace in self._shows]
            pods = [
                ObservedPod(
                    uid=PodUid(c.id), namespace=c.owner.namespace, name=c.owner.name, ports=c.ports, carried_id=c.id,
                    node=NodeName("n1"),
                )
                for c in seen
            ]  # fmt: skip
            engine.maintenance.observe(ClusterChange(pods=pods, lists_pods=True))


@asynccontextmanager
async def watched(start: Start, *shows: str, lag: float = 0.0, **shares: int) -> AsyncIterator[Running]:
    service = await start(rules=LedgerRules(shares=Shares(**shares)))
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")], lists_pods=True))
    view = View(service, shows, lag=lag)
    service.engine.around.watch = view  # type: ignore[assignment]
    watching = asyncio.create_task(view.forever())
    try:
        yield service
    finally:
        watching.cancel()


def pod(namespace: str, name: str, low: int = 7000, high: int = 12000) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace=namespace, name=name),
        policy=pb.POLICY_DYNAMIC,
        range=pb.PortRange(min=low, max=high),
        ports=[pb.PortRequest(container="c", container_port=80)],
    )


async def outcomes(service: Running, *requests: pb.AllocateRequest) -> list[str]:
    """What becomes of each, all of them asked at once on one stream, as a shim does."""
    asks = [pb.AllocateStreamRequest.Ask(tag=tag, request=each) for tag, each in enumerate(requests, 1)]
    stream = service.stub.AllocateStream()
    for start in range(0, len(asks), 100):
        await stream.write(pb.AllocateStreamRequest(asks=asks[start : start + 100]))
    found: dict[int, str] = {}
    while len(found) < len(asks):
        for answer in cast("pb.AllocateStreamResponse", await stream.read()).answers:
            found[answer.tag] = "OK" if answer.HasField("response") else reason(answer.status)
    stream.cancel()
    return [found[ask.tag] for ask in asks]


def reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)


def pods(namespace: str, count: int) -> list[pb.AllocateRequest]:
    return [pod(namespace, f"p-{number}") for number in range(count)]


async def test_a_namespace_whose_pods_never_appear_leaves_the_others_their_ports(start: Start) -> None:
    async with watched(start, "victim") as service:
        flood = asyncio.create_task(outcomes(service, *pods("flood", FLOOD)))
        await until(lambda: service.engine.ledger.claims.tally().states.get(State.RESERVED) == 500)
        began = time.monotonic()
        served = [await outcomes(service, pod("victim", f"v-{n}", 7000, 8000)) for n in range(VICTIMS)]

        assert served == [["OK"]] * VICTIMS
        assert time.monotonic() - began < 10, "nobody waits in the line of another namespace"
        assert Counter(await flood) == {"OK": 500, "NAMESPACE_BACKLOG": FLOOD - 500}
        assert service.engine.ledger.claims.tally().states[State.RESERVED] == 500


class Looking(View):
    """Looks Pods up at an API server that takes a while: those of the victim have gone, without a word."""

    def __init__(self, service: Running) -> None:
        super().__init__(service, ["victim", "flood"], lag=3.0)
        self._lookups = Lookups()

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        try:
            async with asyncio.timeout(3 * LOOK_SECONDS):
                await asyncio.gather(*(self._lookups.of(asker, lambda: asyncio.sleep(0.02)) for _ in pods))
        except TimeoutError:
            return False
        gone = [ref.uid for ref in pods if ref.namespace == "victim"]
        self._service.engine.maintenance.observe(ClusterChange(gone_pods=gone, lists_pods=True))
        return True


async def test_a_hundred_conflicting_asks_of_a_namespace_leave_the_others_theirs(start: Start) -> None:
    """Each denial looks sixteen holders up: those of the victim are not behind them, and prove that they have gone."""
    async with watched(start, "victim", "flood") as service:
        engine, nodes = service.engine, [f"n{number}" for number in range(MOST_LOOKS)]
        engine.maintenance.observe(ClusterChange(nodes=[node(name) for name in nodes], lists_pods=True))
        held = [("flood", 500), *(("victim", 600 + number) for number in range(VICTIMS))]
        for namespace, port in held:
            holders = [kit.pod(f"h-{port}-{at}", f"x:{port}", namespace=namespace, at=at) for at in nodes]
            engine.maintenance.observe(ClusterChange(pods=holders, lists_pods=True))
        engine.around.watch = Looking(service)  # type: ignore[assignment]

        flood = asyncio.create_task(outcomes(service, *(static("flood", f"s-{n}", 500) for n in range(100))))
        await asyncio.sleep(0.05)
        served = [await outcomes(service, static("victim", f"v-{n}", 600 + n)) for n in range(VICTIMS)]

        assert served == [["OK"]] * VICTIMS, "looked up in time, and gone"
        assert set(await flood) <= {"PORT_CONFLICT", "VIEW_STALE"}


def static(namespace: str, name: str, number: int) -> pb.AllocateRequest:
    request = pod(namespace, name)
    request.policy, request.ports[0].host_port = pb.POLICY_STATIC, number
    return request


async def test_a_healthy_burst_waits_for_its_own_pods_and_is_not_denied(start: Start) -> None:
    async with watched(start, "busy") as service:
        assert Counter(await outcomes(service, *pods("busy", 3_000))) == {"OK": 3_000}


async def test_exempt_pods_of_a_restricted_namespace_are_a_little_slower_and_not_denied(start: Start) -> None:
    async with watched(start, "exempt") as service:
        service.engine.maintenance.observe(ClusterChange(enforced={"exempt": "restricted"}, lists_pods=False))

        count = 10 * HANDFUL.reservations
        assert Counter(await outcomes(service, *pods("exempt", count))) == {"OK": count}


async def test_an_old_view_accuses_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.sight.SIGHT_SECONDS", 0.1)
    async with watched(start, lag=11.0, reservations=1) as service:
        assert await outcomes(service, *pods("web", 2)) == ["OK", "VIEW_STALE"]
