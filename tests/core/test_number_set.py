"""A set of numbers that changes in place, against a Python set."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from allocator.core.ports import NumberSet

numbers = st.integers(1, 65535) | st.integers(1, 40)


@given(st.lists(st.tuples(st.booleans(), numbers), max_size=60), numbers, numbers)
def test_it_holds_what_a_set_holds(changes: list[tuple[bool, int]], one: int, other: int) -> None:
    ours, model = NumberSet(), set[int]()
    for is_added, number in changes:
        (ours.add if is_added else ours.discard)(number)
        (model.add if is_added else model.discard)(number)
    low, high = min(one, other), max(one, other)

    assert ours.within(low, high) == sum(1 << (number - low) for number in model if low <= number <= high)


@given(runs=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 120)), max_size=6), low=st.integers(1, 300))
def test_it_says_how_far_it_is_full(runs: list[tuple[int, int]], low: int) -> None:
    ours = NumberSet()
    members = {number for first, length in runs for number in range(first, first + length)}
    for number in members:
        ours.add(number)
    run = next(at for at in itertools.count() if low + at not in members)

    filled = ours.filled(low, 500)

    assert filled <= run
    assert filled >= run - 7  # it is told in bytes
