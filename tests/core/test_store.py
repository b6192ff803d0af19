"""Claims are put in place of others, and every index follows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from types import FrameType

import pytest
from msgspec.structs import replace

from allocator.core.candidates import NodeName
from allocator.core.claims import POD, Claim, ClaimId, ClaimPort, Owner, PodUid, State
from allocator.core.ports import PortKey
from allocator.core.store import ClaimStore
from testing.storekit import a_claim, assert_in_step


def changed(claim: Claim, chance: Random) -> Claim:
    """With a new end, as by a renewal; or with some fields of another claim."""
    if chance.random() < 0.3:
        return replace(claim, expires=chance.choice((None, chance.uniform(0.0, 20.0))))
    other = any_claim(chance, 0)
    names = chance.sample(FIELDS, chance.choice((1, 1, 2, len(FIELDS))))
    return replace(claim, **{name: getattr(other, name) for name in names})


FIELDS = tuple(name for name in Claim.__struct_fields__ if name not in ("id", "pod_uid"))


def any_claim(chance: Random, number: int) -> Claim:
    """Of any kind: what `a_claim` gives, or one that waits for a Pod, stands nowhere, or was never asked for."""
    claim, owners = a_claim(chance, number), ("", "web")
    return replace(
        claim,
        owner=Owner(
            kind=chance.choice((POD, POD, "GameServer")),
            namespace=chance.choice(("demo", "games")),
            name=chance.choice(("", "db-0", claim.owner.name)),
            controller_uid=chance.choice(owners),
        ),
        state=chance.choice((claim.state, State.RESERVED)),
        ports=chance.choice((claim.ports, claim.ports[:1], ())),
        node=chance.choice((claim.node, None)) if claim.state is State.CONFIRMED else claim.node,
        range=chance.choice((None, (200, 2_400))),
        may_preempt=chance.random() < 0.3,
        unmanaged=chance.random() < 0.2,
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_indexes_are_what_the_claims_say_whatever_was_replaced(seed: int) -> None:
    chance, store = Random(seed), ClaimStore()
    for number in range(60):
        ids = list(store.claims)
        if ids and chance.random() < 0.2:
            store.remove(chance.choice(ids))
        elif ids and chance.random() < 0.5:
            store.replace(changed(store.claims[chance.choice(ids)], chance))
        else:
            store.insert(any_claim(chance, number))
        assert_in_step(store)
    ends = {claim.id for claim in store.claims.values() if claim.expires is not None}
    assert {*store.leases_end.take(1e9, 100), *store.others_end.take(1e9, 100)} == ends


def entered(work: Callable[[], object]) -> set[str]:
    """The functions of the allocator that some work enters."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "allocator" in frame.f_code.co_filename:
            found.add(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_a_new_end_touches_the_index_of_ends_and_no_other(seed: int) -> None:
    chance, store = Random(seed), ClaimStore()
    claims = [replace(a_claim(chance, number), expires=float(number)) for number in range(20)]
    for claim in claims:
        store.insert(claim)
    renewed = replace(chance.choice(claims), expires=1_000.0)

    assert entered(lambda: store.replace(renewed)) == {
        "ClaimStore.replace", "ClaimStore._changed", "ClaimStore._expect_no_more", "ClaimStore._ends",
        "ClaimStore.expect", "ClaimStore._touch", "Deadlines.discard", "Deadlines.add",
    }  # fmt: skip
    assert store.claims[renewed.id] is renewed
    assert renewed in [claim for _, claim in held_on(store, renewed)]


def held_on(store: ClaimStore, claim: Claim) -> list[tuple[PortKey, Claim]]:
    assert claim.node is not None
    return store.ports.port_map(claim.node)


RESERVED = Claim(
    id=ClaimId("c"),
    owner=Owner(namespace="demo", name="db-0", controller_uid="db"),
    state=State.RESERVED,
    ports=(ClaimPort(host_port=300), ClaimPort(host_port=301)),
    created=0.0,
    node=NodeName("n1"),
    expires=30.0,
)
CONFIRMED = replace(RESERVED, state=State.CONFIRMED, pod_uid=PodUid("u"), expires=None)
BOUND = replace(CONFIRMED, state=State.BOUND)


@pytest.mark.parametrize(
    ("before", "now", "touched"),
    [
        pytest.param(RESERVED, CONFIRMED, {"_note_pod", "_forget_waiting", "_count"}, id="the Pod is seen"),
        pytest.param(CONFIRMED, BOUND, {"_enter", "_exit", "_count", "_leave", "_stand"}, id="the Pod has its node"),
        pytest.param(BOUND, replace(BOUND, warnings="Fixed"), set(), id="the Pod has another annotation"),
        pytest.param(BOUND, replace(BOUND, is_terminating=True), {"_leave", "_stand"}, id="the Pod terminates"),
        pytest.param(CONFIRMED, replace(CONFIRMED, node=NodeName("n2")), {"_leave", "_stand"}, id="another plan"),
        pytest.param(CONFIRMED, replace(CONFIRMED, node=None), {"_leave", "_stand", "_want"}, id="no plan"),
        pytest.param(
            replace(CONFIRMED, owner=Owner(namespace="demo", generate_name="db-")),
            CONFIRMED,
            {"_note_name"},
            id="the Pod has a name now",
        ),
    ],
)
def test_a_change_touches_the_indexes_that_go_by_it_and_no_other(before: Claim, now: Claim, touched: set[str]) -> None:
    store = ClaimStore()
    store.insert(before)

    functions = {name.removeprefix("ClaimStore.") for name in entered(lambda: store.replace(now))}

    assert functions & {index.__name__ for index in INDEXES} == touched
    assert_in_step(store)


INDEXES = (
    ClaimStore._note_name, ClaimStore._forget_name, ClaimStore._note_pod, ClaimStore._forget_pod,
    ClaimStore._note_waiting, ClaimStore._forget_waiting, ClaimStore._enter, ClaimStore._exit, ClaimStore._want,
    ClaimStore._want_no_more, ClaimStore._count_shape, ClaimStore._count, ClaimStore._stand, ClaimStore._leave,
)  # fmt: skip
