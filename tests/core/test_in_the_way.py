"""On which candidates a process has what an ask wants, at a bounded cost."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.index.ports import MOST_OPEN
from allocator.core.sockets import NodeSockets
from testing.kit import Desk, ask, pod, report

WANTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a fixed number": ({"ports": ["x:80=7000"], "policy": "Static"}, ["n1"]),
    "a fixed number of a Pod": ({"ports": ["x:80=7001"], "policy": "Static"}, []),
    "a range with a process": ({"ports": ["x:80"], "low": 7000, "high": 7001}, ["n1"]),
    "a range with Pods alone": ({"ports": ["x:80"], "low": 7001, "high": 7001}, []),
    "another range": ({"ports": ["x:80"], "low": 7002, "high": 7100}, []),
}


@pytest.mark.parametrize(("wants", "expected"), WANTS.values(), ids=WANTS)
def test_the_candidates_on_which_a_process_is_in_the_way(wants: dict[str, Any], expected: list[str]) -> None:
    desk = Desk("n1", "n2")
    desk.observe(reports=[report("n1", "sshd:7000", "x:7001")], pods=[pod("b", "x:1=7001", at="n1")])
    asked = ask("a", *wants["ports"], **{name: value for name, value in wants.items() if name != "ports"})

    assert desk.ledger.claims.processes_in_the_way(asked, 16) == expected


def test_however_many_sockets_a_node_has_a_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("n1")
    desk.observe(
        reports=[report("n1", *[f"x:{n}" for n in range(7000, 9000)])],
        pods=[pod("b", *[f"x{n}:1={n}" for n in range(7000, 9000)], at="n1")],
    )
    looks: list[int] = []
    slots = NodeSockets.slots

    def counted(sockets: NodeSockets, low: int, high: int) -> Any:
        for slot in slots(sockets, low, high):
            looks.append(slot)
            yield slot

    monkeypatch.setattr(NodeSockets, "slots", counted)
    asked = ask("a", "x:80", low=7000, high=8999)

    assert desk.ledger.claims.processes_in_the_way(asked, 16) == []
    assert len(looks) == MOST_OPEN
