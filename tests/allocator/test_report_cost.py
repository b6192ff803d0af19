"""What a report costs where a node has as many sockets as it may, and that it is compared as if all were looked at.

A lying agent sends the smallest reports that there are, as often as it may: each must cost what it changes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial

import pytest

from allocator import node_reports
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.ports import Slot
from allocator.core.sockets import Listener, NodeFacts, NodeSockets
from allocator.node_reports import Changes, Report, parts, too_large
from hostport.contract.limits import MOST_FOREIGN, MOST_OF_A_MESSAGE, MOST_SOCKETS
from hostport.v1 import allocator_pb2 as pb
from testing.costing import instructions
from testing.kit import Desk, pod

N1 = NodeName("n1")
FEW = 10
MOST_INSTRUCTIONS = 5000
"""Of a report of two sockets. To look at each of 10,000 sockets takes a hundred thousand."""


def socket(number: int, address: str = "", uid: int = 0) -> pb.Socket:
    return pb.Socket(protocol=pb.PROTOCOL_TCP, port=number, address=address, uid=uid)


def told(desk: Desk, sockets: list[pb.Socket]) -> None:
    """Tells the books of a node that has these sockets."""
    report = Report()
    for at in range(0, len(sockets), MOST_OF_A_MESSAGE):
        part = sockets[at : at + MOST_OF_A_MESSAGE]
        report.add(pb.ReportNodeRequest(snapshot=at == 0, opened=part), NodeFacts())
    take(desk, report)


def take(desk: Desk, report: Report) -> None:
    nodes = desk.ledger.nodes
    known = nodes.sockets.of(N1)
    closed, opened = report.changes(NodeSockets() if known is None else known, partial(nodes.undeclared, N1))
    for change in parts(N1, closed, opened, NodeFacts(), 256):
        desk.observe(reports=[change])


def on_two_addresses() -> Iterator[pb.Socket]:
    """As many as there may be, on as many numbers as may be undeclared and ten that a Pod has."""
    for number in range(1, MOST_FOREIGN + FEW + 1):
        yield socket(number, "10.0.0.1")
        if number <= MOST_SOCKETS - MOST_FOREIGN - FEW:
            yield socket(number, "10.0.0.2")


def on_one_number() -> Iterator[pb.Socket]:
    yield socket(1, "127.0.0.1")
    for at in range(MOST_SOCKETS - 1):
        yield socket(1, f"10.0.{at // 256}.{at % 256}")


FULL = {
    "5,010 numbers on two addresses": (on_two_addresses(), socket(MOST_FOREIGN, "10.0.0.1"), socket(60000)),
    "one number on 10,000 addresses": (on_one_number(), socket(1, "127.0.0.1"), socket(1, "10.9.9.9")),
    "another user on one of them": (on_one_number(), socket(1, "10.0.9.9"), socket(1, "10.0.20.20", 1)),
}


@pytest.mark.parametrize(("sockets", "closed", "opened"), FULL.values(), ids=FULL)
def test_a_report_of_two_sockets_costs_as_much_as_these_two(
    sockets: Iterable[pb.Socket], closed: pb.Socket, opened: pb.Socket
) -> None:
    desk = Desk("n1")
    declared = [f"x:1={number}" for number in range(MOST_FOREIGN + 1, MOST_FOREIGN + FEW + 1)]
    desk.observe(pods=[pod("a", *declared, at="n1")])
    told(desk, list(sockets))
    known = desk.ledger.nodes.sockets.of(N1)
    assert known is not None
    assert len(known) == MOST_SOCKETS

    def changed() -> None:
        report = Report()
        report.add(pb.ReportNodeRequest(closed=[closed], opened=[opened]), NodeFacts())
        take(desk, report)

    assert instructions(changed) < MOST_INSTRUCTIONS


SOME_SOCKETS, SOME_FOREIGN = 6, 3
"""The bounds of reports that are made by chance."""


def changes_by_all(report: Report, known: NodeSockets, declared: set[Slot]) -> Changes | str:
    """The same of all that is known, in words where it is refused."""
    if not (report.snapshot or report.opened or report.closed):
        return [], []
    before = {(slot, one.ip): one for slot, one in known.told()}
    after = {key: one for key, one in before.items() if key not in report.closed and not report.snapshot}
    after |= report.opened
    foreign = {slot for slot, _ in after} - declared
    if len(after) > SOME_SOCKETS or len(foreign) > SOME_FOREIGN:
        return str(too_large(len(after), len(foreign)))
    anew = () if report.snapshot else known.presumed
    opened = [(key[0], one) for key, one in report.opened.items() if before.get(key) != one or key in anew]
    return sorted(before.keys() - after.keys()), opened


def changes(report: Report, known: NodeSockets, declared: set[Slot]) -> Changes | str:
    try:
        return report.changes(known, lambda slots: len(slots - declared))
    except Refused as refused:
        return str(refused)


def test_a_report_is_taken_and_refused_as_if_all_sockets_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_reports, "MOST_FOREIGN", SOME_FOREIGN)
    monkeypatch.setattr(node_reports, "MOST_SOCKETS", SOME_SOCKETS)
    chance, outcomes = random.Random(1), set[bool]()
    for _ in range(3000):
        known, report = NodeSockets(), Report()
        for _ in range(chance.randrange(9)):
            slot, one = Slot(chance.randrange(4, 9)), Listener(chance.choice("abc"), "", chance.randrange(2))
            if chance.random() < 0.3 and known.told_on(slot, one.ip) is None:
                known.presumed[slot, one.ip] = one, 0.0
            elif (slot, one.ip) not in known.presumed:
                known.put(slot, one, 0.0)
        report.snapshot = chance.random() < 0.2
        for _ in range(chance.randrange(4)):
            slot, ip = Slot(chance.randrange(4, 9)), chance.choice("abc")
            if chance.random() < 0.5 and not report.snapshot:
                report.closed[slot, ip] = None
            elif (slot, ip) not in report.closed:
                report.opened[slot, ip] = Listener(ip, "", chance.randrange(2))
        declared = {Slot(chance.randrange(4, 9)) for _ in range(2)}
        expected = changes_by_all(report, known, declared)
        assert changes(report, known, declared) == expected
        outcomes.add(isinstance(expected, str))
    assert outcomes == {True, False}
