"""The lock files say what pyproject.toml asks for, and nothing of the machine that made them: `make lock` renews them."""

from __future__ import annotations

import re
import tomllib

import pytest

from testing.documented import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCKS = {
    **{name: (name,) for name in ("agent", "allocator", "cli", "shim", "docs", "sbom")},
    "dev": ("agent", "allocator", "cli", "shim", "dev"),
}
"""File of requirements/ → the extras that it locks, each with what the package itself needs."""

LEFT_OUT = {"agent": {"grpcio", "grpcio-status"}}
"""What the package needs and a program never imports, so that its image does without."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def text_of(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")


def test_every_lock_file_is_known_here() -> None:
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_has_what_its_extras_ask_for_and_what_comes_with_that(lock: str) -> None:
    asked = {name_of(each) for each in PROJECT["dependencies"]}
    asked |= {name_of(each) for extra in LOCKS[lock] for each in EXTRAS[extra]}
    asked -= LEFT_OUT.get(lock, set())
    entries = re.findall(r"^([\w.-]+)==\S+(.*?)(?=^\S|\Z)", text_of(lock), re.MULTILINE | re.DOTALL)
    directly = {name.lower() for name, reason in entries if "hostport-operator (pyproject.toml)" in reason}

    assert directly == asked


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_place_to_download_from(lock: str) -> None:
    assert re.findall(r"^\s*(?:-i|--\w*index\S*|--find-links).*|\w+://\S+", text_of(lock), re.MULTILINE) == []
    assert "--hash=sha256:" in text_of(lock)
