"""The pause before a request is repeated."""

from __future__ import annotations

import pytest

from allocator.cluster.client import retry_pause


@pytest.mark.parametrize(
    ("failures", "chance", "at_least", "seconds"),
    [
        (1, 0.0, 0.0, 0.05),
        (1, 0.5, 0.0, 0.075),
        (2, 0.0, 0.0, 0.1),
        (7, 0.0, 0.0, 3.2),
        (8, 0.0, 0.0, 5.0),
        (1000, 0.0, 0.0, 5.0),
        (1000, 0.999, 0.0, 9.995),
        (1, 0.0, 3.0, 3.0),
        (1, 0.5, 3.0, 3.025),
        (1000, 0.5, 3.0, 7.5),
    ],
)
def test_a_pause_doubles_to_ten_seconds_and_heeds_retry_after(
    failures: int, chance: float, at_least: float, seconds: float
) -> None:
    assert retry_pause(failures, chance, at_least=at_least) == pytest.approx(seconds)
