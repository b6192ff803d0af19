"""The run: start, let the clients work, kill, start again, compare; at the end everything once more."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .clients import Client
from .environment import Disk
from .model import Model
from .server import Server, StartError

START_KILLS = 0.15  # the share of kills that hit the start
START_SPREAD = 0.9  # seconds after the start within which those fall
FAULT_STARTS = 0.5  # the share of starts into which the environment puts a fault
FAULT_SPREAD = 0.8  # seconds after which that has passed
WORK_SPREAD = 0.6  # seconds after serving within which the others fall


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, how often, and for how long at most."""

    kills: int
    clients: int
    seed: int
    folder: Path
    journal: str = ""
    sabotage: str = ""
    limit: float = 1800.0


@dataclass(slots=True)
class Result:
    """What was seen."""

    model: Model
    restarts: list[float] = field(default_factory=list)
    seconds: float = 0.0


async def crash(plan: Plan) -> Result:
    """Runs a plan. Ends early at the first violation."""
    began = time.perf_counter()
    result = Result(Model())
    disk = Disk(plan.folder)
    server = Server(plan.folder, journal=plan.journal or f"sqlite:{disk.journal}", sabotage=plan.sabotage)
    clients = [
        Client(f"c{number}", server.address, result.model, Random(f"{plan.seed}/{number}"), has_stream=number % 2 == 1)
        for number in range(plan.clients + 1)
    ]
    run = _Run(plan, result, server, disk, clients[:-1], clients[-1])
    try:
        async with asyncio.timeout(plan.limit):
            await run.all()
    except TimeoutError:
        result.model.violate(f"the run did not end within {plan.limit:g} s: a request stays unanswered", ())
    except StartError as error:
        result.model.violate(str(error), ())
    finally:
        await server.kill()
        for client in clients:
            await client.close()
        disk.close()
    result.seconds = time.perf_counter() - began
    return result


class _Run:
    """One run: the clients, and the inspector who lists and compares."""

    def __init__(
        self, plan: Plan, result: Result, server: Server, disk: Disk, clients: list[Client], inspector: Client
    ) -> None:
        self._plan = plan
        self._model = result.model
        self._restarts = result.restarts
        self._server = server
        self._disk = disk
        self._clients = clients
        self._inspector = inspector
        self._random = Random(f"{plan.seed}/kills")

    async def all(self) -> None:
        await self._start()
        work = [asyncio.create_task(client.run()) for client in self._clients]
        try:
            while self._model.counts.kills < self._plan.kills - 1:
                await self._kill_and_check()
                if self._model.violations:
                    return
            await self._finish(work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _start(self) -> None:
        fault = self._random.choice(self._disk.faults) if self._random.random() < FAULT_STARTS else ""
        if fault and self._disk.journal.exists():
            async with self._disk.fault(fault):
                await self._server.start()
                await asyncio.sleep(self._random.random() * FAULT_SPREAD)
            self._model.counts.faults[fault] += 1
            self._model.note(f"started while the journal's disk was {fault}")
        else:
            await self._server.start()
        self._restarts.append(await self._server.serving())
        self._model.note(f"serving after kill {self._model.counts.kills}")

    async def _kill_and_check(self) -> None:
        await asyncio.sleep(self._random.random() * WORK_SPREAD)
        await self._kill()
        await self._start()
        await self._check()

    async def _kill(self) -> None:
        """A kill at work; some are followed by one at the start, before it serves or just then."""
        await self._server.kill()
        self._model.killed("at work")
        if self._random.random() < START_KILLS and self._model.counts.kills < self._plan.kills - 1:
            await self._server.start()
            await asyncio.sleep(self._random.random() * START_SPREAD)
            await self._server.kill()
            self._model.killed("at its start")

    async def _check(self) -> None:
        """A listing against the model; then the leaks go, so that they do not fill the ranges."""
        standing, asked_at = self._model.standing(), time.time()
        leaks = self._model.check_listing(await self._inspector.list_all(), standing, asked_at)
        for leak in leaks:
            await self._inspector.release_id(leak.id)
            self._model.leak_released(leak)

    async def _finish(self, work: list[asyncio.Task[None]]) -> None:
        """Everybody is answered; one more kill; then nothing may be missing and every answer is repeated."""
        for client in self._clients:
            client.is_stopping = True
        await asyncio.gather(*work)
        await self._server.kill()
        self._model.killed("at rest")
        await self._start()
        await self._check()
        await asyncio.gather(*(client.repeat_all() for client in self._clients))
        await self._check()
