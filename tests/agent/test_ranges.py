"""The kernel's lists of ports, as text and in a network namespace of their own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ranges import format_list, parse_list, runs, spans
from testing.namespaces import in_a_network_namespace, needs_root

LISTS = {
    "nothing": ("\n", []),
    "a number": ("6443\n", [6443]),
    "a range": ("10248-10250\n", [10248, 10249, 10250]),
    "both": ("22,30000-30001", [22, 30000, 30001]),
}


@pytest.mark.parametrize(("text", "numbers"), LISTS.values(), ids=LISTS)
def test_a_list_is_read(text: str, numbers: list[int]) -> None:
    assert sorted(parse_list(text)) == numbers
    assert format_list(numbers) == text.strip()


@pytest.mark.parametrize("text", ["a", "1,,2", "5-3", "70000", "1-", "-1"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number and no range"):
        parse_list(text)


@given(st.frozensets(st.integers(1, 65535), max_size=200))
def test_a_list_that_is_written_is_read_again(numbers: frozenset[int]) -> None:
    assert parse_list(format_list(numbers)) == numbers
    assert sum(high - low + 1 for low, high in runs(numbers)) == len(numbers)


SPANS: dict[str, tuple[list[int], int, list[tuple[int, int]]]] = {
    "none": ([], 3, []),
    "as they are": ([1, 2, 5, 9], 3, [(1, 2), (5, 5), (9, 9)]),
    "the narrowest gap goes": ([1, 2, 5, 9, 20], 3, [(1, 5), (9, 9), (20, 20)]),
    "of gaps that are alike those go that are too many": ([1, 3, 5, 7], 2, [(1, 7)]),
    "one": ([1, 40000], 1, [(1, 40000)]),
}


@pytest.mark.parametrize(("numbers", "most", "expected"), SPANS.values(), ids=SPANS)
def test_numbers_are_joined_to_a_few_spans(numbers: list[int], most: int, expected: list[tuple[int, int]]) -> None:
    assert spans(numbers, most) == expected


@given(st.frozensets(st.integers(1, 65535), min_size=1, max_size=200), st.integers(1, 20))
def test_spans_hold_all_of_the_numbers_and_are_no_more_than_asked_for(numbers: frozenset[int], most: int) -> None:
    found = spans(numbers, most)
    assert len(found) <= most
    assert all(any(low <= number <= high for low, high in found) for number in numbers)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


@needs_root
def test_the_kernel_takes_and_gives_a_list_longer_than_a_page() -> None:
    said = in_a_network_namespace("""
        from agent.ranges import read_list, write_list
        odd = frozenset(range(20001, 30001, 2))
        write_list(odd)
        print(read_list() == odd, len(odd))
        write_list(frozenset({7000}))
        print(sorted(read_list()))
        write_list(())
        print(sorted(read_list()))
    """)
    assert said == ["True 5000", "[7000]", "[]"]
