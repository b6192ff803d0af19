"""A set of numbers that changes in place, against a Python set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from allocator.core.ports import NumberSet, span

numbers = st.integers(1, 65535) | st.integers(1, 40)


@given(st.lists(st.tuples(st.booleans(), numbers), max_size=60), numbers, numbers)
def test_it_holds_what_a_set_holds(changes: list[tuple[bool, int]], one: int, other: int) -> None:
    ours, model = NumberSet(), set[int]()
    for is_added, number in changes:
        (ours.add if is_added else ours.discard)(number)
        (model.add if is_added else model.discard)(number)
    low, high = min(one, other), max(one, other)

    assert ours.within(low, high) == sum(1 << (number - low) for number in model if low <= number <= high)


# Few numbers, around the bounds of bytes and of what is looked at together, so that what was found full has holes again.
steps = st.tuples(st.sampled_from(["discard", "fill", "look"]), st.sampled_from([1, 2, 7, 8, 1024, 1025, 1026, 2050]))


@given(st.lists(steps, max_size=20), st.sampled_from([1, 2]), st.sampled_from([0, 1 << 8, span(7, 1025)]))
def test_its_first_gap_is_found_wherever_the_last_one_was(
    changes: list[tuple[str, int]], low: int, others: int
) -> None:
    ours, model = NumberSet(), set[int]()
    for change, number in changes:
        match change:
            case "look":
                ours.gap(low, others)
            case "discard":
                ours.discard(number)
                model.discard(number)
            case _:
                for each in range(low, number + 1):
                    ours.add(each)
                    model.add(each)

        assert ours.within(1, 3000) == sum(1 << (each - 1) for each in model)
    taken = model | {number for number in range(3000) if others >> number & 1}
    assert ours.gap(low, others) == next(number for number in range(low, 65537) if number not in taken)
