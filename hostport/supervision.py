"""Background loops of a program: one that fails ends the program, and says which it was and why.

Rules:

* A loop goes on until the program ends. One that fails, that returns, or that somebody else cancels has failed.
* A failure ends the other loops and the body of the `async with`, and is raised as one `LoopError`.
* What is started with `ends=True` is a step: it may return.
* A loop may have loops of its own. The innermost name is told: it says most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class LoopError(RuntimeError):
    """The background loop `name` failed. `__cause__` is what it raised, if anything."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the background loop {name!r} {why}")
        self.name = name


class Loops:
    """A group of loops, for `async with`. When the body ends, they are ended.

    Raises:
        LoopError: a loop failed.

    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as failures:
            first = _first(failures)
            raise first from first.__cause__

    def start(self, name: str, work: Coroutine[Any, Any, None], *, ends: bool = False) -> None:
        """Runs `work` beside the others. `ends`: whether it may return."""
        task = self._group.create_task(_supervised(name, work, ends=ends), name=name)
        task.add_done_callback(lambda _: work.close())  # it may have ended before it began
        self._tasks.append(task)


async def side_by_side(**works: Coroutine[Any, Any, None]) -> None:
    """Runs loops by name, for ever.

    Raises:
        LoopError: one of them failed; the others have ended.

    """
    async with Loops() as loops:
        for name, work in works.items():
            loops.start(name, work)
        await asyncio.Event().wait()


async def _supervised(name: str, work: Coroutine[Any, Any, None], *, ends: bool) -> None:
    task = asyncio.current_task()
    try:
        await work
    except LoopError:
        raise  # the innermost name is told
    except asyncio.CancelledError as error:
        if task is None or task.cancelling():
            raise  # we end it
        raise LoopError(name, "failed: something that it waited for was cancelled") from error
    except Exception as error:
        raise LoopError(name, f"failed: {type(error).__name__}: {error}") from error
    if not ends:  # a loop goes on until the program ends
        raise LoopError(name, "ended, and nothing does its work any more")


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first."""
    error = failures.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
