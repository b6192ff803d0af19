"""Whatever comes and goes: a number that was given up is not given to another within its cool-down while others are free.

What was given up, when and by whom, is written down anew here; the core is asked for nothing but its answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocator.core.asks import Ask, Refused
from allocator.core.candidates import ANYWHERE
from allocator.core.claims import Claim
from allocator.core.index.cooling import GivenUp, Reuse
from testing.kit import Grounds, ask, lease, on

NODES = ("n1", "n2", "n3")
NUMBERS = range(7000, 7006)
COOL_DOWN = 60.0

Place = tuple[str, int]
"""A node and a number."""


@dataclass(frozen=True)
class Step:
    """Somebody comes and stays, or one of those who are there goes, and time passes."""

    name: str = ""  # of a Pod; empty: none comes
    only: str = ""  # the node where it may run; empty: any
    count: int = 1  # of the numbers that it asks for, as one block
    cool_down: float | None = None
    is_lease: bool = False
    goes: int = 0  # which of those who are there
    seconds: float = 0.0


COMES = st.builds(
    Step,
    name=st.sampled_from(["db-0", "db-1", *"abcdefgh"]),
    only=st.sampled_from(["", "", *NODES]),
    count=st.sampled_from([1, 1, 2, 3]),
    cool_down=st.sampled_from([None, None, 10.0, 300.0]),
    is_lease=st.sampled_from([False, False, True]),
)
GOES = st.builds(Step, goes=st.integers(0, 20), seconds=st.sampled_from([0.0, 5.0, 40.0]))


@dataclass
class World:
    """The product, and what a bystander has seen."""

    desk: Grounds
    there: list[Claim] = field(default_factory=list)
    given_up: dict[Place, float] = field(default_factory=dict)  # when
    had: dict[str, range] = field(default_factory=dict)  # what an owner had last

    def takes(self, step: Step) -> None:
        self.desk.now += step.seconds
        if step.name:
            if all(step.name != one.owner.name for one in self.there):  # a successor may share a number
                self._comes(step)
        elif self.there:
            self._goes(self.there.pop(step.goes % len(self.there)))

    def _comes(self, step: Step) -> None:
        where = on(step.only) if step.only else ANYWHERE
        make = lease if step.is_lease else ask
        asked = make(
            step.name,
            f"web:80*{step.count}",
            low=NUMBERS[0],
            high=NUMBERS[-1],
            constraints=where,
            cool_down=step.cool_down,
        )
        try:
            claim = self.desk.grant(asked)
        except Refused:
            return
        self._is_right(claim, asked, step)
        self.there.append(claim if step.is_lease else self.desk.bind(claim, claim.node or ""))

    def _goes(self, claim: Claim) -> None:
        if claim.owner.is_pod:
            self.desk.goes(claim)
        else:
            self.desk.ledger.end(claim.id, self.desk.now)
        self.given_up |= dict.fromkeys(places(claim), self.desk.now)
        self.had[str(claim.owner)] = numbers(claim)

    def _is_right(self, claim: Claim, asked: Ask, step: Step) -> None:
        had = self.had.get(str(asked.owner), range(0))
        if not any(self._cools(place, asked, had) for place in places(claim)):
            return
        held = {place for one in self.there for place in places(one)}
        leased = {number for one in self.there if not one.owner.is_pod for number in numbers(one)}
        nodes = [step.only] if step.only else NODES
        own = had if len(had) == step.count else range(0)  # a block of another size may be looked for elsewhere
        free = {
            (node, number)
            for node in nodes
            for number in NUMBERS
            if (node, number) not in held
            and not self._cools((node, number), asked, own)
            # The scheduler does not know leases.
            and (step.is_lease or not any((n, number) in held and number in leased for n in nodes))
        }
        runs = [
            (node, first)
            for node, first in sorted(free)
            if free.issuperset((node, number) for number in range(first, first + step.count))
        ]
        assert not runs, (claim, runs)

    def _cools(self, place: Place, asked: Ask, own: range) -> bool:
        seconds = COOL_DOWN if asked.cool_down is None else asked.cool_down
        return place[1] not in own and self.desk.now - self.given_up.get(place, float("-inf")) < seconds


def numbers(claim: Claim) -> range:
    """Those of the one port of a claim."""
    return claim.ports[0].key.numbers


def places(claim: Claim) -> list[Place]:
    """What a claim that stands has."""
    return [(claim.node or "", number) for number in numbers(claim)]


def played(steps: list[Step], reuse: Reuse) -> None:
    world = World(Grounds(*NODES, cool_down=COOL_DOWN, reuse=reuse))
    for step in steps:
        world.takes(step)


# A lease of a block comes back, beside numbers that another gave up.
BACK = Step("a", only="n1", count=3, is_lease=True)


@example(steps=[Step("b", only="n1", count=2), Step(), BACK, Step(), BACK], reuse=Reuse.LOWEST)
@given(steps=st.lists(COMES | GOES, max_size=40), reuse=st.sampled_from(Reuse))
@settings(max_examples=60, deadline=None)
def test_what_was_given_up_is_not_given_to_another_while_others_are_free(steps: list[Step], reuse: Reuse) -> None:
    played(steps, reuse)


@pytest.mark.parametrize("count", [1, 2])
def test_an_allocator_that_forgets_what_was_given_up_is_found_out(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GivenUp, "note", lambda *_: None)
    with pytest.raises(AssertionError):
        played([Step("a", count=count), Step(), Step("b", count=count)], Reuse.LOWEST)
