"""Claims are put in place of others, and every index follows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from types import FrameType

import pytest
from msgspec.structs import replace

from allocator.core.claims import Claim
from allocator.core.ports import PortKey
from allocator.core.store import ClaimStore
from testing.storekit import a_claim, assert_in_step


def changed(claim: Claim, chance: Random) -> Claim:
    """With a new end, as by a renewal; or another claim of its id."""
    if chance.random() < 0.6:
        return replace(claim, expires=chance.choice((None, chance.uniform(0.0, 20.0))))
    return replace(a_claim(chance, 0), id=claim.id, pod_uid=claim.pod_uid)


@pytest.mark.parametrize("seed", range(30))
def test_the_indexes_are_what_the_claims_say_whatever_was_replaced(seed: int) -> None:
    chance, store = Random(seed), ClaimStore()
    for number in range(60):
        ids = list(store.claims)
        if ids and chance.random() < 0.2:
            store.remove(chance.choice(ids))
        elif ids and chance.random() < 0.5:
            store.replace(changed(store.claims[chance.choice(ids)], chance))
        else:
            store.insert(a_claim(chance, number))
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
        "ClaimStore.replace", "ClaimStore._ends", "ClaimStore.expect", "ClaimStore._touch",
        "Deadlines.discard", "Deadlines.add",
    }  # fmt: skip
    assert store.claims[renewed.id] is renewed
    assert renewed in [claim for _, claim in held_on(store, renewed)]


def held_on(store: ClaimStore, claim: Claim) -> list[tuple[PortKey, Claim]]:
    assert claim.node is not None
    return store.ports.port_map(claim.node)
