"""Services whose node port a Pod has, as callers of the gRPC API see them, over a real socket."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict
from test_service import two_ports

from allocator.core.admission import LedgerRules
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from hostport.v1 import allocator_pb2 as pb
from testing.servicekit import Running, Start

KIND = {"kind": "KIND_SERVICE"}
NAMED = KIND | {"namespace": "shop", "name": "web"}


def observe(service: Running, namespace: str, *numbers: int) -> None:
    ports = tuple(NodePort(protocol=Protocol.TCP, number=number) for number in numbers)
    web = ObservedService(namespace=namespace, name="web", uid="u", ports=ports)
    service.engine.maintenance.observe(ClusterChange(services=[web]))


def conflicts(allocation: pb.Allocation) -> list[object]:
    return [MessageToDict(port.conflict) if port.HasField("conflict") else None for port in allocation.ports]


async def seen(service: Running, allocation: pb.Allocation) -> dict[str, list[object]]:
    """The conflicts of an allocation, by who asks."""
    stub, name = service.stub, allocation.id
    everywhere = await stub.ListAllocations(pb.ListAllocationsRequest())
    own = await stub.ListAllocations(pb.ListAllocationsRequest(namespace="demo"))
    one = await stub.GetAllocation(pb.GetAllocationRequest(id=name))
    explained = await stub.ExplainPort(pb.ExplainPortRequest(node=allocation.node, host_port=10000))
    return {
        "everywhere": conflicts(everywhere.allocations[0]),
        "its namespace": conflicts(own.allocations[0]),
        "by id": conflicts(one.allocation),
        "explained": conflicts(explained.holders[0].allocation),
    }


async def test_a_port_that_a_later_service_holds_is_told_with_the_service(service: Running) -> None:
    allocation = (await service.stub.Allocate(two_ports())).allocation
    assert conflicts(allocation) == [None, None]

    observe(service, "shop", 10000)
    assert await seen(service, allocation) == {
        "everywhere": [NAMED, None],
        "its namespace": [KIND, None],
        "by id": [KIND, None],
        "explained": [NAMED, None],
    }

    observe(service, "shop", 10100)
    assert (await seen(service, allocation))["everywhere"] == [None, NAMED]
    observe(service, "shop")
    assert (await seen(service, allocation))["everywhere"] == [None, None]


@pytest.mark.parametrize(
    ("namespace", "rules", "known"),
    [("demo", {}, True), ("shop", {"discloses_holders": True}, True), ("shop", {}, False)],
    ids=["of the same namespace", "where the operator allows it", "of another namespace"],
)
async def test_who_may_know_of_a_namespace_alone_is_told_the_services_of_that(
    start: Start, namespace: str, rules: dict[str, bool], known: bool
) -> None:
    service = await start(rules=LedgerRules(implicit_node=NodeName("localhost"), **rules))  # type: ignore[arg-type]
    allocation = (await service.stub.Allocate(two_ports())).allocation
    observe(service, namespace, 10000)

    (conflict, _) = (await seen(service, allocation))["its namespace"]
    assert conflict == (KIND | {"namespace": namespace, "name": "web"} if known else KIND)
