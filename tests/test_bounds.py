"""The page on limits has the numbers that are checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hostport.bounds import LARGEST_PATCH, LONGEST_ADDRESS, LONGEST_NAME, MOST_PORTS, Bound

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE.partition("## How large one Pod may be")[2], re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("ports", MOST_PORTS),
        ("terms of required node affinity", Bound.TERMS.most),
        ("expressions in all terms", Bound.EXPRESSIONS.most),
        ("values in all expressions", Bound.VALUES.most),
        ("entries of the node selector", Bound.SELECTOR.most),
        ("tolerations", Bound.TOLERATIONS.most),
        ("node selector, affinity and tolerations together, as sent", Bound.CONSTRAINTS.most),
        ("names, namespaces, uids", LONGEST_NAME),
        ("addresses (`hostIP`)", LONGEST_ADDRESS),
        ("containers and init containers", Bound.CONTAINERS.most),
        ("environment variables of all containers", Bound.ENV.most),
        ("annotations", Bound.ANNOTATIONS.most),
        ("annotations", Bound.ANNOTATION_BYTES.most),
        ("owner references, entries of managed fields", Bound.OWNERS.most),
        ("owner references, entries of managed fields", Bound.MANAGERS.most),
        ("sysctls", Bound.SYSCTLS.most),
        ("opening braces in a review above 64 KiB", Bound.OBJECTS.most),
        ("bytes of the patch, foretold before anything is allocated", LARGEST_PATCH),
    ],
)
def test_the_page_tells_each_bound(words: str, most: int) -> None:
    told = dict(ROWS)[words]

    assert f"{most:,}" in told or f"{most >> 10} KiB" in told


def test_a_refusal_names_the_count_the_bound_and_the_remedy() -> None:
    assert Bound.TOLERATIONS.told(1257) == (
        '1,257 tolerations are more than 256. Use operator "Exists", which tolerates every value of a taint'
    )
