"""When a lease is renewed, and when it must be given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostport.client.renewal import FIRST_PAUSE, LONGEST_PAUSE, Renewal, pause


def test_it_is_renewed_when_a_third_of_its_time_is_over() -> None:
    renewal = Renewal(ttl=300, sent=1000)

    assert (renewal.wait(1000), renewal.wait(1090), renewal.wait(1200)) == (100, 10, 0)
    renewal.succeeded(sent=1105)
    assert (renewal.wait(1110), renewal.ends) == (95, 1405)


def test_its_end_counts_from_the_call_that_succeeded_and_not_from_those_that_failed() -> None:
    renewal = Renewal(ttl=30, sent=1000)
    for second in range(10, 30):
        renewal.failed(1000 + second, chance=1)
        assert not renewal.is_over(1000 + second)

    assert renewal.is_over(1030)
    assert (renewal.timeout(1027), renewal.timeout(1001)) == (3, 5)


def test_a_failure_is_repeated_soon_and_at_last_when_the_time_is_over() -> None:
    renewal = Renewal(ttl=30, sent=1000)
    renewal.failed(1010, chance=1)

    assert round(renewal.wait(1010), 6) == FIRST_PAUSE
    renewal.failed(1029.99, chance=1)
    assert round(renewal.wait(1029.99), 6) == 0.01


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_bound_and_never_vanish(failures: int, chance: float) -> None:
    assert FIRST_PAUSE / 2 <= pause(min(failures, 1000), chance) <= LONGEST_PAUSE
    assert pause(min(failures, 1000), chance) <= pause(min(failures + 5, 1000), 1)
