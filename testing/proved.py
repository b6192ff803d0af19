"""Tables that name the test which proves each of some things."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def check_named(place: str, word: str) -> None:
    """Asserts that a test is there, and that its file has a word. place: FILE::TEST, the file from tests/ on."""
    file, _, test = place.partition("::")
    code = (TESTS / file).read_text(encoding="utf-8")
    assert f"def {test}(" in code
    assert word in code
