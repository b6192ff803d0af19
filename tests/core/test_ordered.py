"""Keys in order, against a sorted list; ends in time, against a walk over all of them; answers kept within bytes."""

from __future__ import annotations

from random import Random

import pytest

from allocator.core.claims import ClaimId
from allocator.core.index import ports as port_index
from allocator.core.index.ports import OrderedKeys
from allocator.core.kept import ENTRY_BYTES, SHARE, SizedCache
from allocator.core.store import LEAST_SECONDS, Deadlines


@pytest.mark.parametrize("seed", range(20))
def test_keys_that_come_and_go_stay_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_index, "LONGEST_RUN", 4)
    chance, keys, known = Random(seed), OrderedKeys[str](), set[str]()
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
    chance, deadlines, known = Random(seed), Deadlines[ClaimId](), dict[ClaimId, float]()
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
    deadlines: Deadlines[ClaimId] = Deadlines()
    for number in range(10_000):
        deadlines.add(ClaimId("lease"), float(number))
        deadlines.discard(ClaimId("lease"), float(number))

    assert len(deadlines._seconds) <= 2 * LEAST_SECONDS


MOST_BYTES = 1 << 20


def test_what_was_put_in_longest_ago_goes_first() -> None:
    kept: SizedCache[int, str] = SizedCache(MOST_BYTES)
    room = MOST_BYTES // (1000 + ENTRY_BYTES)
    for at in range(room):
        kept.put(at, f"value-{at}", 1000)
    kept.put(0, "value-0", 1000)  # once more, so that 1 is the oldest

    kept.put(room, "new", 1000)

    assert (kept.get(0), kept.get(1), kept.get(room)) == ("value-0", None, "new")
    assert kept.size <= MOST_BYTES


def test_what_is_large_is_not_kept_and_drives_nothing_out() -> None:
    kept: SizedCache[str, str] = SizedCache(MOST_BYTES)
    kept.put("small", "value", 10)
    kept.put("large", "value", MOST_BYTES // SHARE)

    assert (kept.get("small"), kept.get("large"), len(kept)) == ("value", None, 1)


def test_a_value_that_has_become_large_is_forgotten() -> None:
    kept: SizedCache[str, str] = SizedCache(MOST_BYTES)
    kept.put("a", "small", 10)
    kept.put("a", "large", MOST_BYTES)

    assert (kept.get("a"), kept.size) == (None, 0)
