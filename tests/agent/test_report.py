"""What an agent tells of its node, report by report."""

from __future__ import annotations

import pytest

from agent.report import NodeState, Reporter, Settling
from agent.sockets import TCP, UDP, OpenSocket, Run, SocketKey
from hostport.v1 import allocator_pb2 as pb

STATE = NodeState((32768, 60999), frozenset({33000, 33001}))
SSHD = {SocketKey(TCP, 22, ""): OpenSocket(0, 1)}
WEB = {SocketKey(TCP, 8080, "10.0.0.7"): OpenSocket(1000, 2)}


def reporter() -> Reporter:
    return Reporter("n1", lambda held: {1: "sshd"}.get(held.inode, ""))


def told(node: Reporter, sockets: dict[SocketKey, OpenSocket], now: float = 0.0, **more: bool) -> list[str]:
    """Each message as text, without spaces and line breaks that say nothing."""
    return [" ".join(str(each).split()) for each in node.messages(sockets, STATE, now, asked=more.get("asked", False))]


def test_the_first_report_is_a_snapshot_with_all_that_is_known_of_the_node() -> None:
    assert reporter().messages(SSHD | WEB, STATE, 0.0, asked=False) == [
        pb.ReportNodeRequest(
            node="n1",
            snapshot=True,
            opened=[
                pb.Socket(protocol=pb.PROTOCOL_TCP, port=22, process="sshd"),
                pb.Socket(protocol=pb.PROTOCOL_TCP, port=8080, address="10.0.0.7", uid=1000),
            ],
            ephemeral_range=pb.PortRange(min=32768, max=60999),
            reserved=[pb.PortRange(min=33000, max=33001)],
        )
    ]


def test_later_reports_have_what_opened_and_what_closed() -> None:
    node = reporter()
    node.messages(SSHD, STATE, 0.0, asked=False)
    assert node.messages(WEB, STATE, 1.0, asked=False) == [
        pb.ReportNodeRequest(
            node="n1",
            opened=[pb.Socket(protocol=pb.PROTOCOL_TCP, port=8080, address="10.0.0.7", uid=1000)],
            closed=[pb.Socket(protocol=pb.PROTOCOL_TCP, port=22)],
        )
    ]


def test_nothing_is_said_where_nothing_is_new_but_for_once_a_minute_and_when_asked() -> None:
    node = reporter()
    node.messages(SSHD, STATE, 0.0, asked=False)
    assert told(node, SSHD, 59.0) == []
    assert told(node, SSHD, 59.5, asked=True) == ['node: "n1"']
    assert told(node, SSHD, 119.0) == []
    assert told(node, SSHD, 120.0) == ['node: "n1"']


def test_another_process_on_a_number_is_told_as_another_socket() -> None:
    node = reporter()
    node.messages(SSHD, STATE, 0.0, asked=False)
    (message,) = node.messages({SocketKey(TCP, 22, ""): OpenSocket(7, 9)}, STATE, 1.0, asked=False)
    assert [(each.port, each.uid) for each in message.opened] == [(22, 7)]
    assert not message.closed


def test_a_large_report_comes_in_messages_of_a_thousand_and_says_that_more_follows() -> None:
    sockets = {SocketKey(TCP, port, ""): OpenSocket(0, port) for port in range(10000, 12500)}
    node = reporter()
    first = node.messages(sockets, STATE, 0.0, asked=False)
    assert [(each.snapshot, len(each.opened), each.more) for each in first] == [
        (True, 1000, True),
        (False, 1000, True),
        (False, 500, False),
    ]
    last = node.messages({}, STATE, 1.0, asked=False)
    assert [(each.snapshot, len(each.closed), each.more) for each in last] == [
        (False, 1000, True),
        (False, 1000, True),
        (False, 500, False),
    ]


def test_a_range_that_changed_is_told_and_a_list_that_is_empty_now_by_a_snapshot() -> None:
    node = reporter()
    node.messages(SSHD, STATE, 0.0, asked=False)
    (other,) = node.messages(SSHD, NodeState((40000, 50000), STATE.reserved), 1.0, asked=False)
    assert (other.snapshot, other.ephemeral_range, len(other.reserved)) == (
        False,
        pb.PortRange(min=40000, max=50000),
        1,
    )
    (empty,) = node.messages(SSHD, NodeState((40000, 50000)), 2.0, asked=False)
    assert (empty.snapshot, len(empty.opened), len(empty.reserved)) == (True, 1, 0)


def test_a_udp_socket_of_the_ephemeral_range_is_told_once_it_is_a_minute_old() -> None:
    settling, ephemeral = Settling(), (32768, 60999)
    client, server = SocketKey(UDP, 40000, ""), SocketKey(UDP, 5353, "")
    listener = SocketKey(TCP, 40000, "")
    sockets = {client: OpenSocket(0, 1), server: OpenSocket(0, 2), listener: OpenSocket(0, 3)}
    settling.settled({}, ephemeral, 0.0)

    assert settling.settled(sockets, ephemeral, 0.0).keys() == {server, listener}
    assert settling.settled(sockets, ephemeral, 59.9).keys() == {server, listener}
    assert settling.settled(sockets, ephemeral, 60.0).keys() == {client, server, listener}
    another = sockets | {client: OpenSocket(0, 9)}
    assert settling.settled(another, ephemeral, 61.0).keys() == {server, listener}, "another socket begins anew"
    assert settling.settled(another, None, 62.0).keys() == another.keys(), "without a range nobody knows clients"


def test_an_agent_that_was_started_anew_tells_the_udp_sockets_that_it_finds() -> None:
    settling, ephemeral = Settling(), (32768, 60999)
    found = {SocketKey(UDP, 40000, ""): OpenSocket(0, 1)}
    client = SocketKey(UDP, 40001, "")

    assert settling.settled(found, ephemeral, 0.0).keys() == found.keys(), "the agent before it may have told of them"
    assert settling.settled(found | {client: OpenSocket(0, 2)}, ephemeral, 10.0).keys() == found.keys()
    assert settling.settled({client: OpenSocket(0, 2)}, ephemeral, 70.0).keys() == {client}


def test_a_udp_server_that_opens_another_socket_on_its_number_or_closes_one_is_told_as_before() -> None:
    settling, ephemeral, key = Settling(), (32768, 60999), SocketKey(UDP, 40000, "")
    settling.settled({}, ephemeral, 0.0)
    settling.settled({key: OpenSocket(0, 5)}, ephemeral, 0.0)
    alone = settling.settled({key: OpenSocket(0, 5)}, ephemeral, 60.0)

    assert settling.settled({key: OpenSocket(0, 5, frozenset({7, 9}))}, ephemeral, 61.0) == alone, "and nothing is new"
    assert settling.settled({key: OpenSocket(0, 7)}, ephemeral, 62.0).keys() == {key}, "one that was there lives"
    assert not settling.settled({key: OpenSocket(0, 8)}, ephemeral, 63.0)


RANGES: dict[str, Run | None] = {"another range": (50000, 60999), "a range that cannot be read": None}


@pytest.mark.parametrize("other", RANGES.values(), ids=RANGES)
def test_a_udp_server_is_told_on_when_the_range_of_clients_changes(other: Run | None) -> None:
    settling, ephemeral = Settling(), (32768, 60999)
    server, client = {SocketKey(UDP, 40000, ""): OpenSocket(0, 1)}, {SocketKey(UDP, 40001, ""): OpenSocket(0, 2)}
    assert settling.settled(server, ephemeral, 0.0) == server
    assert settling.settled(server | client, other, 30.0) == server | client
    assert settling.settled(server | client, ephemeral, 40.0) == server, "the client is still too young"
    assert settling.settled(server | client, ephemeral, 90.0) == server | client
