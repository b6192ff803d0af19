"""The house: how large things may be, that names stand once, that packages form no circle, and that the maps are true."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from testing import house
from testing.house import Module


def tree(**sources: str) -> list[Module]:
    """Modules by their dotted names, written with `__` for the dot."""
    return [
        Module(name.replace("__", "/") + ".py", text := textwrap.dedent(source), ast.parse(text))
        for name, source in sources.items()
    ]


LONG = "x = 1\n" * 351
WIDE = "class Wide:\n" + "".join(f"    def method_{n}(self): ...\n" for n in range(21))
BUSY = "class Busy:\n    def __init__(self):\n" + "        self.x = 1\n" * 25

CASES: dict[str, tuple[Callable[[list[Module]], list[str]], list[Module], list[str]]] = {
    "a long module": (house.long_modules, tree(shim__a=LONG), ["shim/a.py has 351 lines"]),
    "a long module that says why": (
        house.long_modules,
        tree(shim__a='"""A table.\n\nLonger than 350 lines because it is one table.\n"""\n' + LONG),
        [],
    ),
    "a wide class": (house.wide_classes, tree(shim__a=WIDE), ["shim/a.py: Wide has 21 public methods"]),
    "a long constructor": (
        house.long_constructors,
        tree(shim__a=BUSY),
        ["shim/a.py: the constructor at line 2 has 26 lines"],
    ),
    "a name that stands twice": (
        house.names_used_twice,
        tree(shim__a="class Pod: ...", allocator__b="class Pod: ..."),
        ["Pod is a class of shim/a.py, allocator/b.py"],
    ),
    "a private name that stands twice": (
        house.names_used_twice,
        tree(shim__a="class _Pod: ...", allocator__b="class _Pod: ..."),
        [],
    ),
    "a private function whose name stands twice": (
        house.helpers_of_one_name,
        tree(shim__a="def _end(): ...", allocator__b="async def _end(): ...", hostport__c="class _End: ..."),
        ["_end is a function of shim/a.py:1, allocator/b.py:1"],
    ),
    "a private method whose name stands twice": (
        house.helpers_of_one_name,
        tree(shim__a="class A:\n    def _end(self): ...", allocator__b="def _end(): ..."),
        [],
    ),
    "a function that says nothing": (
        house.undocumented,
        tree(shim__a="def f():\n    x = 1\n    y = 2\n    return x + y\n"),
        ["shim/a.py:1 f"],
    ),
    "a short function that says nothing": (house.undocumented, tree(shim__a="def f():\n    return 1\n"), []),
    "a function that raises what it does not tell": (
        house.untold_errors,
        tree(shim__a='def f(x):\n    """Gives x."""\n    if x:\n        raise errors.FieldError(x)\n    return x\n'),
        ["shim/a.py:1 f raises FieldError"],
    ),
    "a function that tells what it raises": (
        house.untold_errors,
        tree(shim__a='def f(x):\n    """Raises FieldError."""\n    if x:\n        raise FieldError(x)\n    return x\n'),
        [],
    ),
    "a function that catches what it raises": (
        house.untold_errors,
        tree(
            shim__a="def f(x):\n    try:\n        raise KeyError(x)\n    except (KeyError, TypeError):\n        return x\n"
        ),
        [],
    ),
    "a function whose inner one raises": (
        house.untold_errors,
        tree(shim__a="def f(x):\n    def g():\n        raise KeyError(x)\n\n    return g\n"),
        [],
    ),
    "a circle of two programs": (
        house.import_circles,
        tree(hostport__cli__a="import shim.b", shim__b="import hostport.c", hostport__c=""),
        ["hostport → shim → hostport"],
    ),
    "a circle of two folders": (
        house.import_circles,
        tree(shim__one__a="import shim.two.b", shim__two__b="import shim.one.c", shim__one__c=""),
        ["shim.one → shim.two → shim.one"],
    ),
    "a folder that uses what lies in it": (
        house.import_circles,
        tree(shim__a="import shim.one.b", shim__one__b="import shim.c", shim__c=""),
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_house_sees(case: str) -> None:
    rule, modules, expected = CASES[case]

    assert rule(modules) == expected


def test_a_unit_test_that_sleeps_is_seen_and_one_on_a_cluster_is_not(tmp_path: Path) -> None:
    for name in ("core", "e2e"):
        (tmp_path / "tests" / name).mkdir(parents=True)
        (tmp_path / "tests" / name / "test_a.py").write_text("import time\ntime.sleep(0.1)\ntime.sleep(0.3)\n")

    assert house.long_sleeps(tmp_path) == ["tests/core/test_a.py:3 sleeps 0.3 s"]


@pytest.fixture(scope="module")
def product() -> list[Module]:
    """Read once, and by the one worker that needs it."""
    return house.modules()


@pytest.mark.parametrize("rule", house.RULES)
def test_the_product_holds_the_rule(rule: str, product: list[Module]) -> None:
    assert house.RULES[rule](product) == []
