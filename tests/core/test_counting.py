"""Counts of many numbers at once, against a Counter."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from allocator.core.ports import CountedNumbers, Planes, at_least, count_of, equal, larger, least, plus

NUMBERS = range(40)
counts = st.lists(st.sampled_from(NUMBERS), max_size=60).map(Counter)
EVERYTHING = (1 << len(NUMBERS)) - 1


def planes(of: Counter[int]) -> Planes:
    counted = CountedNumbers()
    for number, count in of.items():
        for _ in range(count):
            counted.add(number)
    return counted.within(0, len(NUMBERS) - 1)


def read(found: Planes) -> list[int]:
    return [count_of(found, number) for number in NUMBERS]


def members(numbers: int) -> set[int]:
    return {number for number in NUMBERS if numbers >> number & 1}


@given(counts, counts)
def test_sums_and_the_larger_of_two_are_those_of_each_number(one: Counter[int], other: Counter[int]) -> None:
    assert read(plus(planes(one), planes(other))) == [one[n] + other[n] for n in NUMBERS]
    assert read(larger(planes(one), planes(other))) == [max(one[n], other[n]) for n in NUMBERS]


@given(counts, st.sets(st.sampled_from(NUMBERS)), st.integers(0, 9))
def test_numbers_are_found_by_their_counts(of: Counter[int], among: set[int], value: int) -> None:
    bitmap = sum(1 << number for number in among)
    smallest = min((of[n] for n in among), default=0)

    assert members(least(planes(of), bitmap)) == {n for n in among if of[n] == smallest}
    assert members(equal(planes(of), value, EVERYTHING)) == {n for n in NUMBERS if of[n] == value}
    assert members(at_least(planes(of), value, EVERYTHING)) == {n for n in NUMBERS if of[n] >= value}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(NUMBERS)), max_size=80), counts)
def test_counts_that_change_are_what_a_counter_says(changes: list[tuple[bool, int]], first: Counter[int]) -> None:
    ours, model = CountedNumbers(), Counter(first)
    ours.put(0, {c: sum(1 << n for n in first if first[n] == c) for c in set(first.values())}, len(NUMBERS))
    for is_more, number in changes:
        if is_more:
            ours.add(number)
            model[number] += 1
        elif model[number]:
            ours.discard(number)
            model[number] -= 1

    assert read(ours.within(0, len(NUMBERS) - 1)) == [model[n] for n in NUMBERS]
    assert [ours.has(n) for n in NUMBERS] == [model[n] > 0 for n in NUMBERS]
