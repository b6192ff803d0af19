"""Claims are put in place of others, and every index follows."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace
from registerkit import a_claim, assert_in_step

from allocator.core.claims import Claim
from allocator.core.register import Register


def changed(claim: Claim, chance: Random) -> Claim:
    """With a new end, as by a renewal; or another claim of its id."""
    if chance.random() < 0.6:
        return replace(claim, expires=chance.choice((None, chance.uniform(0.0, 20.0))))
    return replace(a_claim(chance, 0), id=claim.id, pod_uid=claim.pod_uid)


@pytest.mark.parametrize("seed", range(30))
def test_the_indices_are_what_the_claims_say_whatever_was_replaced(seed: int) -> None:
    chance, register = Random(seed), Register()
    for number in range(60):
        ids = list(register.claims)
        if ids and chance.random() < 0.2:
            register.remove(chance.choice(ids))
        elif ids and chance.random() < 0.5:
            register.replace(changed(register.claims[chance.choice(ids)], chance))
        else:
            register.insert(a_claim(chance, number))
        assert_in_step(register)
    ends = {claim.id for claim in register.claims.values() if claim.expires is not None}
    assert {*register.leases_end.take(1e9, 100), *register.others_end.take(1e9, 100)} == ends
