"""What callers of the gRPC API see, over a real socket."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from allocator.core.addresses import NodeAddress
from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange
from hostport.v1 import allocator_pb2 as pb
from testing.kit import node
from testing.servicekit import Running, Start


def two_ports(name: str = "db-0", **fields: Any) -> pb.AllocateRequest:
    """The README's StatefulSet, replica 0."""
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=name, generate_name="db-", controller_uid="sts"),
        ports=[
            pb.PortRequest(container="node", name="primary", container_port=8080),
            pb.PortRequest(container="node", name="metrics", container_port=9090),
        ],
        index=int(name.rpartition("-")[2]),
        range=pb.PortRange(min=10000),
        **fields,
    )


def lease(name: str, seconds: int = 60, **fields: Any) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Relay", namespace="media", name=name, description="RTP relay"),
        policy=pb.POLICY_DYNAMIC,
        ports=[pb.PortRequest(name="rtp", protocol=pb.PROTOCOL_UDP)],
        ttl=Duration(seconds=seconds),
        **fields,
    )


async def test_the_allocation_says_everything_about_itself(service: Running) -> None:
    response = await service.stub.Allocate(two_ports())

    assert response == pb.AllocateResponse(
        allocation=pb.Allocation(
            id=f"{1:032x}",
            state=pb.STATE_RESERVED,
            owner=pb.Owner(kind="Pod", namespace="demo", name="db-0", generate_name="db-", controller_uid="sts"),
            node="localhost",
            ports=[
                pb.AllocatedPort(
                    container="node", name="primary", protocol=pb.PROTOCOL_TCP, container_port=8080, host_port=10000
                ),
                pb.AllocatedPort(
                    container="node", name="metrics", protocol=pb.PROTOCOL_TCP, container_port=9090, host_port=10100
                ),
            ],
            create_time=Timestamp(seconds=1000),
        )
    )
    found = await service.stub.GetAllocation(pb.GetAllocationRequest(id=response.allocation.id))
    assert found.allocation == response.allocation


async def test_a_batch_is_granted_whole_or_not_at_all(service: Running) -> None:
    await service.stub.Allocate(two_ports("db-1"))
    request = two_ports("db-0", policy=pb.POLICY_STATIC)
    request.ports[0].host_port, request.ports[1].host_port = 7777, 10101  # the second is taken
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Allocate(request)

    listed = (await service.stub.ListAllocations(pb.ListAllocationsRequest())).allocations
    assert [a.owner.name for a in listed] == ["db-1"]


async def test_a_dry_run_previews_and_takes_nothing(service: Running) -> None:
    for _ in range(2):
        preview = (await service.stub.Allocate(two_ports(dry_run=True, request_id="r1"))).allocation
        assert (preview.id, [p.host_port for p in preview.ports]) == ("", [10000, 10100])

    assert not (await service.stub.ListAllocations(pb.ListAllocationsRequest())).allocations


async def test_a_repeated_request_gets_its_first_answer_also_across_a_restart(start: Start) -> None:
    service = await start(durable=True)
    first = await service.stub.Allocate(two_ports(request_id="r1"))
    again = await asyncio.gather(*(service.stub.Allocate(two_ports(request_id="r1")) for _ in range(5)))
    assert again == [first] * 5

    service = await start(durable=True)
    assert await service.stub.Allocate(two_ports(request_id="r1")) == first
    assert len((await service.stub.ListAllocations(pb.ListAllocationsRequest())).allocations) == 1


async def test_concurrent_repetitions_are_one_allocation(start: Start) -> None:
    service = await start(durable=True)

    answers = await asyncio.gather(*(service.stub.Allocate(two_ports(request_id="r1")) for _ in range(20)))

    assert len({a.allocation.id for a in answers}) == 1
    assert len(list(service.engine.ledger.claims)) == 1


async def test_a_request_whose_allocation_has_ended_is_refused_for_ten_minutes_and_then_is_a_new_one(
    start: Start,
) -> None:
    service = await start(durable=True)
    first = await service.stub.Allocate(two_ports(request_id="r1"))
    await service.stub.Release(pb.ReleaseRequest(id=first.allocation.id))

    for seconds in (0, 600):
        service.now += seconds
        service.engine.maintenance.tick()
        with pytest.raises(grpc.aio.AioRpcError, match=f"NOT_FOUND.*{first.allocation.id}.* has ended"):
            await service.stub.Allocate(two_ports(request_id="r1"))

    service.now += 1
    service.engine.maintenance.tick()
    assert (await service.stub.Allocate(two_ports(request_id="r1"))).allocation.id != first.allocation.id


async def test_a_lease_that_has_run_out_is_not_answered_as_granted_before_the_next_tick(service: Running) -> None:
    await service.stub.Allocate(lease("r1", request_id="q"))
    service.now += 60

    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await service.stub.Allocate(lease("r1", request_id="q"))


async def test_denials_are_not_kept(service: Running) -> None:
    holder = await service.stub.Allocate(two_ports("db-0"))
    wanted = two_ports("db-0", request_id="r1")
    wanted.owner.name = "other"
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Allocate(wanted)
    await service.stub.Release(pb.ReleaseRequest(id=holder.allocation.id))

    assert (await service.stub.Allocate(wanted)).allocation.ports[0].host_port == 10000


async def test_releasing_what_is_gone_is_fine(service: Running) -> None:
    claim = (await service.stub.Allocate(two_ports())).allocation
    for _ in range(2):
        assert await service.stub.Release(pb.ReleaseRequest(id=claim.id)) == pb.ReleaseResponse()
    await service.stub.Release(pb.ReleaseRequest(id="never was"))

    again = await service.stub.Allocate(two_ports())
    assert again.allocation.ports == claim.ports


async def test_a_lease_lives_as_long_as_it_is_renewed(start: Start) -> None:
    service = await start(durable=True)
    claim = (await service.stub.Allocate(lease("r1"))).allocation
    assert (claim.state, claim.expire_time.seconds) == (pb.STATE_LEASED, 1060)

    service.now += 59
    renewed = (await service.stub.Renew(pb.RenewRequest(id=claim.id, ttl=Duration(seconds=120)))).allocation
    assert renewed.expire_time.seconds == 1179
    service = await start(durable=True)
    service.now = 1178.0
    service.engine.maintenance.tick()
    assert (await service.stub.GetAllocation(pb.GetAllocationRequest(id=claim.id))).allocation == renewed
    service.now = 1179.0
    service.engine.maintenance.tick()
    await asyncio.gather(*service.engine.changes.ending.values())
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await service.stub.GetAllocation(pb.GetAllocationRequest(id=claim.id))


async def test_a_cancelled_call_leaves_a_consistent_ledger(start: Start) -> None:
    service = await start(durable=True)
    calls = [service.stub.Allocate(two_ports(f"db-{n}")) for n in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    await service.stub.Allocate(lease("behind them all"))
    granted = {a.allocation.id for a in answers if isinstance(a, pb.AllocateResponse)}
    live = {claim.id for claim in service.engine.ledger.claims}
    assert granted <= live
    assert not service.engine.ledger._store.pending
    restarted = await start(durable=True)
    assert {claim.id for claim in restarted.engine.ledger.claims} == live


async def test_an_expired_deadline_changes_nothing(service: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
        await service.stub.Allocate(two_ports(), timeout=-1)

    assert list(service.engine.ledger.claims) == []


async def test_lists_are_paged_and_filtered(service: Running) -> None:
    for number in range(5):
        await service.stub.Allocate(two_ports(f"db-{number}"))
    await service.stub.Allocate(lease("r1"))

    seen: list[str] = []
    request = pb.ListAllocationsRequest(page_size=2, namespace="demo")
    for size in (2, 2, 1):
        page = await service.stub.ListAllocations(request)
        assert len(page.allocations) == size
        seen += [a.owner.name for a in page.allocations]
        request.page_token = page.next_page_token
    assert (request.page_token, seen) == ("", [f"db-{n}" for n in range(5)])
    for filters, count in (
        ({"owner_name": "db-3"}, 1),
        ({"state": pb.STATE_LEASED}, 1),
        ({"node": "elsewhere"}, 0),
        ({"page_size": 100_000}, 6),
    ):
        page = await service.stub.ListAllocations(pb.ListAllocationsRequest(**filters))
        assert len(page.allocations) == count, filters


async def test_a_node_shows_its_port_map(service: Running) -> None:
    claim = (await service.stub.Allocate(two_ports())).allocation

    found = await service.stub.GetNode(pb.GetNodeRequest(name="localhost"))

    assert found.node == pb.Node(name="localhost", known=True, allocation_count=1, held_port_count=2)
    assert [(p.host_port, p.allocation_id, p.owner.name) for p in found.ports] == [
        (22, "", ""),
        (6443, "", ""),
        (10000, claim.id, "db-0"),
        (10100, claim.id, "db-0"),
    ]
    assert [p.foreign.kind for p in found.ports[:2]] == [pb.ForeignHolder.KIND_RESERVED] * 2
    assert (await service.stub.ListNodes(pb.ListNodesRequest())).nodes == [found.node]


async def test_the_address_of_a_node_is_told(start: Start) -> None:
    service = await start(rules=LedgerRules())
    address = NodeAddress(address="198.51.100.7", ipv4="198.51.100.7", ipv6="2001:db8::7")
    nodes = [node("n1", address=address), node("n2")]
    service.engine.maintenance.observe(ClusterChange(nodes=nodes, lists_pods=False))

    assert await service.stub.GetNodeAddress(pb.GetNodeAddressRequest(node="n1")) == pb.GetNodeAddressResponse(
        address="198.51.100.7", ipv4="198.51.100.7", ipv6="2001:db8::7"
    )
    listed = (await service.stub.ListNodes(pb.ListNodesRequest())).nodes
    assert [(each.name, each.address) for each in listed] == [("n1", "198.51.100.7"), ("n2", "")]
    for name in ("n2", "ghost", ""):
        with pytest.raises(grpc.aio.AioRpcError, match="no address of node"):
            await service.stub.GetNodeAddress(pb.GetNodeAddressRequest(node=name))


async def test_a_pod_of_a_namespace_with_the_label_hears_that_it_will_be_told_its_address(start: Start) -> None:
    service = await start(rules=LedgerRules())
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")], addressed={"demo"}, lists_pods=False))
    told = await service.stub.Allocate(two_ports("db-0"))
    service.engine.maintenance.observe(ClusterChange(addressed=(), lists_pods=False))
    untold = await service.stub.Allocate(two_ports("db-1"))

    assert (told.external_address, untold.external_address) == (True, False)


async def test_node_constraints_travel_over_the_wire(start: Start) -> None:
    service = await start(rules=LedgerRules())
    service.engine.maintenance.observe(
        ClusterChange(
            nodes=[node("n1"), node("n2", labels={"disk": "ssd"}), node("n3", labels={"disk": "hdd"})], lists_pods=False
        )
    )
    constraints = [
        pb.NodeConstraints(node_name="n3"),
        pb.NodeConstraints(node_selector={"disk": "ssd"}),
        pb.NodeConstraints(
            required_affinity=[
                pb.NodeTerm(match_fields=[pb.NodeRequirement(key="metadata.name", operator="In", values=["n1"])])
            ]
        ),
        pb.NodeConstraints(
            required_affinity=[
                pb.NodeTerm(match_expressions=[pb.NodeRequirement(key="disk", operator="NotIn", values=["ssd"])])
            ]
        ),
    ]

    planned = [
        (await service.stub.Allocate(two_ports(f"db-{n}", constraints=c))).allocation.node
        for n, c in enumerate(constraints)
    ]

    assert planned == ["n3", "n2", "n1", "n1"]


async def test_a_namespace_that_refuses_host_network_is_pointed_out(service: Running) -> None:
    service.engine.maintenance.observe(ClusterChange(enforced={"demo": "baseline"}, lists_pods=False))

    (warning,) = (await service.stub.Allocate(two_ports())).warnings

    assert warning.reason == "POD_SECURITY"
    assert "baseline" in warning.message


async def test_decisions_are_counted_by_policy_result_and_reason(service: Running) -> None:
    await service.stub.Allocate(two_ports(policy=pb.POLICY_INDEX))
    await service.stub.Allocate(two_ports(policy=pb.POLICY_INDEX, dry_run=True))
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Allocate(two_ports(policy=pb.POLICY_STATIC))

    def count(policy: str, result: str, reason: str) -> float | None:
        labels = {"policy": policy, "result": result, "reason": reason}
        return service.registry.get_sample_value("hostport_allocations_total", labels)

    assert count("INDEX", "granted", "") == 1
    assert count("INDEX", "previewed", "") == 1
    assert count("STATIC", "refused", "HOST_PORT_MISSING") == 1


@pytest.mark.parametrize("letter", ["a", "ü"], ids=["ASCII", "letters that gRPC writes with escapes"])
@pytest.mark.parametrize("length", [20, 63])
async def test_many_mistakes_never_cost_the_answer(service: Running, letter: str, length: int) -> None:
    """Trailers above 8 KiB are refused by chance, and those above 16 KiB always."""
    for ports in (5, 40, 200):
        names = [f"{letter * length}{at}" for at in range(ports)]
        request = pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", name="db-0"),
            policy=pb.POLICY_STATIC,
            ports=[pb.PortRequest(container=name, name=name, container_port=80) for name in names],
        )

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.stub.Allocate(request)

        error = refused.value
        trailers = dict(error.trailing_metadata() or ())
        assert (error.code(), "grpc-status-details-bin" in trailers) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert len(quote(error.details() or "")) + len(trailers["grpc-status-details-bin"]) < 8_000


# -- blocks


def block(name: str = "sfu-0", **fields: Any) -> pb.AllocateRequest:
    port = pb.PortRequest(container="sfu", name="media", protocol=pb.PROTOCOL_UDP, container_port=10000, count=100)
    wanted: dict[str, Any] = {"ports": [port], "range": pb.PortRange(min=20000, max=20999)} | fields
    owner = pb.Owner(kind="Pod", namespace="demo", name=name)
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, **wanted)


async def test_a_block_is_one_port_with_a_count_in_every_answer(service: Running) -> None:
    allocation = (await service.stub.Allocate(block(request_id="q"))).allocation
    (port,) = allocation.ports
    assert port == pb.AllocatedPort(
        container="sfu", name="media", protocol=pb.PROTOCOL_UDP, container_port=10000, host_port=20000, count=100
    )
    assert (await service.stub.Allocate(block(request_id="q"))).allocation == allocation

    node_response = await service.stub.GetNode(pb.GetNodeRequest(name="localhost"))
    assert [(p.host_port, p.count) for p in node_response.ports if p.allocation_id] == [(20000, 100)]
    assert (node_response.node.allocation_count, node_response.node.held_port_count) == (1, 100)
    listed = await service.stub.ListAllocations(pb.ListAllocationsRequest())
    assert [one.ports for one in listed.allocations] == [allocation.ports]


@pytest.mark.parametrize(
    ("number", "holders"),
    [
        pytest.param(19999, [], id="before it"),
        pytest.param(20000, ["sfu-0"], id="its first"),
        pytest.param(20050, ["sfu-0"], id="one inside"),
        pytest.param(20099, ["sfu-0"], id="its last"),
        pytest.param(20100, [], id="behind it"),
    ],
)
async def test_who_holds_a_number_of_a_block_is_found(service: Running, number: int, holders: list[str]) -> None:
    await service.stub.Allocate(block())

    asked = pb.ExplainPortRequest(node="localhost", protocol=pb.PROTOCOL_UDP, host_port=number)
    found = await service.stub.ExplainPort(asked)
    assert [holder.allocation.owner.name for holder in found.holders] == holders


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"count": 1025}, id="1,025 numbers"),
        pytest.param({"count": 1 << 31}, id="more than there are"),
        pytest.param({"count": 2, "alignment": 1025}, id="an alignment that nobody wants"),
    ],
)
async def test_a_count_that_cannot_be_is_refused(service: Running, fields: dict[str, Any]) -> None:
    port = pb.PortRequest(container="sfu", name="media", container_port=10000, **fields)
    with pytest.raises(grpc.aio.AioRpcError, match=r"of port media \(10000/TCP\) of container sfu is not in 1\.\.1024"):
        await service.stub.Allocate(block(ports=[port]))


async def test_the_numbers_of_all_ports_are_at_most_1024(service: Running) -> None:
    def ports(*counts: int) -> list[pb.PortRequest]:
        return [
            pb.PortRequest(container="c", name=f"p{n}", container_port=1 + n, count=count)
            for n, count in enumerate(counts)
        ]

    with pytest.raises(grpc.aio.AioRpcError, match="2 ports stand for 1025 numbers in all, and at most 1024"):
        await service.stub.Allocate(block(ports=ports(1024, 0), range=pb.PortRange(min=20000, max=30000)))
    granted = await service.stub.Allocate(block(ports=ports(1023, 1), range=pb.PortRange(min=20000, max=30000)))
    assert [port.count for port in granted.allocation.ports] == [1023, 0]
