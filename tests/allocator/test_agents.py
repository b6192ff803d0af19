"""ReportNode over real gRPC: what the agents of nodes say comes into the books, and what is wanted comes to them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agent.stream import STEADY_SECONDS, Pauses
from allocator import agents, sight
from allocator.agent_budget import (
    BURST,
    BURST_STREAMS,
    PER_SECOND,
    REFUSED_SECONDS,
    STREAMS_PER_SECOND,
    AgentBudget,
)
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange
from allocator.core.ports import WILDCARD, Protocol, slot_of, span
from allocator.core.sockets import NodeFacts, NodeSockets, SocketChange, listener
from allocator.node_reports import Report
from allocator.slices import TimeSlice
from hostport.contract.limits import MOST_FOREIGN, MOST_SOCKETS
from hostport.v1 import allocator_pb2 as pb
from testing.kit import node, pod
from testing.servicekit import Running
from testing.waiting import until

N1 = NodeName("n1")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(agents, "LOOK_SECONDS", 0.01)


@pytest.fixture
def full(service: Running) -> Running:
    """An allocator that knows the node n1."""
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1")]))
    return service


def socket(number: int, process: str = "sshd", **fields: Any) -> pb.Socket:
    return pb.Socket(protocol=fields.pop("protocol", pb.PROTOCOL_TCP), port=number, process=process, **fields)


def snapshot(*numbers: int, **fields: Any) -> pb.ReportNodeRequest:
    return pb.ReportNodeRequest(node="n1", snapshot=True, opened=[socket(n) for n in numbers], **fields)


@asynccontextmanager
async def looking(service: Running) -> AsyncIterator[None]:
    """The loop that looks after the streams runs, as it does in the program."""
    loop = asyncio.create_task(service.application.agents.forever())
    try:
        yield
    finally:
        loop.cancel()


@asynccontextmanager
async def agent(service: Running, *messages: pb.ReportNodeRequest) -> AsyncIterator[Any]:
    """A stream that has told these."""
    stream = service.stub.ReportNode()
    for message in messages:
        with suppress(grpc.aio.AioRpcError):  # who does not take it may have ended it by now: `ended` says why
            await stream.write(message)
    try:
        yield stream
    finally:
        stream.cancel()


def opened(service: Running) -> list[int] | None:
    """The numbers that are open on n1; None: its agent has told no whole report."""
    sockets = service.engine.ledger.nodes.sockets.of(N1)
    if sockets is None or sockets.reported_at is None:
        return None
    return sorted({slot >> 2 for slot, _ in sockets})


async def ended(stream: Any) -> tuple[str, str]:
    """The reason and the sentence with which a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return info.reason, str(caught.value.details())


async def test_a_snapshot_and_what_changes_since_come_into_the_books(full: Running) -> None:
    async with agent(full, snapshot(22, 80)) as stream:
        await until(lambda: opened(full) == [22, 80])

        await stream.write(pb.ReportNodeRequest(opened=[socket(443)], closed=[socket(80)]))
        await until(lambda: opened(full) == [22, 443])

        await stream.write(snapshot(22))
        await until(lambda: opened(full) == [22])


async def test_a_report_counts_when_its_last_message_is_there(full: Running) -> None:
    async with agent(full, snapshot(22, more=True)) as stream:
        await asyncio.sleep(0.02)
        assert opened(full) is None

        await stream.write(pb.ReportNodeRequest(opened=[socket(80)]))
        await until(lambda: opened(full) == [22, 80])


async def test_a_node_tells_what_its_agent_said_and_when(full: Running) -> None:
    facts = {"ephemeral_range": pb.PortRange(min=32768, max=60999), "reserves": True}
    async with agent(full, snapshot(22, 20000, **facts)):
        await until(lambda: opened(full) is not None)
        full.engine.maintenance.observe(ClusterChange(pods=[pod("game", "x:20000", at="n1")]))
        report = (await full.stub.GetNode(pb.GetNodeRequest(name="n1"))).node.report

        assert report == pb.NodeReport(
            report_time=Timestamp(seconds=1000),
            current=True,
            ephemeral_range=pb.PortRange(min=32768, max=60999),
            foreign_port_count=1,
            reserves=True,
        )
        assert (await full.stub.GetStatus(pb.GetStatusRequest())).agent_count == 1

    await until(lambda: len(full.application.agents) == 0)
    full.now += 121
    full.engine.maintenance.tick()
    (listed,) = [n for n in (await full.stub.ListNodes(pb.ListNodesRequest())).nodes if n.name == "n1"]
    assert (listed.report.current, listed.report.foreign_port_count) == (False, 1), "it stands, and its age is told"


async def test_who_looks_at_a_node_has_its_agent_report_at_once(full: Running) -> None:
    async with agent(full, snapshot(22)) as stream:
        await until(lambda: opened(full) is not None)
        full.now += 3
        full.engine.maintenance.tick()
        await full.stub.GetNode(pb.GetNodeRequest(name="n1"))

        assert await stream.read() == pb.ReportNodeResponse(report_now=True)


async def test_an_agent_that_reserves_is_told_the_numbers_that_are_given_as_they_change(full: Running) -> None:
    async with looking(full), agent(full, snapshot(22, reserves=True)) as stream:
        assert await stream.read() == pb.ReportNodeResponse(has_given=True)

        full.engine.maintenance.observe(ClusterChange(pods=[pod("game", "x:20000", "y:20001", "z:30000", at="n1")]))
        given = [pb.PortRange(min=20000, max=20001), pb.PortRange(min=30000, max=30000)]
        assert await stream.read() == pb.ReportNodeResponse(has_given=True, given=given)


async def test_a_new_stream_of_a_node_ends_the_one_before(full: Running) -> None:
    async with agent(full, snapshot(22)) as first:
        await until(lambda: opened(full) == [22])
        async with agent(full, snapshot(80)):
            assert (await ended(first))[0] == "REPORT_REPLACED"
            await until(lambda: opened(full) == [80])
            assert len(full.application.agents) == 1


async def test_a_stream_that_goes_while_it_waits_for_the_one_before_holds_up_nobody(full: Running) -> None:
    gate = asyncio.Event()

    async def slow_to_end() -> AsyncIterator[pb.ReportNodeRequest]:
        yield snapshot(22)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.wait()
            raise

    async def once() -> AsyncIterator[pb.ReportNodeRequest]:
        yield snapshot(80)

    async def send(_: pb.ReportNodeResponse) -> bool:
        return True

    follow = full.application.agents.follow
    first = asyncio.create_task(follow(slow_to_end(), None, send))
    await until(lambda: opened(full) == [22])
    second = asyncio.create_task(follow(once(), None, send))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    third = asyncio.create_task(follow(once(), None, send))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(30):
        await third

    assert opened(full) == [80]
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Refused)


async def test_what_was_said_stands_when_the_stream_ends_and_goes_with_the_node(full: Running) -> None:
    async with agent(full, snapshot(22)) as stream:
        await until(lambda: opened(full) == [22])
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    assert opened(full) == [22]

    full.engine.maintenance.observe(ClusterChange(gone_nodes=[N1]))
    assert opened(full) is None


async def test_after_its_node_was_gone_an_agent_has_to_begin_anew(full: Running) -> None:
    async with agent(full, snapshot(22)) as stream:
        await until(lambda: opened(full) == [22])
        full.engine.maintenance.observe(ClusterChange(gone_nodes=[N1]))
        full.engine.maintenance.observe(ClusterChange(nodes=[node("n1")]))
        await stream.write(pb.ReportNodeRequest(opened=[socket(80)]))

        assert (await ended(stream))[0] == "REPORT_REPLACED"
    assert opened(full) is None


@pytest.mark.parametrize("pause", [1, 2])
async def test_a_report_in_whose_midst_its_node_goes_and_comes_back_is_told_anew(
    full: Running, monkeypatch: pytest.MonkeyPatch, pause: int
) -> None:
    pauses = itertools.count(1)

    async def rest(_: TimeSlice) -> None:
        if next(pauses) == pause:
            full.engine.maintenance.observe(ClusterChange(gone_nodes=[N1]))
            full.engine.maintenance.observe(ClusterChange(nodes=[node("n1")]))

    monkeypatch.setattr(TimeSlice, "rest", rest)
    async with agent(full, snapshot(22, 80)) as stream:
        async with asyncio.timeout(30):
            assert (await ended(stream))[0] == "REPORT_REPLACED"
        assert opened(full) is None
    async with agent(full, snapshot(22, 80)):
        await until(lambda: opened(full) == [22, 80])


async def test_an_agent_whose_node_was_gone_is_told_at_once_and_not_with_its_next_report(full: Running) -> None:
    async with looking(full), agent(full, snapshot(22)) as stream:
        await until(lambda: opened(full) == [22])
        full.engine.maintenance.observe(ClusterChange(gone_nodes=[N1]))

        async with asyncio.timeout(30):
            assert (await ended(stream))[0] == "REPORT_REPLACED"


def bound(service: Running, name: str) -> None:
    """A Pod of n1 with 7000."""
    service.engine.maintenance.observe(ClusterChange(pods=[pod(name, "x:1=7000", at="n1")]))


def gone(service: Running, name: str) -> None:
    service.engine.maintenance.observe(ClusterChange(gone_pods=[pod(name).uid]))


def test_what_many_nodes_say_of_outgoing_connections_is_kept_once() -> None:
    message = pb.ReportNodeRequest(snapshot=True, reserves=True, reserved=[pb.PortRange(min=45000, max=45511)])
    first, second = Report(), Report()
    for report in (first, second):
        report.add(message, NodeFacts())

    assert first.facts == NodeFacts(None, span(45000, 45511), reserves=True)
    assert second.facts is first.facts


def test_a_number_that_the_next_pod_opens_at_once_is_open() -> None:
    """A delta that tells of a socket again says that it was opened anew; a snapshot may be older than the end."""
    key, before = (slot_of(Protocol.TCP, 7000), "0.0.0.0"), listener("0.0.0.0", "sshd", 0)
    again, anew = Report(), Report()
    again.add(pb.ReportNodeRequest(opened=[socket(7000)]), NodeFacts())
    anew.add(snapshot(7000), NodeFacts())

    known = NodeSockets()
    known.presumed[key] = before, 0.0
    assert again.changes(known, len) == ([], [(key[0], before)])
    assert anew.changes(known, len) == ([], [])


async def test_an_agent_is_asked_whether_the_program_of_a_pod_that_is_gone_still_has_its_number(full: Running) -> None:
    bound(full, "a")
    async with agent(full, snapshot(7000)) as stream:
        await until(lambda: opened(full) == [7000])
        gone(full, "a")
        full.now += 3
        full.engine.maintenance.tick()

        assert await stream.read() == pb.ReportNodeResponse(report_now=True)
        await stream.write(pb.ReportNodeRequest())
        await until(lambda: opened(full) == [7000])


HERE = NodeName("localhost")
"""The one node of an allocator without a cluster."""


def asked(name: str, **fields: Any) -> pb.AllocateRequest:
    port = pb.PortRequest(container="c", name="x", container_port=80, host_port=fields.pop("host_port", 0))
    return pb.AllocateRequest(owner=pb.Owner(kind="Pod", namespace="demo", name=name), ports=[port], **fields)


STATIC = {"policy": pb.POLICY_STATIC, "host_port": 7000}
DYNAMIC = {"policy": pb.POLICY_DYNAMIC, "range": pb.PortRange(min=7000, max=7000)}


@pytest.mark.parametrize("fields", [STATIC, DYNAMIC], ids=["a fixed number", "a range"])
async def test_nobody_is_refused_for_a_process_that_is_gone_since_the_last_report(
    service: Running, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(sight, "LOOK_SECONDS", 30.0)  # it answers before, however slow the machine is
    first = snapshot(7000)
    first.node = HERE
    async with agent(service, first) as stream:
        await until(lambda: service.engine.ledger.nodes.sockets.reported_at(HERE) is not None)
        service.now += 3
        service.engine.maintenance.tick()
        answer = asyncio.ensure_future(service.stub.Allocate(asked("game", **fields)))
        async with asyncio.timeout(30):
            assert await stream.read() == pb.ReportNodeResponse(report_now=True)
        await stream.write(pb.ReportNodeRequest(closed=[socket(7000)]))

        assert [port.host_port for port in (await answer).allocation.ports] == [7000]


async def test_what_an_agent_said_stands_where_it_does_not_answer(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "LOOK_SECONDS", 0.05)
    first = snapshot(7000)
    first.node = HERE
    async with agent(service, first):
        await until(lambda: service.engine.ledger.nodes.sockets.reported_at(HERE) is not None)
        service.now += 3
        service.engine.maintenance.tick()
        with pytest.raises(grpc.aio.AioRpcError, match="process sshd"):
            await service.stub.Allocate(asked("game", **STATIC))


async def test_nobody_waits_for_an_agent_that_is_not_connected(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "LOOK_SECONDS", 3600.0)
    opened = SocketChange(
        node=HERE, opened=[(slot_of(Protocol.TCP, 7000), listener(WILDCARD, "sshd", 0))], facts=NodeFacts()
    )
    service.engine.maintenance.observe(ClusterChange(reports=[opened]))
    service.now += 3
    service.engine.maintenance.tick()
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError, match="process sshd"):
            await service.stub.Allocate(asked("game", **STATIC))


REFUSED = {
    "no such node": (pb.ReportNodeRequest(node="n9", snapshot=True), "NODE_NOT_FOUND"),
    "no node": (pb.ReportNodeRequest(snapshot=True), "NODE_NOT_FOUND"),
    "no snapshot": (pb.ReportNodeRequest(node="n1"), "INVALID_REQUEST"),
    "no port": (snapshot(0), "INVALID_REQUEST"),
    "a port beyond": (snapshot(65536), "INVALID_REQUEST"),
    "no protocol": (pb.ReportNodeRequest(node="n1", snapshot=True, opened=[pb.Socket(port=1)]), "INVALID_REQUEST"),
    "no address": (snapshot(closed=[socket(1, address="here")]), "INVALID_REQUEST"),
    "a long address": (snapshot(closed=[socket(1, address="1" * 65)]), "INVALID_REQUEST"),
    "a long name": (pb.ReportNodeRequest(node="n1", snapshot=True, opened=[socket(1, "x" * 65)]), "INVALID_REQUEST"),
    "too many sockets": (snapshot(*range(1, 1002)), "INVALID_REQUEST"),
    "too many ranges": (snapshot(reserved=[pb.PortRange(min=1, max=1)] * 1001), "INVALID_REQUEST"),
    "an inverted range": (snapshot(ephemeral_range=pb.PortRange(min=2, max=1)), "INVALID_REQUEST"),
}


@pytest.mark.parametrize(("message", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_report_ends_the_stream_and_is_counted(
    full: Running, message: pb.ReportNodeRequest, reason: str
) -> None:
    async with agent(full, message) as stream:
        assert (await ended(stream))[0] == reason

    assert full.application.agents.refused == {reason: 1}
    assert opened(full) is None


async def test_more_foreign_numbers_than_are_kept_are_refused_and_what_stood_stands(full: Running) -> None:
    many = [snapshot(*range(1 + at, 1001 + at), more=True) for at in range(0, MOST_FOREIGN, 1000)]
    for message in many[1:]:
        message.snapshot = False
    async with agent(full, snapshot(22), *many, pb.ReportNodeRequest(opened=[socket(60000)])) as stream:
        reason, sentence = await ended(stream)

    assert reason == "REPORT_TOO_LARGE"
    assert sentence == (
        f"{MOST_FOREIGN + 1} sockets, {MOST_FOREIGN + 1} of them on numbers that no Pod of the node declares: at most"
        f" {MOST_SOCKETS} and {MOST_FOREIGN} are kept for a node. What was told before goes on counting"
    )
    assert opened(full) == [22]


async def test_an_agent_that_floods_is_read_as_slowly_as_it_may_send(
    full: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a new stream, too. The time that it has to wait is counted, and not waited for."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(AgentBudget, "now", staticmethod(lambda: 0.0))
    monkeypatch.setattr(AgentBudget, "rest", staticmethod(sleep))
    for _ in range(2):
        async with agent(full, *[snapshot(*range(1, 1001))] * 12) as stream:
            await stream.done_writing()
            async for _ in stream:
                pass

    sent = 24 * (1000 + agents.MESSAGE_WEIGHT)
    assert waited[-1] == pytest.approx((sent - BURST) / PER_SECOND)


async def test_stream_after_stream_of_a_node_is_refused_until_its_time_has_come_and_logged_now_and_then(
    full: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(AgentBudget, "now", staticmethod(lambda: now))
    for _ in range(BURST_STREAMS):
        async with agent(full, snapshot(22)) as stream:
            await stream.done_writing()
            async for _ in stream:
                pass

    async def reason() -> str:
        async with agent(full, pb.ReportNodeRequest(node="n1")) as stream:
            return (await ended(stream))[0]

    refused = [await reason() for _ in range(3)]
    now += 1 / STREAMS_PER_SECOND
    refused += [await reason() for _ in range(2)]
    now += REFUSED_SECONDS
    refused.append(await reason())

    assert refused == [*["TOO_MANY_CALLS"] * 3, "INVALID_REQUEST", "TOO_MANY_CALLS", "INVALID_REQUEST"]
    assert full.application.agents.refused == {"TOO_MANY_CALLS": 4, "INVALID_REQUEST": 2}
    lines = [vars(each)["fields"] for each in caplog.records if each.message == "report refused"]
    assert [(each["reason"], each["refusals"]) for each in lines] == [("TOO_MANY_CALLS", 1), ("INVALID_REQUEST", 5)]


async def test_a_caller_whose_token_names_its_node_is_refused_before_anything_is_read(full: Running) -> None:
    async def nothing() -> AsyncIterator[pb.ReportNodeRequest]:
        return
        yield

    async def unread() -> AsyncIterator[pb.ReportNodeRequest]:
        raise AssertionError("it was read")
        yield

    async def send(_: pb.ReportNodeResponse) -> bool:
        return True

    follow = full.application.agents.follow
    for _ in range(BURST_STREAMS):
        await follow(nothing(), N1, send)
    with pytest.raises(Refused, match="the agent of node n1 begins too many streams"):
        await follow(unread(), N1, send)
    await follow(nothing(), NodeName("n2"), send)


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("lasted", [0.0, STEADY_SECONDS - 0.1, STEADY_SECONDS])
def test_an_agent_that_pauses_as_ours_do_may_always_begin_a_stream(
    lasted: float, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one with the shortest pauses, and a second one on its node."""
    now = 0.0
    monkeypatch.setattr(AgentBudget, "now", staticmethod(lambda: now))
    budget, pauses = AgentBudget(), Pauses(chance=lambda: 0.0)
    may = []
    for _ in range(1000):
        may += [budget.may_begin(), budget.may_begin()]
        now += lasted + pauses.after(lasted, is_refused=is_refused)

    assert all(may)


async def test_names_that_could_forge_a_line_of_a_log_are_made_harmless(full: Running) -> None:
    async with agent(full, pb.ReportNodeRequest(node="n1", snapshot=True, opened=[socket(1, "a\nb\x1b")])):
        await until(lambda: opened(full) == [1])

    (listener,) = full.engine.ledger.nodes.sockets.of(N1).of(1 << 2)  # type: ignore[union-attr,arg-type]
    assert listener.process == "a?b?"


ADDRESSES = {
    "none": ("", "0.0.0.0"),
    "any of IPv6": ("::", "0.0.0.0"),
    "IPv4 in IPv6": ("::ffff:10.0.0.1", "10.0.0.1"),
    "loopback": ("127.0.0.1", "127.0.0.1"),
    "with a zone": ("fe80::1%eth0", "fe80::1"),
}


@pytest.mark.parametrize(("told", "kept"), ADDRESSES.values(), ids=ADDRESSES)
async def test_addresses_are_kept_as_they_count_in_a_conflict(full: Running, told: str, kept: str) -> None:
    async with agent(full, pb.ReportNodeRequest(node="n1", snapshot=True, opened=[socket(1, address=told)])):
        await until(lambda: opened(full) == [1])

    assert full.engine.ledger.nodes.sockets.addresses(N1, Protocol.TCP, 1) == [kept]


async def test_where_the_allocator_does_not_serve_nothing_is_taken(full: Running) -> None:
    full.engine.is_serving = False
    async with agent(full, snapshot(22)) as stream:
        assert (await ended(stream))[0] == "NOT_SERVING"
    assert opened(full) is None
