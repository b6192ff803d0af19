"""How `hostport` starts where what it needs is not installed."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from hostport_cli import start


def missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def importing(module: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(start, "import_module", importing)


@pytest.mark.parametrize("program", [start.command_line, start.completion], ids=["hostport", "completion"])
def test_whoever_installed_the_library_alone_is_told_which_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: start.Program
) -> None:
    missing(monkeypatch, "rich.table")

    with pytest.raises(SystemExit) as ended:
        program()

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "hostport: the package rich is not installed, which the command line needs and the library does not: "
        'pip install "hostport-operator[cli]"\n'
    )


def test_grpc_keeps_its_log_to_itself_and_a_command_with_a_lease_does_not_inherit_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each handshake that fails was a line of C++ above the one that says what to do."""
    seen = []

    def importing(module: str) -> Any:
        seen.append(os.environ.get("GRPC_VERBOSITY"))
        return SimpleNamespace(main=lambda: seen.append(os.environ.get("GRPC_VERBOSITY")))

    monkeypatch.setattr(start, "import_module", importing)
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    start.command_line()
    monkeypatch.setenv("GRPC_VERBOSITY", "debug")
    start.command_line()

    assert seen == ["NONE", None, "debug", "debug"]


def test_ctrl_c_before_everything_is_imported_ends_it_as_ctrl_c_does_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def importing(module: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "import_module", importing)

    assert start.command_line() == 130


@pytest.mark.parametrize("name", ["hostport_cli.exits", "shim", "allocator.core.place.plan"])
def test_a_module_of_our_own_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    missing(monkeypatch, name)

    with pytest.raises(ModuleNotFoundError, match=name):
        start.command_line()
