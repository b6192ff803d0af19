"""The life of a claim is the table of its transitions: design.md prints it, and the ledger keeps to it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from allocator.core.claims import (
    CHANGED,
    LIVE_STATES,
    TRANSITIONS,
    Claim,
    IllegalTransitionError,
    LifeEvent,
    State,
    after,
    planned,
)
from testing.kit import Desk, ask, lease, pod

DESIGN = Path(__file__).resolve().parents[2] / "docs" / "design.md"
FIELDS = frozenset(msgspec.structs.fields(Claim)[at].name for at in range(len(msgspec.structs.fields(Claim))))


def printed() -> str:
    """The table as docs/design.md has it."""
    rows = ["| event | state before → after | the claim keeps |", "|---|---|---|"]
    for event in LifeEvent:
        moves = [(before, to) for (before, of), to in TRANSITIONS.items() if of is event]
        steps = "; ".join(f"{before.name if before else 'none'} → {to.name}" for before, to in moves)
        rows.append(f"| {event.value} | {steps} | {_kept(event)} |")
    return "\n".join(rows)


def _kept(event: LifeEvent) -> str:
    if event not in CHANGED:
        return "nothing: it is new" if (None, event) in TRANSITIONS else "everything"
    if event in {LifeEvent.POD_SEEN, LifeEvent.POD_SEEN_ON_NODE}:
        return ", ".join(f"`{name}`" for name in sorted(FIELDS - CHANGED[event]))
    return "all but " + ", ".join(f"`{name}`" for name in sorted(CHANGED[event]))


def test_the_design_prints_the_table() -> None:
    assert printed() in DESIGN.read_text(encoding="utf-8"), printed()


def test_every_event_leads_from_some_state_and_every_live_state_to_an_end() -> None:
    assert {event for _, event in TRANSITIONS} == set(LifeEvent)
    assert {before for (before, _), to in TRANSITIONS.items() if to is State.RELEASED} == set(LIVE_STATES)
    assert State.RELEASED not in {before for before, _ in TRANSITIONS}
    assert all(names <= FIELDS for names in CHANGED.values())


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pytest.param(State.LEASED, LifeEvent.POD_SEEN, id="a Pod is seen that has the id of a lease"),
        pytest.param(State.BOUND, LifeEvent.PLANNED, id="what is settled is planned"),
        pytest.param(State.RESERVED, LifeEvent.RENEWED, id="a reservation is renewed"),
        pytest.param(State.BOUND, LifeEvent.ENDED, id="a Pod that lives is released"),
        pytest.param(State.RELEASED, LifeEvent.RENEWED, id="what has ended goes on"),
    ],
)
def test_what_cannot_happen_is_an_error(state: State, event: LifeEvent) -> None:
    with pytest.raises(IllegalTransitionError, match=event.value):
        after(state, event)


def test_a_settled_claim_has_no_plan_to_move() -> None:
    desk = Desk("n1")
    claim = desk.grant(lease("Relay/r1", "x:1"))
    with pytest.raises(IllegalTransitionError):
        planned(claim, None)


def test_an_event_changes_the_fields_that_the_table_names_and_no_others() -> None:
    desk = Desk("n1", "n2")
    reserved = desk.grant(ask("web-0", "x:1"))
    _, event = _shown(desk, reserved, at=None)
    assert event is State.CONFIRMED
    _shown(desk, reserved, at="n1")
    leased = desk.grant(lease("Relay/r1", "x:2"))
    renewed = desk.ledger.claims.renewed(leased.id, 60.0, desk.now)

    assert _differing(leased, renewed) <= CHANGED[LifeEvent.RENEWED]


def _shown(desk: Desk, claim: Claim, *, at: str | None) -> tuple[Claim, State]:
    """Shows the claim's Pod, and looks at what that changes."""
    before = desk.ledger.claims.get(claim.id)
    number = claim.ports[0].host_port
    desk.observe(pods=[pod("web-0", f"x:1={number}", at=at, carried_id=claim.id, priority=7, warnings="INDEX_SPLIT")])
    now = desk.ledger.claims.get(claim.id)
    assert before is not None
    assert now is not None
    event = LifeEvent.POD_SEEN_ON_NODE if at else LifeEvent.POD_SEEN
    assert _differing(before, now) <= CHANGED[event]
    assert now.state is TRANSITIONS[before.state, event]
    return now, now.state


def _differing(one: Claim, other: Claim) -> frozenset[str]:
    return frozenset(name for name in FIELDS if getattr(one, name) != getattr(other, name))
