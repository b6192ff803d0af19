"""The conflict rule and sets of numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.core.ports import (
    PortKey,
    Protocol,
    format_numbers,
    lowest,
    normalise_ip,
    parse_numbers,
    runs_of,
    set_of,
    span,
)
from hostport.contract.reserved import DEFAULT_RESERVED


def keys(text: str) -> list[PortKey]:
    """`TCP 127.0.0.1:79,81 + UDP :80`; an empty protocol is TCP, an empty address every one."""
    found = []
    for part in text.split(" + "):
        protocol, _, rest = part.rpartition(" ")
        ip, _, numbers = rest.rpartition(":")
        found += [PortKey(normalise_ip(ip), Protocol(protocol or "TCP"), int(n)) for n in numbers.split(",")]
    return found


# The scheduler's own table (pkg/scheduler/framework, TestHostPortInfo_Check).
GOLDEN = [
    ("TCP 127.0.0.1:80", ":81", False),
    ("TCP 127.0.0.1:80", ":80", True),
    ("TCP 127.0.0.1:80", "TCP 0.0.0.0:80", True),
    ("UDP 127.0.0.1:80", "TCP 0.0.0.0:80", False),
    ("TCP 127.0.0.1:79,81,82", "TCP 0.0.0.0:80", False),
    ("TCP 0.0.0.0:80", "TCP 127.0.0.1:80", True),
    ("TCP 0.0.0.0:79,81,82 + UDP 0.0.0.0:80", "TCP 127.0.0.1:80", False),
    ("TCP 127.0.0.1:80", "TCP 127.0.0.2:80", False),
    # Ours, stricter: the IPv6 wildcard is one too.
    ("TCP :::80", "TCP 127.0.0.1:80", True),
    ("TCP fe80::1:80", "TCP :::80", True),
    # Ours, stricter: addresses are compared, not how they are spelled.
    ("TCP fd00::1:80", "TCP FD00:0:0::1:80", True),
    ("TCP fd00::1:80", "TCP fd00::2:80", False),
    ("TCP ::ffff:10.0.0.1:80", "TCP 10.0.0.1:80", True),
    ("TCP 0:0:0:0:0:0:0:0:80", "TCP 127.0.0.1:80", True),
]


@pytest.mark.parametrize(("held", "asked", "conflict"), GOLDEN, ids=[f"{h} vs {a}" for h, a, _ in GOLDEN])
def test_the_conflict_rule_is_the_schedulers_or_stricter(held: str, asked: str, conflict: bool) -> None:
    (key,) = keys(asked)

    assert any(key.conflicts_with(other) for other in keys(held)) is conflict


@given(st.tuples(st.sampled_from(["0.0.0.0", "10.0.0.1", "10.0.0.2"]), st.sampled_from(Protocol), st.just(80)))
def test_a_port_conflicts_with_itself_and_with_its_wildcard(parts: tuple[str, Protocol, int]) -> None:
    key = PortKey(*parts)

    assert key.conflicts_with(key)
    assert key.conflicts_with(key._replace(ip="0.0.0.0"))
    assert key._replace(ip="0.0.0.0").conflicts_with(key)


@given(st.sets(st.integers(1, 65535), max_size=50))
def test_formatted_numbers_parse_to_the_same_set(numbers: set[int]) -> None:
    bitmap = sum(1 << number for number in numbers)

    assert parse_numbers(format_numbers(bitmap)) == bitmap
    assert not numbers or lowest(bitmap) == min(numbers)


@given(st.sets(st.integers(0, 40) | st.integers(0, 65535), max_size=50))
def test_the_runs_of_a_set_have_its_members_in_order_and_are_as_long_as_they_can_be(numbers: set[int]) -> None:
    runs = list(runs_of(set_of(numbers)))

    assert set_of(numbers) == sum(1 << number for number in numbers)
    assert [number for low, high in runs for number in range(low, high + 1)] == sorted(numbers)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(runs))


@pytest.mark.parametrize("text", ["0", "65536", "22-21", "a", "1-", "-1", "1-2-3", "٣"])
def test_reserved_numbers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_numbers(text)


def test_the_default_reserved_numbers_are_those_of_the_node() -> None:
    assert format_numbers(parse_numbers(DEFAULT_RESERVED)) == DEFAULT_RESERVED


def test_an_inverted_span_is_empty() -> None:
    assert (span(5, 4), span(5, 5), span(1, 3)) == (0, 0b100000, 0b1110)
