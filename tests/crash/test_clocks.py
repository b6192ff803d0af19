"""A few seconds of each row of `clocks`; the long ones are a command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .clocks import ROWS, Plan, faketime, see

pytestmark = pytest.mark.skipif(not faketime(), reason="there is no libfaketime here")


@pytest.mark.parametrize("row", ROWS)
def test_no_lease_ends_early_and_no_number_is_given_twice(row: str, tmp_path: Path) -> None:
    seen = asyncio.run(see(row, Plan(ttl=5, stop=7, leases=4), tmp_path))

    assert seen.is_right, seen
