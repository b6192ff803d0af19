"""What is open or given on a node as people read it, from answers that are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hostport.v1 import allocator_pb2 as pb
from hostport_cli import holding, wording
from hostport_cli.commands.listing import columns as list_columns
from hostport_cli.commands.node import holder_columns, node_columns, remarks
from hostport_cli.printing import Column, plain_table
from testing.costing import instructions

FOREIGN = pb.ForeignHolder
SERVICE = FOREIGN(kind=FOREIGN.KIND_SERVICE, namespace="shop", name="web")
HIDDEN = FOREIGN(kind=FOREIGN.KIND_SERVICE)
SSHD = FOREIGN(kind=FOREIGN.KIND_PROCESS, name="sshd")
SOMEBODY = FOREIGN(kind=FOREIGN.KIND_PROCESS, uid=1000)
KUBELET = FOREIGN(kind=FOREIGN.KIND_RESERVED, name="kubelet")
RESERVED = FOREIGN(kind=FOREIGN.KIND_RESERVED)
NOW = 1000.0


def held(number: int, who: str = "", **more: Any) -> pb.HeldPort:
    """A number that a Pod of namespace demo is bound to, or what `more` says."""
    owner = pb.Owner(kind="Pod", namespace="demo", name=who) if who else None
    state = pb.STATE_BOUND if who else pb.STATE_UNSPECIFIED
    fields: dict[str, Any] = {"protocol": pb.PROTOCOL_TCP, "state": state, "owner": owner, **more}
    return pb.HeldPort(host_port=number, allocation_id=who, **fields)


def printed(rows: list[Any], columns: list[Column[Any]]) -> str:
    shown = [column for column in columns if not column.is_wide]
    lines = plain_table([column.title for column in shown], [[column.cell(row) for column in shown] for row in rows])
    return "\n".join(lines)


NODE = """\
NUMBER        PROTOCOL   ADDRESS     HOLDER               KNOWN BY   STATE              SINCE   LISTENING
22            TCP        *           process/sshd         process    -                  -       yes
7000          TCP        *           Pod/demo/web-0       pod        BOUND              5m      yes
7001          TCP        *           Pod/demo/web-1       pod        BOUND              -       no
10250         TCP        *           reserved/kubelet     reserved   -                  -       -
20000-20099   UDP        10.0.0.1    Relay/demo/rtp       lease      LEASED             -       -
31080         TCP        *           Pod/demo/web-2       pod        BOUND (conflict)   -       yes
31080         TCP        *           Service/shop/web     service    (conflict)         -       -
40000         TCP        127.0.0.1   process (uid 1000)   process    -                  -       yes"""


def test_a_node_is_one_table_of_everything_that_is_open_or_given_there() -> None:
    ports = [
        held(22, foreign=SSHD, listening=pb.LISTENING_YES),
        held(7000, "web-0", listening=pb.LISTENING_YES, since=Timestamp(seconds=700)),
        held(7001, "web-1", listening=pb.LISTENING_NO),
        held(10250, foreign=KUBELET),
        held(20000, count=100, protocol=pb.PROTOCOL_UDP, host_ip="10.0.0.1", state=pb.STATE_LEASED,
             owner=pb.Owner(kind="Relay", namespace="demo", name="rtp")),
        held(31080, "web-2", listening=pb.LISTENING_YES),
        held(31080, foreign=SERVICE),
        held(40000, host_ip="127.0.0.1", foreign=SOMEBODY, listening=pb.LISTENING_YES),
    ]  # fmt: skip

    assert printed(holding.rows(ports), holding.columns(NOW)) == NODE


MEETING = {
    "two Pods": ([held(7000, "a"), held(7000, "b")], [True, True]),
    "a block and a number in it": ([held(7000, "a", count=100), held(7050, foreign=SSHD)], [True, True]),
    "two blocks behind another": (
        [held(7000, "a", count=100), held(7010, "b"), held(7050, "c", count=100)],
        [True, True, True],
    ),
    "a block and the next number": ([held(7000, "a", count=100), held(7100, "b")], [False, False]),
    "other protocols": ([held(7000, "a"), held(7000, "b", protocol=pb.PROTOCOL_UDP)], [False, False]),
    "other addresses": ([held(7000, "a", host_ip="10.0.0.1"), held(7000, "b", host_ip="10.0.0.2")], [False, False]),
    "an address and every one": ([held(7000, "a", host_ip="10.0.0.1"), held(7000, "b", host_ip="::")], [True, True]),
    "one that is planned": ([held(7000, "a"), held(7000, "b", state=pb.STATE_CONFIRMED)], [False, False]),
    "a reserved number": ([held(22, "a"), held(22, foreign=RESERVED)], [False, False]),
    "two ports of one Pod": ([held(7000, "a"), held(7000, "a", host_ip="10.0.0.1")], [False, False]),
}  # fmt: skip


@pytest.mark.parametrize(("ports", "expected"), MEETING.values(), ids=MEETING)
def test_holders_who_meet_are_marked(ports: list[pb.HeldPort], expected: list[bool]) -> None:
    assert [row.meets for row in holding.rows(ports)] == expected


HELD = st.builds(
    held,
    st.integers(7000, 7006),
    st.sampled_from(["a", "b", ""]),
    count=st.sampled_from([0, 3]),
    protocol=st.sampled_from([pb.PROTOCOL_TCP, pb.PROTOCOL_UDP]),
    host_ip=st.sampled_from(["", "::", "10.0.0.1", "10.0.0.2"]),
    foreign=st.sampled_from([None, SSHD, RESERVED]),
)


def conflict(one: pb.HeldPort, other: pb.HeldPort) -> bool:
    """The plain rule, for two who are not one."""
    addresses = {wording.address(one), wording.address(other)}
    return (
        one.protocol == other.protocol
        and one.host_port <= wording.last(other)
        and other.host_port <= wording.last(one)
        and ("" in addresses or len(addresses) == 1)
        and not (one.allocation_id == other.allocation_id != "")
        and all(held.foreign.kind != FOREIGN.KIND_RESERVED for held in (one, other))
        and all(held.HasField("foreign") or held.state == pb.STATE_BOUND for held in (one, other))
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(HELD, max_size=12))
def test_those_are_marked_who_are_there_and_of_whose_numbers_another_one_has_some(ports: list[pb.HeldPort]) -> None:
    assert [row.meets for row in holding.rows(ports)] == [
        any(conflict(one, other) for place, other in enumerate(ports) if place != at) for at, one in enumerate(ports)
    ]


def test_one_number_on_many_addresses_costs_no_more_for_each_where_they_are_many() -> None:
    def cost(addresses: int) -> int:
        ports = [held(123, foreign=SSHD, host_ip=f"10.{at >> 8}.{at & 255}.1") for at in range(addresses)]
        return instructions(lambda: holding.rows([*ports, held(123, foreign=SOMEBODY)]))

    assert cost(1_200) < 5 * cost(300), "four times as many addresses"


FRESH = pb.NodeReport(
    report_time=Timestamp(seconds=996),
    current=True,
    ephemeral_range=pb.PortRange(min=32768, max=60999),
    foreign_port_count=2,
)
REPORTS = {
    "none": (None, ""),
    "fresh": (FRESH, "n1: Reported 4s ago; outgoing connections take 32768-60999; 2 open numbers of no Pod."),
    "old": (
        pb.NodeReport(report_time=Timestamp(seconds=300), foreign_port_count=1),
        "n1: Reported 11m ago, which is old: is its agent there?; 1 open number of no Pod.",
    ),
    "reserving": (
        pb.NodeReport(report_time=Timestamp(seconds=1000), current=True, reserves=True, ephemeral_range=FRESH.ephemeral_range),
        (
            "n1: Reported 0s ago; outgoing connections take 32768-60999, never a number that is given (--reserve);"
            " 0 open numbers of no Pod."
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("report", "expected"), REPORTS.values(), ids=REPORTS)
def test_what_the_agent_said_stands_above_the_table(report: pb.NodeReport | None, expected: str) -> None:
    assert holding.report_of(pb.Node(name="n1", report=report), NOW) == expected


def test_nodes_are_listed_with_what_agents_say_where_one_does() -> None:
    nodes = [pb.Node(name="n1", known=True, report=FRESH), pb.Node(name="n2", known=True)]

    assert printed(nodes, node_columns(nodes, NOW)).splitlines() == [
        "NODE   ALLOCATIONS   PORTS   KNOWN   REPORTED   FOREIGN",
        "n1     0             0       yes     4s         2",
        "n2     0             0       yes     -          -",
    ]
    assert [column.title for column in node_columns(nodes[1:], NOW)][-1] == "KNOWN"


FOREIGNERS = {
    "Service/shop/web": SERVICE,
    "Service/(of another namespace)": HIDDEN,
    "process/sshd": SSHD,
    "process (uid 1000)": SOMEBODY,
    "reserved/kubelet": KUBELET,
    "reserved": RESERVED,
}


@pytest.mark.parametrize(("words", "holder"), FOREIGNERS.items(), ids=FOREIGNERS)
def test_a_foreign_holder_is_named_as_far_as_it_is_known(words: str, holder: pb.ForeignHolder) -> None:
    assert wording.foreign(holder) == words


def test_who_holds_a_port_is_told_whether_or_not_it_has_an_allocation() -> None:
    allocation = pb.Allocation(
        id="f" * 32, state=pb.STATE_BOUND, owner=pb.Owner(kind="Pod", namespace="demo", name="a")
    )
    holders = [pb.ExplainPortResponse.Holder(allocation=allocation, since=Timestamp(seconds=900)), SSHD]

    assert printed(holders, holder_columns(NOW)).splitlines() == [
        "HOLDER         STATE   SINCE   EXPIRES   ALLOCATION",
        f"Pod/demo/a     BOUND   100s    never     {'f' * 32}",
        "process/sshd   -       -       -         -",
    ]


SAID = {
    "free": (pb.ExplainPortResponse(), ["7000/TCP on n1 is free."]),
    "a process": (
        pb.ExplainPortResponse(foreign=[SSHD], listening=pb.LISTENING_YES),
        ["A program listens on it."],
    ),
    "a Pod that does not listen": (
        pb.ExplainPortResponse(holders=[pb.ExplainPortResponse.Holder()], listening=pb.LISTENING_NO),
        ["Nothing listens on it."],
    ),
    "nothing known": (pb.ExplainPortResponse(holders=[pb.ExplainPortResponse.Holder()]), []),
}


@pytest.mark.parametrize(("answer", "expected"), SAID.values(), ids=SAID)
def test_beside_its_holders_a_port_is_said_to_be_free_open_or_closed(
    answer: pb.ExplainPortResponse, expected: list[str]
) -> None:
    assert list(remarks(answer, "7000/TCP on n1")) == expected


def listed(*listening: pb.Listening.ValueType, **more: Any) -> pb.Allocation:
    ports = [
        pb.AllocatedPort(host_port=7000 + at, protocol=pb.PROTOCOL_TCP, listening=each, **more)
        for at, each in enumerate(listening)
    ]
    return pb.Allocation(state=pb.STATE_BOUND, owner=pb.Owner(kind="Pod", namespace="demo", name="a"), ports=ports)


YES, NO, UNKNOWN = pb.LISTENING_YES, pb.LISTENING_NO, pb.LISTENING_UNSPECIFIED
LISTENING = {
    "yes": ([YES, YES, UNKNOWN], "yes"),
    "no": ([NO, NO], "no"),
    "some": ([YES, NO, NO], "1 of 3"),
    "not known": ([UNKNOWN], ""),
}


@pytest.mark.parametrize(("ports", "expected"), LISTENING.values(), ids=LISTENING)
def test_an_allocation_listens_as_far_as_its_ports_do(ports: list[pb.Listening.ValueType], expected: str) -> None:
    assert wording.listens(listed(*ports)) == expected


def test_a_list_shows_blocks_conflicts_and_listening() -> None:
    allocations = [listed(YES, count=100), listed(NO, conflict=SERVICE)]

    assert printed(allocations, list_columns(0.0, is_mixed=False, knows_listening=True)).splitlines() == [
        "OWNER   STATE              NODE   PORTS           LISTENING   AGE",
        "Pod/a   BOUND              -      7000-7099/TCP   yes         0s",
        "Pod/a   BOUND (conflict)   -      7000/TCP        no          0s",
    ]


def test_the_table_in_the_readme_is_what_the_program_prints() -> None:
    shop = pb.Owner(kind="Pod", namespace="shop")
    now = 10 * 86400.0
    hours = Timestamp(seconds=int(now) - 3 * 3600)

    def bound(number: int, name: str, listening: pb.Listening.ValueType) -> pb.HeldPort:
        owner = pb.Owner(kind=shop.kind, namespace=shop.namespace, name=name)
        return held(number, name, owner=owner, since=hours, listening=listening)

    relay = pb.Owner(kind="Relay", namespace="media", name="eu-1")
    ports = [
        held(22, foreign=SSHD, listening=YES, since=Timestamp(seconds=86400)),
        bound(7000, "web-0", YES),
        bound(7001, "web-1", NO),
        held(31080, foreign=SERVICE),
        held(
            20000, protocol=pb.PROTOCOL_UDP, count=100, host_ip="10.0.0.7", state=pb.STATE_LEASED, owner=relay,
            since=Timestamp(seconds=int(now) - 2700), listening=YES,
        ),
    ]  # fmt: skip

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

    assert f"```\n{printed(holding.rows(ports), holding.columns(now))}\n```" in readme
