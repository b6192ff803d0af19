"""Every answer is true: small random clusters against a search that tries everything.

A denial without proof, an admission without a place, and a lease that a Pod meets are failures. A search that was cut
off is neither; how often that happens is printed (`pytest -s`), and bounded.

`ORACLE=1000000` looks at as many clusters, `ORACLE_SEED` begins with another one.
"""

from __future__ import annotations

import os

import pytest

from .cluster import Cluster, Findings

CLUSTERS = int(os.environ.get("ORACLE", "10000"))
FIRST = int(os.environ.get("ORACLE_SEED", "0"))


@pytest.mark.parametrize(
    ("sizes", "clusters", "most_undecided"),
    [
        pytest.param((1,), CLUSTERS, 1 / 1000, id="one number each"),
        pytest.param((2,), CLUSTERS // 10, 1 / 1000, id="blocks of one size"),
        pytest.param((1, 1, 2, 3), CLUSTERS // 10, 1 / 100, id="blocks of mixed sizes"),
    ],
)
def test_no_answer_is_wrong_in_small_random_clusters(
    sizes: tuple[int, ...], clusters: int, most_undecided: float
) -> None:
    findings = Findings()
    for seed in range(FIRST, FIRST + clusters):
        try:
            Cluster(seed, findings, sizes).run()
        except AssertionError as error:
            pytest.fail(f"cluster {seed}: {error}")
    print(f"\n{clusters} clusters: {dict(findings.answers)}")  # noqa: T201 - what the run is for
    asked = findings.answers["granted"] + findings.answers["refused"] + findings.answers["undecided"]
    assert findings.answers["denied"] > asked / 50, "hardly anything was denied: nothing was shown"
    assert findings.answers["undecided"] <= asked * most_undecided
