"""docs/portlease.md: every field of the schema has a row that says something, and the example is as the schema wants it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import crd_page
import yaml

DEFINITION = yaml.safe_load(crd_page.SOURCE.read_text(encoding="utf-8"))
SCHEMA = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
PAGE = crd_page.page(DEFINITION)


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        inner = field.get("items", field)
        where = f"{path}.{name}" + "[]" * ("items" in field)
        yield where
        yield from fields(inner, where)


def test_every_field_has_a_row_that_says_what_it_is() -> None:
    wanted = {each for part in ("spec", "status") for each in fields(SCHEMA["properties"][part], part)}
    rows = dict(re.findall(r"^\| `((?:spec|status)\.[^`]+)` \| [^|]+ \| (.*) \|$", PAGE, re.MULTILINE))

    assert rows.keys() == wanted
    assert [field for field, says in rows.items() if len(says) < 10] == []


def test_the_example_is_as_the_schema_wants_it() -> None:
    example = yaml.safe_load(crd_page.EXAMPLE)

    assert list(mistakes(example, SCHEMA, "")) == []
    assert list(mistakes({**example, "spec": {"owner": {"kind": ""}}}, SCHEMA, "")) == [
        ".spec.allocationID is missing",
        ".spec.owner.kind is too short",
    ]


def mistakes(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """What a value has that the schema does not let in."""
    kind = {"object": dict, "array": list, "string": str, "integer": int}[schema["type"]]
    if not isinstance(value, kind):
        yield f"{path} is no {schema['type']}"
        return
    if isinstance(value, dict) and schema.get("properties"):
        yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, each in value.items():
            if name not in schema["properties"]:
                yield f"{path}.{name} is unknown"
            else:
                yield from mistakes(each, schema["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from mistakes(each, schema["items"], f"{path}[]")
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield f"{path} is too short"
        if not re.search(schema.get("pattern", ""), value) or value not in schema.get("enum", [value]):
            yield f"{path} is {value!r}"
