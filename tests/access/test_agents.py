"""Who may say what is open on a node: its own agent, and nobody else."""

from __future__ import annotations

import grpc
import pytest

from access.reviewing import account
from access.secured import AGENT, HOME, SHIM, Secured, Stub, outcome, outcome_of_stream
from allocator.core.candidates import NodeName
from hostport.v1 import allocator_pb2 as pb

ACCOUNT = account(*AGENT.split("/"))
REPORT = pb.ReportNodeRequest(
    node="localhost", snapshot=True, opened=[pb.Socket(protocol=pb.PROTOCOL_TCP, port=22, process="sshd")]
)


async def agent(secured: Secured, node: str, user: str = ACCOUNT, *, audience: str = "hostport.io") -> Stub:
    secured.server.add("agent", user, audience, node=node)
    return await secured.bearing("agent")


def has_reported(secured: Secured) -> bool:
    return secured.ledger.nodes.sockets.reported_at(NodeName("localhost")) is not None


async def test_the_agent_of_a_node_reports_of_it(secured: Secured) -> None:
    stub = await agent(secured, "localhost")

    assert await outcome(stub("ReportNode", REPORT)) == "OK"
    assert has_reported(secured)


async def test_the_agent_of_another_node_that_forges_a_report_is_refused_and_told_why(secured: Secured) -> None:
    stub = await agent(secured, "other")

    with pytest.raises(
        grpc.aio.AioRpcError, match="token is bound to node other, and it speaks of localhost"
    ) as caught:
        await stub("ReportNode", REPORT)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await outcome(stub("ReportNode", REPORT)) == "NODE_NOT_ITS_OWN"
    assert not has_reported(secured)


async def test_whoever_is_refused_before_the_node_is_known_is_counted_too(secured: Secured) -> None:
    others = [await secured.bearing("nobody"), await agent(secured, "localhost", "jane")]

    assert [await outcome(stub("ReportNode", REPORT)) for stub in others] == ["UNAUTHENTICATED", "PERMISSION_DENIED"]
    assert secured.running.application.agents.refused == {"UNAUTHENTICATED": 1, "PERMISSION_DENIED": 1}


async def test_an_agent_cannot_go_over_to_another_node_on_its_stream(secured: Secured) -> None:
    stub = await agent(secured, "localhost")
    stream = stub._stub.ReportNode(metadata=stub.metadata, timeout=30)
    await stream.write(REPORT)
    await stream.write(pb.ReportNodeRequest(node="other"))

    assert await outcome(_read(stream)) == "NODE_NOT_ITS_OWN"


async def _read(stream: grpc.aio.StreamStreamCall[pb.ReportNodeRequest, pb.ReportNodeResponse]) -> object:
    return await stream.read()


async def reporting(stub: Stub) -> str:
    """What comes of a report."""
    return await outcome_of_stream(lambda: stub("ReportNode", REPORT))


NOT_AGENTS = {
    "a token that is bound to no node": (ACCOUNT, ""),
    "another ServiceAccount of its namespace": (account(HOME, "relay"), "localhost"),
    "its name in another namespace": (account("media", "hostport-agent"), "localhost"),
    "a user with the shim's name": (SHIM, "localhost"),
}


@pytest.mark.parametrize(("user", "node"), NOT_AGENTS.values(), ids=NOT_AGENTS)
async def test_whoever_is_no_agent_reports_nothing(secured: Secured, user: str, node: str) -> None:
    secured.server.grant(user, "create delete get list", "")

    assert await reporting(await agent(secured, node, user)) == "PERMISSION_DENIED"
    assert not has_reported(secured)


async def test_a_certificate_makes_no_agent(secured: Secured) -> None:
    for name in (ACCOUNT, SHIM):
        assert await reporting(await secured.certified(name)) == "PERMISSION_DENIED"
    assert not has_reported(secured)


async def test_an_agent_does_nothing_but_report(secured: Secured) -> None:
    stub = await agent(secured, "localhost")

    assert await outcome(stub("ListNodes", pb.ListNodesRequest())) == "PERMISSION_DENIED"
    assert await outcome(stub("GetNodeAddress", pb.GetNodeAddressRequest(node="localhost"))) == "PERMISSION_DENIED"


async def test_without_agents_nobody_reports(secured: Secured) -> None:
    secured.guard._agent_name = ""

    assert await reporting(await agent(secured, "localhost")) == "PERMISSION_DENIED"
