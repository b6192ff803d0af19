"""The version of this program, as it was installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DOCS = "https://hostport.io/docs/"
"""Where the pages of docs/ are published: `site_url` of mkdocs.yml. Links of programs begin with it."""


def program_version() -> str:
    """The version of the distribution, such as `0.1.0`; `unknown` in a checkout that is not installed."""
    try:
        return version("hostport-operator")
    except PackageNotFoundError:
        return "unknown"
