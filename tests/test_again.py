"""What CI runs once more, and what it takes for broken."""

from __future__ import annotations

import sys
from pathlib import Path

import again
import pytest

FLAKY = """
from pathlib import Path
def test_steady(): Path("steady").open("a").write("ran ")
def test_flaky():
    known = Path("known").exists()
    Path("known").touch()
    assert known
"""
FILES = {
    "all pass": ("def test_one(): pass", True),
    "passes the second time": (FLAKY, True),
    "fails twice": ("def test_one(): assert False", False),
    "is no test": ("import nothing_of_this_name", False),
    "has no test": ("", False),
}


@pytest.mark.parametrize(("text", "passes"), FILES.values(), ids=FILES)
def test_what_fails_twice_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, passes: bool
) -> None:
    (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert again.passes([sys.executable, "-m", "pytest", "-q", "test_it.py"]) is passes
    said = capfd.readouterr().out
    assert ("Once more, what failed of test_it.py" in said) is (text is not FILES["all pass"][0])
    assert "PASSED" in said or text is not FLAKY


def test_only_what_failed_is_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FLAKY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    again.passes([sys.executable, "-m", "pytest", "-q", "test_it.py"])
    assert (tmp_path / "steady").read_text() == "ran "
