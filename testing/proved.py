"""Tables that name the test which proves each of some things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def check_named(place: str, word: str) -> None:
    """Asserts that a test is there, and that it has a word, or what it takes from its module has it, in any case.

    place: FILE::TEST, the file from tests/ on.
    """
    file, _, test = place.partition("::")
    code = (TESTS / file).read_text(encoding="utf-8")
    parts = _parts(ast.parse(code))
    assert test in parts, f"{place} is not there"
    assert any(word.lower() in each.lower() for each in _used(test, parts, code)), f"{place} does not say {word}"


def _parts(module: ast.Module) -> dict[str, ast.stmt]:
    """What a module binds at its top, by name: functions, classes, values."""
    found: dict[str, ast.stmt] = {}
    for each in module.body:
        match each:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[each.name] = each
            case ast.Assign() | ast.AnnAssign():
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                found |= {
                    name.id: each for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
                }
    return found


def _used(name: str, parts: dict[str, ast.stmt], code: str) -> Iterator[str]:
    """The source of a part with its decorators, and of all parts that it uses, each once."""
    seen, todo = set[str](), [name]
    while todo:
        name = todo.pop()
        if name in seen or name not in parts:
            continue
        seen.add(name)
        part = parts[name]
        first = min([part.lineno, *(each.lineno for each in getattr(part, "decorator_list", ()))])
        yield "\n".join(code.splitlines()[first - 1 : part.end_lineno])
        todo += [each.id for each in ast.walk(part) if isinstance(each, ast.Name)]
