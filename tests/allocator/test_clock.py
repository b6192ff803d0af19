"""The allocator's clock: what it counts, what it notices, and where it goes on after a start."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from allocator.clock import LONGEST_SECONDS, Clock, Step

HOURS = 7200.0


class Machine:
    """Its two clocks. The allocator ticks twice a second, unless it is stopped."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.steady = 50.0
        self.answers = True
        self.clock = Clock(wall=lambda: self.wall, steady=lambda: self.steady, counts=lambda: self.answers)
        self.clock.resume(1_000_000.0)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.stop(0.5)
            self.clock.look()

    def stop(self, seconds: float, wall: float | None = None) -> None:
        self.wall += seconds if wall is None else wall
        self.steady += seconds

    def set_by(self, seconds: float) -> None:
        self.wall += seconds

    def answer_nothing(self, seconds: float) -> None:
        self.answers = False
        self.run(seconds)
        self.answers = True


@pytest.fixture
def machine() -> Machine:
    return Machine()


WORLDS: dict[str, tuple[Callable[[Machine], None], float, dict[Step, int]]] = {
    "nothing happens": (lambda m: m.set_by(0), 0.0, {}),
    "the wall clock is set forward": (lambda m: m.set_by(HOURS), 0.0, {Step.FORWARD: 1}),
    "the wall clock is set back": (lambda m: m.set_by(-HOURS), 0.0, {Step.BACK: 1}),
    "it is set by less than a second": (lambda m: m.set_by(0.9), 0.0, {}),
    "the process is stopped for a minute": (lambda m: m.stop(60), LONGEST_SECONDS - 0.5, {Step.PAUSE: 1}),
    "a stopped machine tells its steady clock nothing": (lambda m: m.set_by(60), 0.0, {Step.FORWARD: 1}),
    "stopped, and set back meanwhile": (
        lambda m: m.stop(60, wall=60 - HOURS),
        LONGEST_SECONDS - 0.5,
        {Step.PAUSE: 1, Step.BACK: 1},
    ),
    "nothing is answered for a minute": (lambda m: m.answer_nothing(60), 0.0, {}),
    "the loop is busy for a second": (lambda m: m.stop(1), 1.0, {}),
}


@pytest.mark.parametrize(("happens", "counted", "steps"), WORLDS.values(), ids=WORLDS.keys())
def test_only_time_in_which_it_answers_counts_and_what_happens_to_it_is_noticed(
    machine: Machine, happens: Callable[[Machine], None], counted: float, steps: dict[Step, int]
) -> None:
    machine.run(10)
    happens(machine)
    machine.run(10)

    assert machine.clock() - 1_000_000.0 == pytest.approx(20.0 + counted)
    assert dict(machine.clock.steps) == steps


@pytest.mark.parametrize("happens", [each for each, _, _ in WORLDS.values()], ids=WORLDS.keys())
def test_people_are_told_the_time_of_the_wall_clock_to_a_second(
    machine: Machine, happens: Callable[[Machine], None]
) -> None:
    machine.run(10)
    happens(machine)
    machine.run(1)

    assert machine.clock() + machine.clock.ahead == pytest.approx(machine.wall, abs=1.0)


def test_what_people_are_told_stays_the_same_while_nothing_is_seen(machine: Machine) -> None:
    ahead = machine.clock.ahead
    for _ in range(8):
        machine.run(10)
        machine.set_by(0.1)  # a wall clock that is slewed

    assert machine.clock.ahead == ahead


def test_a_wall_clock_that_drifts_is_followed_without_being_a_step(machine: Machine) -> None:
    for _ in range(50):
        machine.run(10)
        machine.set_by(0.1)

    assert dict(machine.clock.steps) == {}
    assert machine.clock() + machine.clock.ahead == pytest.approx(machine.wall, abs=1.1)


def test_a_step_is_told_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    machine.set_by(HOURS)
    machine.run(60)

    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"what": "the wall clock was set forward", "seconds": HOURS}
    ]


def test_it_never_goes_back(machine: Machine) -> None:
    before = machine.clock()
    machine.steady -= 1000

    assert machine.clock() == before
