"""The kernel's lists of ports, as text and in a network namespace of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ranges import format_list, parse_list, runs
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
