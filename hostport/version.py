"""The version of this program, and where its pages are."""

from __future__ import annotations

VERSION = "1.0.0rc1"
"""That of pyproject.toml, as pip writes it. It stands here as well since an image has no distribution to ask."""

DOCS = "https://hostport.io/docs/"
"""Where the pages of docs/ are published: `site_url` of mkdocs.yml. Links of programs begin with it."""
