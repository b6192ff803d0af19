"""What a Pod's texts cost of an admission: reading and looking through them, as a share of review, patch and answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Any, TypeVar

import pytest
from shimkit import FakeAllocator, run

import shim.findings
import shim.patch
import shim.pods
from shim.admission import AdmissionAnswer, admit

RECORDED = Path(__file__).parent.parent / "testdata" / "admission"
REVIEWS = [path.read_bytes() for path in sorted(RECORDED.glob("*-pod*.json")) if "delete" not in path.name]
MOST_SHARE = 0.15
ROUNDS, TRIES = 60, 5

T = TypeVar("T")


class Meter:
    """The CPU that functions take, besides the whole."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, function: Callable[..., T]) -> Callable[..., T]:
        def measured(*args: Any, **named: Any) -> T:
            begun = thread_time()
            try:
                return function(*args, **named)
            finally:
                self.seconds += thread_time() - begun

        return measured


def admissions() -> None:
    for review in REVIEWS:
        allocate = FakeAllocator()
        for _ in range(ROUNDS):
            answer = run(admit(review, allocate, probe=allocate))
            assert isinstance(answer, AdmissionAnswer)


def test_texts_take_a_small_share_of_an_admission(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, commands = Meter(), shim.pods._commands
    monkeypatch.setattr(shim.patch, "look", meter.over(shim.findings.look))
    monkeypatch.setattr(shim.pods, "_commands", meter.over(lambda *args: list(commands(*args))))
    admissions()

    shares = []
    for _ in range(TRIES):
        meter.seconds, begun = 0.0, thread_time()
        admissions()
        shares.append(meter.seconds / (thread_time() - begun))

    print(f"texts take {min(shares):.1%} of review, patch and answer")  # noqa: T201 - people want to know
    assert min(shares) <= MOST_SHARE
