"""The spread that a row of the bench prints."""

from __future__ import annotations

import pytest

from bench.measure import Row, Sample

SPREADS = {
    "one round tells of none": ([2.0], None),
    "equal rounds": ([2.0, 2.0, 2.0], (2.0, 2.0)),
    # t of two degrees of freedom 4.30, standard deviation of the logarithms ln 2, times the root of 2/3
    "three rounds, as factors": ([1.0, 2.0, 4.0], (2 / 2 ** (4.30 * 0.8165), 2 * 2 ** (4.30 * 0.8165))),
    "what may be negative, as differences": ([-1.0, 0.0, 1.0], (-4.30 * 0.8165, 4.30 * 0.8165)),
    "twelve rounds, as ten": ([1.0, 4.0] * 6, (2.5 / 2**0.9644, 2.5 * 2**0.9644)),
}


@pytest.mark.parametrize(("ratios", "spread"), SPREADS.values(), ids=SPREADS)
def test_a_spread_is_where_another_run_would_be(ratios: list[float], spread: tuple[float, float] | None) -> None:
    row = Row(bench="b", what="w", unit="", ours=[Sample(r) for r in ratios], bare=[Sample(1.0)] * len(ratios))

    assert row.spread == (None if spread is None else pytest.approx(spread, rel=1e-3))
