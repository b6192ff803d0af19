"""A set of numbers that changes in place, against a Python set."""

from __future__ import annotations

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
