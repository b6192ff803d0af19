"""One changed bit, anywhere: nothing that was acknowledged is lost or served wrongly in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from .flips import NAME, Copied, copied, outcomes, some_bits


@pytest.fixture
async def source(tmp_path: Path) -> Copied:
    return await copied(tmp_path, 120)


@pytest.mark.parametrize("knows_last", [True, False], ids=["with its lock file", "without it"])
@pytest.mark.parametrize("part", ["", "-wal"], ids=["database", "WAL"])
def test_a_changed_bit_is_told_or_changes_nothing(
    tmp_path: Path, source: Copied, part: str, *, knows_last: bool
) -> None:
    if not knows_last:
        (source.folder / f"{NAME}.lock").unlink()

    found = outcomes(source, tmp_path / "copy", part, some_bits(source, part, 25, seed=3))

    assert (found.copies, found.silent, found.wrong) == (25, 0, 0)
    assert found.whole + found.told == 25
    assert found.most_lost < 8, "what is sound of the rest goes on"
