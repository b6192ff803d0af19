"""`make test-pythons`: on which Python it runs what, and what it says where it cannot."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import pythons

HERE = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - as the program itself says it


def test_a_python_of_the_path_is_tested_in_a_virtual_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / f"python{HERE}"
    program.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert pythons.command(HERE) == [
        *(sys.executable, pythons.__file__, "here", f"PYTHON={program}", f"VENV=build/pythons/{HERE}")
    ]


def test_a_stub_that_starts_nothing_is_no_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = tmp_path / "python3.98"
    stub.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert pythons.on_path("3.98") is None


MAKEFILE = """\
run:
\t@echo Serving until Ctrl-C.
\t@sleep 3 || true
test:
\t@echo $(PYTHON) tests
\t@exit {status}
"""


@pytest.mark.parametrize("status", [0, 1])
def test_both_commands_of_a_newcomer_are_typed_and_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE.format(status=status), encoding="utf-8")
    monkeypatch.setattr(pythons, "CHECKOUT", tmp_path)

    assert pythons.newcomer(["PYTHON=python9"]) == status
    assert capfd.readouterr().out.splitlines()[-1] == "make run served after 0 s, make test took 0 s"


def test_a_run_that_ends_by_itself_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("run:\n\t@exit 1\n", encoding="utf-8")
    monkeypatch.setattr(pythons, "CHECKOUT", tmp_path)

    assert pythons.newcomer([]) == 1


NOT_HERE = {
    "no root": ("3.14", 1000, "/usr/bin/tool", "only root can make a tree of Debian"),
    "no debootstrap": ("3.14", 0, None, "debootstrap, unshare, chroot, git not installed"),
    "a Python that Debian has not": ("3.99", 0, "/usr/bin/tool", "no release of Debian is known to have it"),
}


@pytest.mark.parametrize(("version", "uid", "tool", "said"), NOT_HERE.values(), ids=NOT_HERE)
def test_a_python_that_cannot_be_had_is_skipped_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    uid: int,
    tool: str | None,
    said: str,
) -> None:
    monkeypatch.setattr(pythons, "on_path", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda _: tool)

    assert pythons.command(version) is None
    assert capsys.readouterr().out == f"Python {version}: skipped: no python{version} here, and {said}\n"


@pytest.mark.parametrize(
    ("program", "found"),
    [
        pytest.param("python3.15", "3.15", id="a newer one"),
        pytest.param(None, "none", id="none"),
    ],
)
def test_a_release_of_debian_that_has_another_python_by_now_is_skipped_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    program: str | None,
    found: str,
) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    if program is not None:
        (tmp_path / "usr" / "bin" / "python3").symlink_to(program)
    monkeypatch.setattr(pythons, "on_path", lambda _: None)
    monkeypatch.setattr(pythons, "missing", lambda _: "")
    monkeypatch.setattr(pythons, "tree", lambda _: tmp_path)

    assert pythons.command("3.14") is None
    assert capsys.readouterr().out == f"Python 3.14: skipped: Debian's sid has Python {found} now\n"


def test_the_tree_has_the_checkout_as_it_is_now_and_keeps_its_virtual_environment(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / ".venv").mkdir(parents=True)
    (source / "tests").mkdir()
    (source / "tests" / "test_of_yesterday.py").touch()
    if not pythons.said(["git", "-C", str(pythons.CHECKOUT), "rev-parse", "HEAD"]):
        pytest.skip("no checkout of git here")

    pythons.copy_checkout(source)

    assert (source / ".venv").is_dir()
    assert not (source / "tests" / "test_of_yesterday.py").exists()
    assert (source / "Makefile").read_bytes() == (pythons.CHECKOUT / "Makefile").read_bytes()
