"""Answers that stay good for a while."""

from __future__ import annotations

import asyncio

import pytest

from allocator.access.single_flight import SingleFlightCache, TooManyError


class NumberedAnswers:
    """Answers with the number of the question; `open` lets answers out."""

    def __init__(self, *, most: int = 2, most_at_once: int = 2) -> None:
        self.now = 0.0
        self.count = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.recent: SingleFlightCache[str, int] = SingleFlightCache(
            seconds=10, most=most, most_at_once=most_at_once, now=lambda: self.now
        )

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
    answers = NumberedAnswers()
    answers.open.clear()
    first = asyncio.create_task(answers.get("a"))
    await asyncio.sleep(0)
    answers.now = 4.0
    answers.open.set()
    assert await first == 1

    answers.now = 9.9
    assert await answers.get("a") == 1
    answers.now = 10.0
    assert await answers.get("a") == 2


async def test_who_asks_the_same_at_once_waits_for_one_answer() -> None:
    answers = NumberedAnswers()
    answers.open.clear()
    asking = [asyncio.create_task(answers.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    answers.open.set()

    assert await asyncio.gather(*asking[1:]) == [1] * 4


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    answers = NumberedAnswers()
    answers.failure = ValueError("no")
    told = await asyncio.gather(answers.get("a"), answers.get("a"), return_exceptions=True)
    assert [str(error) for error in told] == ["no", "no"]

    answers.failure = None
    assert await answers.get("a") == 2


async def test_a_failure_that_nobody_waits_for_any_more_is_silent() -> None:
    answers = NumberedAnswers()
    answers.failure = ValueError("no")
    answers.open.clear()
    asking = asyncio.create_task(answers.get("a"))
    await asyncio.sleep(0)
    asking.cancel()
    answers.open.set()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0)

    answers.failure = None
    assert await answers.get("a") == 2


async def test_the_longest_unused_answer_goes_first() -> None:
    answers = NumberedAnswers(most=2)
    for key in ("a", "b", "a", "c"):
        await answers.get(key)

    assert [await answers.get(key) for key in ("a", "c", "b")] == [1, 3, 4]


async def test_more_questions_at_once_than_are_allowed_are_turned_away() -> None:
    answers = NumberedAnswers(most_at_once=2)
    answers.open.clear()
    asking = [asyncio.create_task(answers.get(key)) for key in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(TooManyError):
        await answers.get("c")

    answers.open.set()
    assert await asyncio.gather(*asking) == [1, 2]
    assert await answers.get("c") == 3
