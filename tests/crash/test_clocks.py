"""A few seconds of each row of `clocks`; the long ones are a command."""

from __future__ import annotations

import asyncio

import pytest

from .clocks import ROWS, Plan, Seen, faketime, see

pytestmark = pytest.mark.skipif(not faketime(), reason="there is no libfaketime here")

AT_ONCE = 5
"""Rows that run side by side: they wait most of the time, and each has an allocator of its own."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What came of each row."""

    async def see_all() -> list[Seen]:
        places = asyncio.Semaphore(AT_ONCE)

        async def see_one(row: str) -> Seen:
            async with places:
                return await see(row, Plan(ttl=5, stop=7, leases=4), tmp_path_factory.mktemp("row"))

        return await asyncio.gather(*map(see_one, ROWS))

    return dict(zip(ROWS, asyncio.run(see_all()), strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_no_lease_ends_early_and_no_number_is_given_twice(row: str, seen: dict[str, Seen]) -> None:
    assert seen[row].is_right, seen[row]
