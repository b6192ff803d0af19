"""Each word of the glossary is where the page says, and is one thing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!word |---)([^|]+) \| [^|]+ \| `(\w+)` in `([\w/.]+)` \|$", PAGE, re.MULTILINE)


def test_every_row_names_a_thing_and_its_module() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| word |", "|---"))]

    assert len(rows) == len(ROWS) > 30


def test_every_word_stands_once() -> None:
    assert [word for word, count in Counter(word for word, _, _ in ROWS).items() if count > 1] == []


@pytest.mark.parametrize(("word", "name", "module"), ROWS, ids=[word for word, _, _ in ROWS])
def test_the_module_has_it(word: str, name: str, module: str) -> None:
    code = (ROOT / module).read_text(encoding="utf-8")

    defined = rf"^(class {name}\b|def {name}\b|{name}\b.*=|    {name}: )|, {name} = "
    assert re.search(defined, code, re.MULTILINE), (
        f"{module} has no {name}: say in docs/glossary.md where {word} is now"
    )
