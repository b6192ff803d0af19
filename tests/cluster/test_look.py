"""The fresh look before a denial: who holds the port is looked up by name, and the ask is decided again."""

from __future__ import annotations

from collections.abc import Collection

import grpc
import pytest

from allocator.cluster.contract import PodRef
from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange
from hostport.v1 import allocator_pb2 as pb
from testing.kit import node, pod
from testing.servicekit import Running, Start


class Eyes:
    """A watch that can be asked: some Pods are gone, or nobody answers."""

    def __init__(self, service: Running, *, gone: Collection[str] = (), answers: bool = True, lag: float = 0.0) -> None:
        self._service = service
        self._gone = gone
        self._answers = answers
        self._lag = lag
        self.asked: list[str] = []

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        self.asked += [ref.name for ref in pods]
        gone = [ref.uid for ref in pods if ref.name in self._gone]
        self._service.engine.maintenance.observe(ClusterChange(gone_pods=gone, lists_pods=True))
        return self._answers

    def lag(self) -> float:
        return self._lag


@pytest.fixture
async def service(start: Start) -> Running:
    service = await start(rules=LedgerRules())
    holders = [pod("holder", "x:7000", at="n1"), pod("bystander", "x:9000", at="n1")]
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")], pods=holders, lists_pods=True))
    return service


def static(name: str = "web", request_id: str = "") -> pb.AllocateRequest:
    return pb.AllocateRequest(
        request_id=request_id,
        owner=pb.Owner(kind="Pod", namespace="demo", name=name),
        policy=pb.POLICY_STATIC,
        ports=[pb.PortRequest(container_port=80, host_port=7000)],
    )


def see(service: Running, eyes: Eyes) -> Eyes:
    service.engine.around.watch = eyes  # type: ignore[assignment]
    return eyes


async def test_a_holder_that_has_gone_meanwhile_is_no_reason_to_deny(service: Running) -> None:
    eyes = see(service, Eyes(service, gone=["holder"]))

    assert (await service.stub.Allocate(static())).allocation.ports[0].host_port == 7000
    assert eyes.asked == ["holder"], "who holds something else is left alone"


async def test_dynamic_looks_as_well(service: Running) -> None:
    see(service, Eyes(service, gone=["holder"]))
    request = static()
    request.policy, request.ports[0].host_port = pb.POLICY_DYNAMIC, 0
    request.range.min = request.range.max = 7000

    assert (await service.stub.Allocate(request)).allocation.ports[0].host_port == 7000


async def test_a_holder_that_is_there_denies(service: Running) -> None:
    see(service, Eyes(service))

    with pytest.raises(grpc.aio.AioRpcError, match="7000/TCP is taken"):
        await service.stub.Allocate(static())


@pytest.mark.parametrize(("lag", "code"), [(1.0, "FAILED_PRECONDITION"), (3.0, "UNAVAILABLE")])
async def test_where_nobody_can_be_asked_an_old_view_denies_nobody(service: Running, lag: float, code: str) -> None:
    see(service, Eyes(service, answers=False, lag=lag))

    with pytest.raises(grpc.aio.AioRpcError, match=code):
        await service.stub.Allocate(static())


async def test_a_mistake_needs_no_look(service: Running) -> None:
    eyes = see(service, Eyes(service))
    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
        await service.stub.Allocate(pb.AllocateRequest())

    assert eyes.asked == []
