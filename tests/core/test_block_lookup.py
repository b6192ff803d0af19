"""Where numbers are held by blocks, many at once."""

from __future__ import annotations

from functools import reduce
from operator import or_

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
