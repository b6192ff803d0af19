"""How much begins in one turn of the event loop."""

from __future__ import annotations

import asyncio
from functools import partial

from shim.limiter import HEAVY, TurnLimiter


async def test_work_that_comes_at_once_begins_a_few_pieces_a_turn_and_in_its_order() -> None:
    turns, begun = TurnLimiter(3), list[int]()
    for number in range(8):
        turns.begin(partial(begun.append, number))
    seen = [list(begun)]
    for _ in range(3):
        await asyncio.sleep(0)
        seen.append(list(begun))
    assert seen == [[0, 1, 2], [0, 1, 2, 3, 4, 5], list(range(8)), list(range(8))]


async def test_what_comes_while_others_wait_begins_after_them() -> None:
    turns, begun = TurnLimiter(1), list[str]()
    for name in ("first", "second", "third"):
        turns.begin(partial(begun.append, name))
    await asyncio.sleep(0)
    turns.begin(partial(begun.append, "late"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert begun == ["first", "second", "third", "late"]


async def test_work_that_comes_a_piece_at_a_time_never_waits() -> None:
    turns, begun = TurnLimiter(1), list[int]()
    for number in range(3):
        turns.begin(partial(begun.append, number))
        assert begun == list(range(number + 1))
        await asyncio.sleep(0)


async def test_a_large_piece_counts_as_many_and_ends_its_turn() -> None:
    turns, begun = TurnLimiter(3), list[str]()
    for name, size in (("small", 0), ("large", 3 * HEAVY), ("other", 3 * HEAVY), ("last", 0)):
        turns.begin(partial(begun.append, name), size)
    seen = [list(begun)]
    for _ in range(3):
        await asyncio.sleep(0)
        seen.append(list(begun))
    assert seen == [
        ["small", "large"],
        ["small", "large", "other"],
        ["small", "large", "other", "last"],
        ["small", "large", "other", "last"],
    ]
