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


def unlike_blocks(count: int, nodes: int) -> tuple[NodesBySlot, list[tuple[int, int, int]]]:
    """So many blocks that each begin elsewhere, and all of them as (first number, length, position of the node)."""
    index, random = NodesBySlot(), Random(7)
    held = [(random.randint(1, 3000), random.randint(200, 600), random.randrange(nodes)) for _ in range(count)]
    for first, length, node in held:
        blocks.add(index, block_of(slot_of(Protocol.TCP, first), length), WILDCARD, 1 << node)
    return index, held


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (2, 3), (2, 40), (30, 40)])
def test_blocks_that_come_and_go_are_found_by_each_number_and_block(shortest: int, longest: int) -> None:
    """Nodes have several blocks with a number in common, and each block several nodes."""
    index, random = NodesBySlot(), Random(shortest * longest)
    held: dict[tuple[int, int], set[int]] = {}
    for step in range(3_000):
        first, length, node = random.randint(1, 300), random.randint(max(2, shortest), longest + 1), random.randrange(4)
        nodes = held.setdefault((first, length), set())
        (blocks.add if step < 1_500 or step % 3 == 0 else blocks.discard)(
            index, block_of(slot_of(Protocol.TCP, first), length), WILDCARD, 1 << node
        )
        (nodes.add if step < 1_500 or step % 3 == 0 else nodes.discard)(node)
        if step % 250:
            continue
        for first in (0, 256):
            window = block_of(slot_of(Protocol.TCP, first), 256)
            found_of = index.lookup(slots_in(window), window)
            assert [found_of(slot, 0) for slot in slots_in(window)] == list(map(index.of_slot, slots_in(window)))
        for wanted in (1, random.randint(2, 40), random.randint(2, 300)):
            for number in range(1, 350, 3):
                found = index.of_slot(block_of(slot_of(Protocol.TCP, number), wanted))
                meeting = [there for (at, size), there in held.items() if at < number + wanted and number < at + size]
                assert found == sum(1 << each for each in set().union(*meeting)), (step, number, wanted)
                assert index.of_slot(block_of(slot_of(Protocol.UDP, number), wanted)) == 0


def test_when_all_blocks_have_gone_nothing_is_kept_of_them() -> None:
    index, held = unlike_blocks(500, 20)
    for first, length, node in held:
        blocks.discard(index, block_of(slot_of(Protocol.TCP, first), length), WILDCARD, 1 << node)

    assert not index
    assert index.is_plain


@pytest.mark.parametrize("wanted", [1, 50, 1000])
def test_a_look_costs_the_same_however_many_blocks_have_the_number(wanted: int) -> None:
    some, many = (unlike_blocks(count, 64)[0] for count in (1_000, 8_000))
    block = block_of(slot_of(Protocol.TCP, 1500), wanted)

    assert instructions(lambda: many.of_slot(block)) <= 1.5 * instructions(lambda: some.of_slot(block))
