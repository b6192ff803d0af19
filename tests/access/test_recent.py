"""Answers that stay good for a while."""

from __future__ import annotations

import asyncio

import pytest

from allocator.access.recent import Recent, TooManyError


class Desk:
    """Answers with the number of the question; `open` lets answers out."""

    def __init__(self, *, most: int = 2, most_at_once: int = 2) -> None:
        self.now = 0.0
        self.count = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.recent: Recent[str, int] = Recent(seconds=10, most=most, most_at_once=most_at_once, now=lambda: self.now)

    async def ask(self) -> int:
        self.count += 1
        number = self.count
        await self.open.wait()
        if self.failure:
            raise self.failure
        return number

    async def get(self, key: str) -> int:
        return await self.recent.get(key, self.ask)


async def test_an_answer_is_kept_for_ten_seconds_from_its_question() -> None:
    desk = Desk()
    desk.open.clear()
    first = asyncio.create_task(desk.get("a"))
    await asyncio.sleep(0)
    desk.now = 4.0
    desk.open.set()
    assert await first == 1

    desk.now = 9.9
    assert await desk.get("a") == 1
    desk.now = 10.0
    assert await desk.get("a") == 2


async def test_who_asks_the_same_at_once_waits_for_one_answer() -> None:
    desk = Desk()
    desk.open.clear()
    asking = [asyncio.create_task(desk.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    desk.open.set()

    assert await asyncio.gather(*asking[1:]) == [1] * 4


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    desk = Desk()
    desk.failure = ValueError("no")
    told = await asyncio.gather(desk.get("a"), desk.get("a"), return_exceptions=True)
    assert [str(error) for error in told] == ["no", "no"]

    desk.failure = None
    assert await desk.get("a") == 2


async def test_a_failure_that_nobody_waits_for_any_more_is_silent() -> None:
    desk = Desk()
    desk.failure = ValueError("no")
    desk.open.clear()
    asking = asyncio.create_task(desk.get("a"))
    await asyncio.sleep(0)
    asking.cancel()
    desk.open.set()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0)

    desk.failure = None
    assert await desk.get("a") == 2


async def test_the_longest_unused_answer_goes_first() -> None:
    desk = Desk(most=2)
    for key in ("a", "b", "a", "c"):
        await desk.get(key)

    assert [await desk.get(key) for key in ("a", "c", "b")] == [1, 3, 4]


async def test_more_questions_at_once_than_are_allowed_are_turned_away() -> None:
    desk = Desk(most_at_once=2)
    desk.open.clear()
    asking = [asyncio.create_task(desk.get(key)) for key in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(TooManyError):
        await desk.get("c")

    desk.open.set()
    assert await asyncio.gather(*asking) == [1, 2]
    assert await desk.get("c") == 3
