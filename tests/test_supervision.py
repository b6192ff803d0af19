"""Background loops: one that fails ends all, and says which it was and why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hostport.supervision import LoopError, Loops, side_by_side


async def forever() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    await asyncio.sleep(0)
    raise KeyError("x")


async def returns() -> None:
    await asyncio.sleep(0)


async def waits_for_what_is_cancelled() -> None:
    waited = asyncio.get_running_loop().create_future()
    waited.cancel()
    await waited


async def has_loops_of_its_own() -> None:
    await side_by_side(inner=fails(), other=forever())


@pytest.mark.parametrize(
    ("work", "line"),
    [
        pytest.param(fails, "the background loop 'bad' failed: KeyError: 'x'", id="raises"),
        pytest.param(returns, "the background loop 'bad' ended, and nothing does its work any more", id="returns"),
        pytest.param(
            waits_for_what_is_cancelled,
            "the background loop 'bad' failed: something that it waited for was cancelled",
            id="cancelled",
        ),
        pytest.param(has_loops_of_its_own, "the background loop 'inner' failed: KeyError: 'x'", id="nested"),
    ],
)
async def test_a_loop_that_fails_ends_the_body_and_the_others_and_says_which_and_why(work: Any, line: str) -> None:
    ended: list[str] = []

    async def other() -> None:
        try:
            await forever()
        finally:
            ended.append("other")

    async def program() -> None:
        async with Loops() as loops:
            loops.start("other", other())
            loops.start("bad", work())
            await forever()

    with pytest.raises(LoopError) as caught:
        await program()

    assert (str(caught.value), ended) == (line, ["other"])


async def test_the_end_of_the_body_ends_the_loops() -> None:
    ended: list[str] = []

    async def loop() -> None:
        try:
            await forever()
        finally:
            ended.append("loop")

    async with Loops() as loops:
        loops.start("loop", loop())
        await asyncio.sleep(0)

    assert ended == ["loop"]


async def test_a_step_may_end() -> None:
    done: list[str] = []

    async def step() -> None:
        done.append("step")

    async with Loops() as loops:
        loops.start("step", step(), ends=True)
        await asyncio.sleep(0.001)

    assert done == ["step"]


async def test_what_the_body_raises_is_raised() -> None:
    async def body() -> None:
        async with Loops() as loops:
            loops.start("loop", forever())
            raise ValueError("body")

    with pytest.raises(ValueError, match="body"):
        await body()


async def test_a_loop_that_fails_while_it_is_ended_is_told() -> None:
    async def loop() -> None:
        try:
            await forever()
        finally:
            raise OSError("at the end")

    async def program() -> None:
        async with Loops() as loops:
            loops.start("loop", loop())
            await asyncio.sleep(0)

    with pytest.raises(LoopError, match="the background loop 'loop' failed: OSError: at the end"):
        await program()
