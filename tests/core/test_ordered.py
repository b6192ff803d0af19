"""Keys in order, against a sorted list; ends in time, against a walk over all of them."""

from __future__ import annotations

from random import Random

import pytest

from allocator.core import ordered
from allocator.core.claims import ClaimId
from allocator.core.deadlines import LEAST_SECONDS, Deadlines
from allocator.core.ordered import Ordered


@pytest.mark.parametrize("seed", range(20))
def test_keys_that_come_and_go_stay_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "LONGEST_RUN", 4)
    chance, keys, known = Random(seed), Ordered[str](), set[str]()
    for _ in range(400):
        key = f"{chance.randrange(60):02}"
        if key in known or chance.random() < 0.2:
            keys.discard(key)
            known.discard(key)
        else:
            keys.add(key)
            known.add(key)
        after, most = f"{chance.randrange(60):02}", chance.randrange(1, 9)

        assert list(keys) == sorted(known)
        assert keys.after(after, most) == [each for each in sorted(known) if each > after][:most]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_due_is_taken_once_and_no_more_than_is_wanted(seed: int) -> None:
    chance, deadlines, known = Random(seed), Deadlines(), dict[ClaimId, float]()
    for number in range(400):
        now, most = chance.uniform(0, 40), chance.randrange(1, 5)
        if known and chance.random() < 0.3:
            gone = chance.choice(sorted(known))
            deadlines.discard(gone, known.pop(gone))
        else:
            known[ClaimId(str(number))] = at = chance.uniform(0, 60)
            deadlines.add(ClaimId(str(number)), at)
        due = {claim_id for claim_id, at in known.items() if at <= now}
        assert deadlines.has_due(now) == bool(due)
        taken = deadlines.take(now, most)

        assert (len(set(taken)), set(taken) <= due) == (min(most, len(due)), True)
        for claim_id in taken:
            del known[claim_id]


def test_what_has_ended_before_its_time_takes_no_memory() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.add(ClaimId("lease"), float(number))
        deadlines.discard(ClaimId("lease"), float(number))

    assert len(deadlines._seconds) <= 2 * LEAST_SECONDS
