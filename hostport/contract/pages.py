"""What of docs/ is made from the contract: `python -m hostport.contract.pages` writes it, with `--check` compares it.

In docs/annotations.md and docs/platforms.md only the tables are made, each between two comments; the text around them
is people's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hostport.contract.annotations import Annotation, Writer
from hostport.contract.notices import Notice
from hostport.contract.reasons import Reason
from hostport.contract.reserved import PRESETS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def reasons_page() -> str:
    """docs/contract.md: every reason, and every warning."""
    lines = [
        "<!-- Rendered by `make docs` from hostport/contract. Do not edit. -->",
        "# Reasons and warnings",
        "",
        "Every error carries `google.rpc.ErrorInfo` with domain `hostport.io` and one of these reasons; the same word",
        "stands in `status.reason` of the admission answer. Several mistakes in one request are reported together, as",
        "`google.rpc.BadRequest` field violations; the ErrorInfo is that of the first.",
        "[Troubleshooting](troubleshooting.md) shows the messages. A Pod that is denied is not created; after HTTP 503",
        "`failurePolicy` decides.",
        "",
        "| reason | condition | gRPC code | admission | what the caller should do |",
        "|---|---|---|---|---|",
    ]
    for reason in Reason:
        status = reason.code.admission_status
        answer = "HTTP 503" if status == 503 else f"denied, {status}"
        lines.append(f"| `{reason.name}` | {reason.condition} | `{reason.code.name}` | {answer} | {reason.remedy} |")
    seen = "The Pod is admitted. [Troubleshooting](troubleshooting.md#warnings) says where you see them and what to do."
    lines += ["", "## Warnings", "", seen, ""]
    lines += ["| warning | when |", "|---|---|"]
    lines += [f"| `{notice.name}` | {notice.condition} |" for notice in Notice]
    return "\n".join(lines) + "\n"


def annotations_page(page: str) -> str:
    """docs/annotations.md with its tables made anew.

    Raises:
        ValueError: the page has no place for the table of a writer.

    """
    for writer, table in ((Writer.USER, _written()), (Writer.SHIM, _found())):
        page = _with_table(page, writer.value, "annotations", table)
    return page


def platforms_page(page: str) -> str:
    """docs/platforms.md with its table of presets made anew.

    Raises:
        ValueError: the page has no place for it.

    """
    return _with_table(page, "presets", "reserved", _presets())


def _with_table(page: str, name: str, module: str, table: Iterable[str]) -> str:
    """A page with a table between the two comments of its name."""
    begin, end = f"<!-- {name}: made from hostport/contract/{module}.py -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"docs has no page with {begin} and {end}")
    block = "\n".join((begin, "", *table, "", end))
    return f"{before}{block}{after}"


def _presets() -> Iterator[str]:
    yield from ("| preset | numbers | reserved for |", "|---|---|---|")
    for name, ranges in PRESETS.items():
        owners: dict[str, list[str]] = {}
        for first, last, owner, protocol in ranges:
            numbers = f"{first}" if first == last else f"{first}-{last}"
            owners.setdefault(owner, []).append(numbers if protocol == "TCP" else f"{numbers}/{protocol}")
        for owner, some in owners.items():
            yield f"| `{name}` | {', '.join(some)} | {owner} |"


def _written() -> Iterator[str]:
    yield from ("| annotation | value | default |", "|---|---|---|")
    for row in Annotation:
        if row.writer is Writer.USER:
            yield f"| `{row.shown}` | {row.meaning} | {row.default} |".replace("  ", " ")


def _found() -> Iterator[str]:
    yield from ("| annotation | value |", "|---|---|")
    for row in Annotation:
        if row.writer is Writer.SHIM:
            yield f"| `{row.shown}` | {row.meaning} |"


def pages() -> dict[Path, str]:
    """Every page that is made here, and what it should hold.

    Raises:
        ValueError: a page has no place for a table.

    """
    annotations, platforms = DOCS / "annotations.md", DOCS / "platforms.md"
    return {
        DOCS / "contract.md": reasons_page(),
        annotations: annotations_page(annotations.read_text(encoding="utf-8")),
        platforms: platforms_page(platforms.read_text(encoding="utf-8")),
    }


def main(arguments: list[str]) -> int:
    """Writes the pages, or with `--check` names those that are stale and returns 1."""
    stale = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        sys.stdout.writelines(f"docs/{path.name} is stale: run make docs\n" for path in stale)
        return int(bool(stale))
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
