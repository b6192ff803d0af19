"""What is kept for whoever asks again is bounded in bytes."""

from __future__ import annotations

from allocator.core.sized import ENTRY_BYTES, SHARE, Sized

MOST = 1 << 20


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    kept: Sized[int, str] = Sized(MOST)
    room = MOST // (1000 + ENTRY_BYTES)
    for at in range(room):
        kept.put(at, f"value-{at}", 1000)
    assert kept.get(0) == "value-0"  # asked for now, so that 1 is the oldest

    kept.put(room, "new", 1000)

    assert (kept.get(0), kept.get(1), kept.get(room)) == ("value-0", None, "new")
    assert kept.size <= MOST


def test_what_is_large_is_not_kept_and_drives_nothing_out() -> None:
    kept: Sized[str, str] = Sized(MOST)
    kept.put("small", "value", 10)
    kept.put("large", "value", MOST // SHARE)

    assert (kept.get("small"), kept.get("large"), len(kept)) == ("value", None, 1)


def test_a_value_that_has_become_large_is_forgotten() -> None:
    kept: Sized[str, str] = Sized(MOST)
    kept.put("a", "small", 10)
    kept.put("a", "large", MOST)

    assert (kept.get("a"), kept.size) == (None, 0)
