"""GetStatus: how the allocator is, also while it answers nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from allocator.access.guard import MOST_CALLERS, RecentCallers
from allocator.cluster.contract import Observer, PodRef
from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange
from allocator.core.foreign import ServiceName
from hostport.v1 import allocator_pb2 as pb
from hostport.version import VERSION
from testing.kit import node
from testing.servicekit import Running, Start


class Call:
    """What gRPC tells of a call."""

    def __init__(self, peer: str, agent: str) -> None:
        self._peer, self._agent = peer, agent

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", self._agent),)


UNSEEN = ["services are not seen"]


class LateWatch:
    """A view that was last proven `seconds` ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def progress(self) -> str:
        return ""

    def lag(self) -> float:
        return self._seconds

    def relists(self) -> int:
        return 2

    def unseen(self) -> list[str]:
        return UNSEEN

    def hurry(self) -> None: ...

    def mark(self) -> int:
        return 0

    async def caught_up(self, mark: int, version: int | None) -> None: ...

    def latest(self) -> int:
        return 0

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        return True

    async def look_up_services(self, services: Collection[ServiceName], asker: str) -> bool:
        return True

    async def run(self, observer: Observer) -> None: ...

    async def synced(self) -> None: ...


class HeldLease:
    """A Lease that is ours, until it is not."""

    place = ("hostport-system", "hostport-allocator")
    identity = "uid/start"
    valid = True

    def is_valid(self) -> bool:
        return self.valid


async def ask(service: Running) -> pb.GetStatusResponse:
    answer: pb.GetStatusResponse = await service.stub.GetStatus(pb.GetStatusRequest())
    return answer


async def test_it_tells_what_there_is_and_who_has_called(service: Running) -> None:
    service.metrics.certificate("allocator", lambda: 5000.5)
    service.metrics.trust(lambda: {"5f2c9d3e8a7b6c10": 9000.0, "0a1b2c3d4e5f6071": 6000.0})
    service.now = 1010.0
    await service.stub.Allocate(
        pb.AllocateRequest(owner=pb.Owner(kind="Relay", name="r"), policy=pb.POLICY_DYNAMIC, ports=[pb.PortRequest()])
    )

    told = MessageToDict(await ask(service))

    assert told["callers"][0].pop("version")
    assert told == {
        "version": VERSION,
        "startTime": "1970-01-01T00:16:40Z",
        "currentTime": "1970-01-01T00:16:50Z",
        "cluster": "none",
        "serving": True,
        "journal": {"kind": "memory"},
        "claims": [
            {"state": "STATE_RESERVED"},
            {"state": "STATE_CONFIRMED"},
            {"state": "STATE_BOUND"},
            {"state": "STATE_LEASED", "count": 1},
        ],
        "nodeCount": 1,
        "certificates": [{"name": "allocator", "expireTime": "1970-01-01T01:23:20.500Z"}],
        "authorities": [
            {"name": "5f2c9d3e8a7b6c10", "expireTime": "1970-01-01T02:30:00Z"},
            {"name": "0a1b2c3d4e5f6071", "expireTime": "1970-01-01T01:40:00Z"},
        ],
        "callers": [{"program": "grpc-python-asyncio", "address": "127.0.0.1", "callTime": "1970-01-01T00:16:50Z"}],
    }


async def test_it_answers_while_the_allocator_starts_and_says_what_it_waits_for(service: Running) -> None:
    service.engine.is_serving = False
    service.health.waiting_for = lambda: "the first full view of kubernetes"

    told = await ask(service)

    assert (told.serving, told.waiting_for) == (False, "the first full view of kubernetes")
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await service.stub.ListNodes(pb.ListNodesRequest())


@pytest.mark.parametrize(
    ("lag", "expected"),
    [
        (math.inf, {"relistCount": 2, "unseen": UNSEEN}),
        (12.5, {"relistCount": 2, "unseen": UNSEEN, "lag": "12.500s", "proofTime": "1970-01-01T00:16:27.500Z"}),
    ],
    ids=["never proven", "proven a while ago"],
)
async def test_it_tells_how_old_the_view_is(service: Running, lag: float, expected: dict[str, object]) -> None:
    service.engine.around.watch = LateWatch(lag)

    assert MessageToDict(await ask(service))["watch"] == expected


async def test_it_tells_whether_the_lease_is_its_own(service: Running) -> None:
    lease = HeldLease()
    service.health.lease = lease
    service.engine.around.holds_lease = lease.is_valid
    status = service.status
    held = pb.GetStatusResponse.Lease(
        namespace="hostport-system", name="hostport-allocator", identity="uid/start", held=True
    )

    assert (status.response().serving, status.response().lease) == (True, held)
    lease.valid = held.held = False
    assert (status.response().serving, status.response().lease) == (False, held)
    assert status.response().waiting_for == "its Lease, which it cannot renew: another allocator may take over"


async def test_an_allocation_tells_where_it_may_run_and_from_which_bounds_it_came(start: Start) -> None:
    service = await start(rules=LedgerRules())
    labels = [(("disk", "ssd"),), (("disk", "ssd"),), ()]
    nodes = [node(f"n{at}", labels=dict(pairs)) for at, pairs in enumerate(labels)]
    service.engine.maintenance.observe(ClusterChange(nodes=nodes, lists_pods=True))
    asked = pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"),
        policy=pb.POLICY_DYNAMIC,
        range=pb.PortRange(min=9000, max=9100),
        ports=[pb.PortRequest(container="c", container_port=80)],
        constraints=pb.NodeConstraints(node_selector={"disk": "ssd"}),
    )
    claim_id = (await service.stub.Allocate(asked)).allocation.id

    found = await service.stub.GetAllocation(pb.GetAllocationRequest(id=claim_id))

    assert (found.candidate_count, found.range) == (2, pb.PortRange(min=9000, max=9100))


# -- callers


def seen(callers: RecentCallers) -> list[tuple[str, str, str, int]]:
    return [(c.program, c.version, c.address, int(c.at)) for c in callers.recent()]


def test_connections_of_one_program_at_one_address_are_one_caller() -> None:
    at = iter([1.0, 2.0, 3.0, 4.0])
    callers = RecentCallers(lambda: next(at))
    shim = "hostport-shim/1.2.0 grpc-python-asyncio/1.85.1"
    callers.note(Call("ipv4:10.0.0.1:5000", shim))
    callers.note(Call("ipv6:%5Bfd00::7%5D:5000", "grpcurl/v1.9"))
    callers.note(Call("ipv4:10.0.0.1:5001", shim))
    callers.note(Call("ipv4:10.0.0.1:5000", "not read again"))

    assert seen(callers) == [("hostport-shim", "1.2.0", "10.0.0.1", 4), ("grpcurl", "v1.9", "fd00::7", 2)]


def test_who_called_longest_ago_is_forgotten_first() -> None:
    at = iter(float(second) for second in range(1000))
    callers = RecentCallers(lambda: next(at))
    for number in range(MOST_CALLERS):
        callers.note(Call(f"ipv4:10.0.0.{number}:1", "x/1"))
    callers.note(Call("ipv4:10.0.0.0:1", "x/1"))
    callers.note(Call("ipv4:10.1.0.0:1", "x/1"))

    addresses = {address for _, _, address, _ in seen(callers)}
    assert len(addresses) == MOST_CALLERS
    assert {"10.0.0.0", "10.1.0.0"} <= addresses
    assert "10.0.0.1" not in addresses
