"""A few kills in every test run, and proof that a fault would be found. `make crash` does hundreds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .run import Plan, Result, crash

SEED = 7


def _run(folder: Path, **options: str) -> Result:
    plan = Plan(kills=4, clients=8, seed=SEED, folder=folder, limit=180, **options)
    return asyncio.run(crash(plan))


def test_nothing_acknowledged_is_lost_or_handed_out_twice(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert [violation.text for violation in result.model.violations] == []
    assert result.model.counts.kills == 4
    assert result.model.counts.acknowledged > 50
    assert result.model.counts.streamed > 20


@pytest.mark.parametrize("fault", ["reply-before-commit", "forget-answers", "forget-releases", "blind-restart"])
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    assert _run(tmp_path, sabotage=fault).model.violations
