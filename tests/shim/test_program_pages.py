"""The programs of docs/programs.md: each page's lines are rendered, and the program then listens where it is dialled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from shimkit import Json
from test_reading import rendered

PAGE = (Path(__file__).parents[2] / "docs" / "programs.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, str] = dict(
    re.findall(r"^### (.+)\n(?:(?!^### ).*\n)*?```yaml\n((?:.*\n)+?)```", PAGE, re.MULTILINE)
)
WRONG = {"OLD_NUMBER", "PORT_MOVED", "MAPPED_PORT", "UNDECLARED_PORT", "UNUSED_SETTING", "UNKNOWN_ANNOTATION"}
"""Words of a program that may not listen where it is dialled, or of lines that do nothing."""


def numbers_said(container: Json) -> set[int]:
    """The numbers in args and variables of its own, as the program reads them."""
    values = {each["name"]: each.get("value", "") for each in container["env"]}
    own = [value for name, value in values.items() if not name.startswith("HOSTPORT_")]
    texts = [
        re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], ""), text)
        for text in (*container.get("args", []), *own)
    ]
    return {int(number) for text in texts for number in re.findall(r"(?<![\w.])[0-9]{2,5}(?![\w.])", text)}


def test_the_page_has_the_programs_that_people_ask_for() -> None:
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_page_listens_where_it_is_dialled(tmp_path: Path, name: str) -> None:
    result = rendered(tmp_path, PROGRAMS[name])

    assert result.return_value == 0, result.stderr
    pod: dict[str, Any] = yaml.safe_load(result.stdout)
    assert WRONG.isdisjoint(pod["metadata"]["annotations"].get("hostport.io/warnings", "").split(","))
    (container,) = pod["spec"]["containers"]
    before = yaml.safe_load(PROGRAMS[name])["spec"]["containers"][0]["ports"]
    moved = [
        after["containerPort"]
        for was, after in zip(before, container["ports"], strict=True)
        if was["containerPort"] != after["containerPort"]
    ]
    derived = {"Valheim": {1}, "Redis Cluster": {10_000}}.get(name, set())  # of a program that adds it by itself
    said = numbers_said(container)
    assert set(moved) <= said | {number + more for number in said for more in derived}
