"""Waiting in line: in order of arrival, at the cost of one, and nobody in the line of another."""

from __future__ import annotations

import asyncio

from allocator.sight import POLL_SECONDS, WaitingLines


class Bell:
    """What is waited for: so many may go on. Counts how often somebody looks."""

    def __init__(self) -> None:
        self.room = self.looks = 0

    def must_wait(self) -> bool:
        self.looks += 1
        return not self.room


async def stand(lines: WaitingLines, key: str, bell: Bell, seconds: float = 5) -> bool:
    """Whether there was room before the time was up; it is taken."""
    await lines.wait(key, bell.must_wait, asyncio.get_running_loop().time() + seconds)
    if not bell.room:
        return False
    bell.room -= 1
    return True


async def test_whoever_need_not_wait_does_not() -> None:
    bell = Bell()
    bell.room = 1

    assert await stand(WaitingLines(), "a", bell)
    assert bell.looks == 1


async def test_whoever_need_not_wait_is_not_behind_those_who_must() -> None:
    lines, blocked, free = WaitingLines(), Bell(), Bell()
    waiting = asyncio.create_task(stand(lines, "a", blocked, 0.2))
    await asyncio.sleep(0)
    free.room = 1

    assert await stand(lines, "a", free)
    assert not waiting.done()
    assert not await waiting


async def test_those_who_wait_go_on_in_order_of_arrival() -> None:
    lines, bell, order = WaitingLines(), Bell(), []

    async def one(number: int) -> None:
        assert await stand(lines, "a", bell)
        order.append(number)

    waiting = [asyncio.create_task(one(number)) for number in range(5)]
    for count in range(1, 6):
        await asyncio.sleep(0)
        bell.room = 1
        async with asyncio.timeout(30):
            while len(order) < count:
                await asyncio.sleep(POLL_SECONDS / 4)

    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]


async def test_a_thousand_cost_what_one_costs() -> None:
    lines, bell = WaitingLines(), Bell()

    found = await asyncio.gather(*(stand(lines, "a", bell, 0.3) for _ in range(1000)))

    assert set(found) == {False}
    assert bell.looks - 1000 < 3 * 0.3 / POLL_SECONDS, "each looks once when it comes"


async def test_nobody_stands_in_the_line_of_another_and_an_empty_line_is_forgotten() -> None:
    lines, blocked, free = WaitingLines(), Bell(), Bell()
    waiting = asyncio.create_task(stand(lines, "a", blocked, 0.2))
    await asyncio.sleep(0)
    free.room = 1

    assert await stand(lines, "b", free)
    assert not await waiting
    del waiting
    assert not lines._heads
