"""The version of this program, as it was installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    try:
        return version("hostport-operator")
    except PackageNotFoundError:
        return "unknown"
