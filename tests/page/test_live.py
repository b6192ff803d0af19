"""The stream without HTTP: who does not read is let go, and nothing is computed for nobody."""

from __future__ import annotations

import asyncio
from itertools import count

from allocator.page.live import StatusStream


async def test_a_reader_gets_the_newest_state_and_who_is_slow_is_let_go() -> None:
    rendered = count(1)
    live = StatusStream(lambda: str(next(rendered)).encode(), period=0.01, patience=0.1)
    got: list[bytes] = []

    async def reads(event: bytes) -> None:
        got.append(event)

    async def never_reads(_: bytes) -> None:
        await asyncio.Event().wait()  # for ever

    reader = asyncio.create_task(live.follow(reads))
    async with asyncio.timeout(30):
        await live.follow(never_reads)
    assert (live.readers, live.let_go) == (1, 1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)

    assert got[0] == b"1"
    assert [int(event) for event in got] == sorted({int(event) for event in got})
    assert live.readers == 0
    last = next(rendered)
    await asyncio.sleep(0.05)
    assert next(rendered) == last + 1  # nobody reads: nothing is rendered
