"""A hook of mkdocs (mkdocs.yml): pages of the site that lie outside of docs/, so that each text is written once.

A page of docs/ links to them as a reader of the repository needs it (`../CHANGELOG.md`), and they link to docs/ in the
same way (`docs/upgrade.md`). Here both become links of the site. Any other link that leads out of it is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "reporting.md": "SECURITY.md",
    "chart.md": "deploy/chart/hostport-operator/README.md",
}
"""Where a text stands in the checkout, by the page that it becomes."""


class LinkError(Exception):
    """A link that leads nowhere on the site."""


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the pages. Called by mkdocs."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - is not there where the tests run

    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=page_of(page, (ROOT / source).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Leads the links of a page of docs/ to the pages above. Called by mkdocs.

    Raises:
        LinkError: a link leads out of docs/ to something that is no page.

    """
    for target, source in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}")
    if left := re.search(r"\]\((\.\./[^)]*)\)", markdown):
        raise LinkError(f"{page.file.src_uri}: {left[1]} is not on the site")
    return markdown


def page_of(page: str, text: str) -> str:
    """A text of the checkout as a page of docs/.

    Raises:
        LinkError: it links to a file that is no page of the site.

    """
    folder = Path(OUTSIDE[page]).parent
    pages = {source: target for target, source in OUTSIDE.items()}

    def led(link: re.Match[str]) -> str:
        if re.match(r"\w+:|#", link[1]):
            return link[0]
        file, _, anchor = link[1].partition("#")
        path = (ROOT / folder / file).resolve().relative_to(ROOT).as_posix()
        target = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if target is None:
            raise LinkError(f"{OUTSIDE[page]}: {link[1]} is not on the site")
        return f"]({target}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", led, text)
