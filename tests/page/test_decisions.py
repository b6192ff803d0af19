"""The ring of decisions: bounded in number and in size."""

from __future__ import annotations

from typing import Any

from allocator.decisions import MOST_DECISIONS, MOST_NUMBERS, MOST_TEXT, Decisions


def note(decisions: Decisions, **more: Any) -> None:
    given: dict[str, Any] = {
        "at": 1.0, "owner": ("Pod", "demo", "web-0"), "policy": "DYNAMIC", "result": "granted", "reason": "", "detail": "",
        "numbers": [7000], "node": "n1", "allocation_id": "a", "seconds": 0.001,
    }  # fmt: skip
    decisions.note(**{**given, **more})


def test_the_newest_come_first_and_the_oldest_go() -> None:
    decisions = Decisions()
    for number in range(MOST_DECISIONS + 5):
        note(decisions, result="refused" if number % 2 else "granted")

    assert decisions.total == MOST_DECISIONS + 5
    assert [one.number for one in decisions.latest(3)] == [505, 504, 503]
    assert [one.number for one in decisions.latest(2, results=frozenset({"refused"}))] == [504, 502]
    assert [one.number for one in decisions.latest(9999)][-1] == 6


def test_nothing_that_a_caller_sends_makes_an_entry_large() -> None:
    decisions = Decisions()
    long = "x" * 1_000_000

    note(decisions, owner=(long, long, long), detail=long, allocation_id=long, numbers=list(range(512)))

    one = decisions.latest(1)[0]
    assert (len(one.numbers), one.ports) == (MOST_NUMBERS, 512)
    assert max(len(text) for text in one if isinstance(text, str)) == MOST_TEXT
