"""What GetNode and ExplainPort tell: claims, Services and processes, and whether somebody listens."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from allocator.core.watch.listening import NoListener
from allocator.core.watch.replanner import Incident, IncidentKind
from hostport.v1 import allocator_pb2 as pb
from testing.kit import node, pod, report
from testing.servicekit import Running, Start

SERVICE = ObservedService(namespace="shop", name="web", uid="u", ports=(NodePort(protocol=Protocol.TCP, number=31080),))


@pytest.fixture
async def inhabited(start: Start) -> Running:
    """The kubelet's number is reserved. Two nodes: on n1 a Pod with two ports, of which it listens on one, and a process; a Service everywhere."""
    service = await start(rules=LedgerRules(reserved=1 << 10250, reserved_for={10250: "kubelet"}))

    def observe(**changes: Any) -> None:
        service.engine.maintenance.observe(ClusterChange(**changes))

    observe(nodes=[node("n1"), node("n2")], services=[SERVICE])
    ports = [
        pb.PortRequest(container="c", name=name, container_port=80 + at) for at, name in enumerate(("web", "admin"))
    ]
    asked = pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"),
        policy=pb.POLICY_DYNAMIC,
        ports=ports,
        constraints=pb.NodeConstraints(node_name="n1"),
    )
    claim = (await service.stub.Allocate(asked)).allocation
    observe(pods=[pod("web-0", "web:80=7000", "admin:81=7001", at="n1", carried_id=claim.id)])
    observe(reports=[report("n1", "nginx:7000", "sshd:22@10.0.0.1")])
    return service


def row(held: pb.HeldPort) -> tuple[Any, ...]:
    who = held.foreign.name if held.HasField("foreign") else held.owner.name
    return (
        held.host_port,
        held.host_ip,
        who,
        held.foreign.kind,
        pb.Listening.Name(held.listening).removeprefix("LISTENING_"),
        held.since.seconds,
    )


async def test_the_map_of_a_node_has_everything_that_is_open_or_given_there(inhabited: Running) -> None:
    found = await inhabited.stub.GetNode(pb.GetNodeRequest(name="n1"))

    assert list(map(row, found.ports)) == [
        (22, "10.0.0.1", "sshd", pb.ForeignHolder.KIND_PROCESS, "YES", 1000),
        (7000, "", "web-0", pb.ForeignHolder.KIND_UNSPECIFIED, "YES", 1000),
        (7001, "", "web-0", pb.ForeignHolder.KIND_UNSPECIFIED, "NO", 1000),
        (10250, "", "kubelet", pb.ForeignHolder.KIND_RESERVED, "UNSPECIFIED", 0),
        (31080, "", "web", pb.ForeignHolder.KIND_SERVICE, "UNSPECIFIED", 0),
    ]


async def test_nothing_is_said_of_listening_on_a_node_that_no_agent_reports(inhabited: Running) -> None:
    found = await inhabited.stub.GetNode(pb.GetNodeRequest(name="n2"))

    assert [(row(held)[2], row(held)[4]) for held in found.ports] == [
        ("kubelet", "UNSPECIFIED"),
        ("web", "UNSPECIFIED"),
    ]


ASKED = {
    "a Pod that listens": (("n1", 7000), ["web-0"], [], pb.LISTENING_YES),
    "a Pod that does not": (("n1", 7001), ["web-0"], [], pb.LISTENING_NO),
    "a process on one address": (("n1", 22), [], ["sshd"], pb.LISTENING_YES),
    "a Service": (("n1", 31080), [], ["web"], pb.LISTENING_NO),
    "a reserved number": (("n1", 10250), [], ["kubelet"], pb.LISTENING_NO),
    "a free number": (("n1", 9999), [], [], pb.LISTENING_NO),
    "a node that nobody reports": (("n2", 22), [], [], pb.LISTENING_UNSPECIFIED),
}


@pytest.mark.parametrize(("asked", "holders", "foreign", "listening"), ASKED.values(), ids=ASKED)
async def test_a_port_is_explained_by_all_who_hold_it(
    inhabited: Running,
    asked: tuple[str, int],
    holders: list[str],
    foreign: list[str],
    listening: pb.Listening.ValueType,
) -> None:
    found = await inhabited.stub.ExplainPort(pb.ExplainPortRequest(node=asked[0], host_port=asked[1]))

    assert [each.allocation.owner.name for each in found.holders] == holders
    assert [each.name for each in found.foreign] == foreign
    assert found.listening == listening


async def test_a_port_is_explained_by_the_same_rule_of_listening_as_its_row_in_lists(inhabited: Running) -> None:
    """A process on loopback holds its number, and nobody sees into the network that a Pod has of its own."""
    own = pod("own", "x:80=7002", at="n1", own_network=True)
    inhabited.engine.maintenance.observe(ClusterChange(pods=[own], reports=[report("n1", ":631@127.0.0.1")]))

    found = await inhabited.stub.ExplainPort(pb.ExplainPortRequest(node="n1", host_port=631))
    assert found.listening == pb.LISTENING_YES
    found = await inhabited.stub.ExplainPort(pb.ExplainPortRequest(node="n1", host_port=7002))
    assert found.listening == pb.LISTENING_UNSPECIFIED


async def test_a_list_says_of_each_port_whether_somebody_listens(inhabited: Running) -> None:
    (found,) = (await inhabited.stub.ListAllocations(pb.ListAllocationsRequest())).allocations

    assert [port.listening for port in found.ports] == [pb.LISTENING_YES, pb.LISTENING_NO]


async def test_an_agent_is_asked_before_its_pod_is_told_and_the_pod_is_counted(service: Running) -> None:
    told, wanted, maintenance = list[Incident](), list[str](), service.engine.maintenance
    service.engine.around.report, service.engine.around.report_now = told.append, wanted.append
    asked = pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"),
        policy=pb.POLICY_DYNAMIC,
        ports=[pb.PortRequest(container="c", name="web", container_port=80)],
    )
    maintenance.observe(ClusterChange(nodes=[node("n1")]))
    claim = (await service.stub.Allocate(asked)).allocation
    for ready_at in (None, service.now - 60):
        seen = pod("web-0", "web:80=7000", at="n1", carried_id=claim.id, ready_at=ready_at)
        maintenance.observe(ClusterChange(pods=[seen]))
    maintenance.observe(ClusterChange(reports=[report("n1", ":80")]))

    maintenance.tick()
    before = (list(wanted), list(told))
    service.now += 1
    maintenance.observe(ClusterChange(reports=[report("n1")]))
    maintenance.tick()

    assert before == (["n1"], [])
    assert [(each.kind, each.silent[0].why) for each in told] == [
        (IncidentKind.NOT_LISTENING, NoListener.CONTAINER_PORT)
    ]
    assert maintenance.incidents == {IncidentKind.NOT_LISTENING: 1}
    assert "hostport_pods_not_listening 1.0" in generate_latest(service.registry).decode()
