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


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a third of the time


def passes(text: str) -> bool:
    Path("test_it.py").write_text(text, encoding="utf-8")
    return again.passes([sys.executable, "-m", "pytest", "-q", "test_it.py"])


@pytest.mark.parametrize(("text", "is_fine"), FILES.values(), ids=FILES)
def test_what_fails_twice_is_broken(text: str, is_fine: bool, capfd: pytest.CaptureFixture[str]) -> None:
    assert passes(text) is is_fine
    assert ("Once more, what failed of test_it.py" in capfd.readouterr().out) is (text != FILES["all pass"][0])


def test_only_what_failed_is_run_again_and_both_runs_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    passes(FLAKY)
    said = capfd.readouterr().out
    assert Path("steady").read_text(encoding="utf-8") == "ran "
    assert (said.count("FAILED test_it.py::test_flaky"), said.count("PASSED test_it.py::test_flaky")) == (1, 1)
