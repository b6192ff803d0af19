"""docs/follow.md is true: what passes through the programs is traced anew, and enters the files that stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testing.follow import unless_reordered

ROOT = Path(__file__).resolve().parents[1]
MOST = {"AdmissionReview": (33, 128), "Allocate RPC": (17, 54), "Pod event": (15, 70), "renewal": (9, 18)}
"""Files that each may enter, and how often it may change file: a way that grows longer has to be wanted."""

Traced = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def traced() -> Traced:
    """In a process of its own, whose profiler is nobody else's."""
    command = [sys.executable, "-m", "testing.follow", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    walks: Traced = json.loads(done.stdout)
    return walks


def on_the_page() -> dict[str, list[str]]:
    """The files of each section."""
    sections = (ROOT / "docs" / "follow.md").read_text(encoding="utf-8").split("\n## One ")[1:]
    return {section.partition("\n")[0]: re.findall(r"^\| `([^`]+)`", section, re.MULTILINE) for section in sections}


@pytest.mark.parametrize("name", MOST)
def test_the_page_names_every_file_on_the_way(traced: Traced, name: str) -> None:
    assert sorted(on_the_page()[name]) == sorted(traced[name]["files"])


@pytest.mark.parametrize("name", MOST)
def test_the_way_has_not_grown(traced: Traced, name: str) -> None:
    files, changes = MOST[name]

    assert len(traced[name]["files"]) <= files
    assert traced[name]["changes"] <= changes


def test_a_page_whose_lines_came_in_another_order_stays_as_it_is() -> None:
    stands = (ROOT / "docs" / "follow.md").read_text(encoding="utf-8")
    lines = stands.splitlines(keepends=True)
    lines[14], lines[15] = lines[15], lines[14]

    assert unless_reordered("".join(lines), stands) == stands
    assert unless_reordered("".join(lines[:-1]), stands) == "".join(lines[:-1])
