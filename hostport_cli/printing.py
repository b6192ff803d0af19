"""What commands print: tables as kubectl has them, JSON, YAML, names. On a terminal with colours, through rich.

Rule: what others wrote (names, descriptions, messages) is shown and does not steer: see `visible`.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

T = TypeVar("T")

GAP = "   "
UNBOUND = 10_000
STYLES = {
    "BOUND": "green",
    "LEASED": "cyan",
    "CONFIRMED": "yellow",
    "RESERVED": "yellow",
    "✓": "green",
    "‼": "yellow",
    "✗": "bold red",
}
"""The style of a cell by its first word."""

STEERS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control, format (as what turns the direction), half a character, ends of lines."""

Output = Literal["table", "wide", "json", "yaml", "name"]

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
    show_default=True,
    help="What to print.",
)


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table. `is_wide`: only with -o wide."""

    title: str
    cell: Callable[[T], str]
    is_wide: bool = False


def show(
    output: Output, rows: Sequence[T], columns: Sequence[Column[T]], *, name: Callable[[T], str], data: Any
) -> None:
    """Prints rows as it was asked for. `data`: what JSON and YAML show, a message of the API or plain values."""
    match output:
        case "json" | "yaml":
            show_data(output, data)
        case "name":
            for row in rows:
                click.echo(name(row))
        case _:
            shown = [column for column in columns if output == "wide" or not column.is_wide]
            table([column.title for column in shown], [[column.cell(row) for column in shown] for row in rows])


def show_data(output: str, data: Any) -> None:
    """Prints a message or plain data, as JSON or as YAML."""
    plain = MessageToDict(data, always_print_fields_with_no_presence=True) if isinstance(data, Message) else data
    if output == "json":
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415 - only where it is asked for

    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Nothing where there are no rows."""
    if not rows:
        return
    if not has_colours():
        for line in plain_table(titles, rows):
            click.echo(line)
        return
    from rich.console import Console  # noqa: PLC0415 - no pipe pays for it

    # As wide as it is: the terminal wraps lines, as kubectl's; a number or an id that is cut in two helps nobody.
    Console(highlight=False, width=UNBOUND).print(rich_table(titles, rows))


def plain_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns as wide as their widest cell. An empty cell is shown as `-`."""
    lines = [list(titles), *([visible(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(titles))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """The same with the colours of `STYLES`, by the first word of a cell."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        made.add_column(title, no_wrap=True)
    for row in rows:
        made.add_row(*(Text(visible(cell) or "-", style=STYLES.get(cell.split(" ", 1)[0], "")) for cell in row))
    return made


def is_terminal() -> bool:
    return sys.stdout.isatty()


def has_colours() -> bool:
    """A terminal whose user has not said otherwise (https://no-color.org), and that knows how."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    """For single lines: coloured on a terminal, plain elsewhere (click strips it there)."""
    colours = {"green": "green", "yellow": "yellow", "bold red": "red", "bold": None}
    return click.style(text, fg=colours.get(style), bold=style.startswith("bold")) if has_colours() else text


def remark(text: str) -> None:
    """Something that is not the answer."""
    click.echo(visible(text), err=True)


def visible(text: str) -> str:
    r"""The text, with what would steer a terminal as Python writes it: `\x1b` for ESC, `\n` for the end of a line."""
    if text.isascii() and text.isprintable():
        return text
    steers = {sign for sign in text if unicodedata.category(sign) in STEERS}
    return text.translate({ord(sign): sign.encode("unicode_escape").decode("ascii") for sign in steers})


def age(seconds: float) -> str:
    """As kubectl writes it: the two largest units where the larger one is small."""
    total = max(0, int(seconds))
    days, hours, minutes = total // 86400, total // 3600 % 24, total // 60 % 60
    if total < 120:
        return f"{total}s"
    if total < 600:
        return f"{total // 60}m" + (f"{total % 60}s" if total % 60 else "")
    if total < 3 * 3600:
        return f"{total // 60}m"
    if total < 8 * 3600:
        return f"{total // 3600}h" + (f"{minutes}m" if minutes else "")
    if total < 48 * 3600:
        return f"{total // 3600}h"
    return f"{days}d" + (f"{hours}h" if days < 8 and hours else "")
