"""Where numbers are held by blocks, many at once."""

from __future__ import annotations

from functools import reduce
from operator import or_
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.core.blocks import block_of, slots_in
from allocator.core.index import blocks
from allocator.core.index.ports import NodesBySlot
from allocator.core.ports import WILDCARD, Protocol, slot_of
from testing.costing import instructions

WINDOW = block_of(slot_of(Protocol.TCP, 256), 256)

BLOCKS = st.lists(st.tuples(st.integers(200, 520), st.integers(1, 300), st.integers(0, 5)), max_size=12)


@given(BLOCKS)
def test_all_numbers_of_a_window_are_looked_up_as_each_by_itself(held: list[tuple[int, int, int]]) -> None:
    index = NodesBySlot()
    for first, length, node in held:
        for protocol in (Protocol.TCP, Protocol.UDP)[: 1 + node % 2]:
            index.add(block_of(slot_of(protocol, first), length), WILDCARD, 1 << node)
    found = index.lookup(slots_in(WINDOW), WINDOW)

    assert [found(slot, 0) for slot in slots_in(WINDOW)] == [index.of_slot(slot) for slot in slots_in(WINDOW)]


def test_blocks_that_all_begin_elsewhere_are_looked_up_without_going_through_their_numbers() -> None:
    index = NodesBySlot()
    for node in range(600):
        blocks.add(index, block_of(slot_of(Protocol.TCP, 1 + node), 1000), WILDCARD, 1 << node)
    found = index.lookup(slots_in(WINDOW), WINDOW)

    assert reduce(or_, (found(slot, 0) for slot in slots_in(WINDOW))) == (1 << 511) - 1
    assert instructions(lambda: index.lookup(slots_in(WINDOW), WINDOW)) < 150_000


def unlike_blocks(count: int, nodes: int, ip: str = WILDCARD) -> tuple[NodesBySlot, list[tuple[int, int, int]]]:
    """So many blocks that each begin elsewhere, and all of them as (first number, length, position of the node).

    ip: their address; each has one of its own where that ends with a dot.
    """
    index, random = NodesBySlot(), Random(7)
    held = [(random.randint(1, 3000), random.randint(200, 600), random.randrange(nodes)) for _ in range(count)]
    for at, (first, length, node) in enumerate(held):
        address = f"{ip}{at >> 8}.{at & 255}" if ip.endswith(".") else ip
        blocks.add(index, block_of(slot_of(Protocol.TCP, first), length), address, 1 << node)
    return index, held


ADDRESSES = (WILDCARD, "10.0.0.1", "10.0.0.2", "fd00::1")


@pytest.mark.parametrize("addresses", [1, 4])
@pytest.mark.parametrize(("shortest", "longest"), [(2, 2), (2, 3), (2, 40), (30, 40)])
def test_blocks_that_come_and_go_are_found_by_each_number_and_block(
    shortest: int, longest: int, addresses: int
) -> None:
    """Nodes have several blocks with a number in common, and each block several nodes and addresses."""
    index, random = NodesBySlot(), Random(shortest * longest)
    held: dict[tuple[int, int, str], set[int]] = {}
    for step in range(3_000):
        first, length, node = random.randint(1, 300), random.randint(shortest, longest), random.randrange(4)
        ip = ADDRESSES[random.randrange(addresses)]
        comes = step < 1_500 or step % 3 == 0
        change = blocks.add if comes else blocks.discard
        change(index, block_of(slot_of(Protocol.TCP, first), length), ip, 1 << node)
        nodes = held.setdefault((first, length, ip), set())
        (nodes.add if comes else nodes.discard)(node)
        if step % 250:
            continue
        for low in (0, 256):
            window = block_of(slot_of(Protocol.TCP, low), 256)
            found_of = index.lookup(slots_in(window), window)
            assert [found_of(slot, 0) for slot in slots_in(window)] == list(map(index.of_slot, slots_in(window)))
        for number, wanted in [
            (number, size) for number in range(1, 350, 9) for size in (1, 17, random.randint(2, 300))
        ]:
            meeting = [
                (ip, there) for (at, size, ip), there in held.items() if at < number + wanted and number < at + size
            ]
            block = block_of(slot_of(Protocol.TCP, number), wanted)
            assert index.of_slot(block) == as_set(set().union(*(there for _, there in meeting))), (step, number, wanted)
            on_one = [there for ip, there in meeting if ip in ADDRESSES[:2]]
            assert blocks.in_blocks(index, block, ADDRESSES[1]) == as_set(set().union(*on_one)), (step, number, wanted)
            assert index.of_slot(block_of(slot_of(Protocol.UDP, number), wanted)) == 0


def as_set(nodes: set[int]) -> int:
    return sum(1 << each for each in nodes)


def test_when_all_blocks_have_gone_nothing_is_kept_of_them() -> None:
    index, held = unlike_blocks(500, 20)
    for first, length, node in held:
        blocks.discard(index, block_of(slot_of(Protocol.TCP, first), length), WILDCARD, 1 << node)

    assert not index
    assert index.is_plain


@pytest.mark.parametrize("ip", [WILDCARD, "10.0."], ids=["on all addresses", "each on one of its own"])
@pytest.mark.parametrize("wanted", [1, 50, 1000])
def test_a_look_costs_the_same_however_many_blocks_have_the_number(wanted: int, ip: str) -> None:
    some, many = (unlike_blocks(count, 64, ip)[0] for count in (1_000, 8_000))
    block = block_of(slot_of(Protocol.TCP, 1500), wanted)

    assert instructions(lambda: many.of_slot(block)) <= 1.5 * instructions(lambda: some.of_slot(block))
