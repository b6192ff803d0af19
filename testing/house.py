"""What the product's code must be like, read from its source: `python -m testing.house` names what is not.

Pure functions from source to sentences; tests/test_house.py holds them against the tree.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("allocator", "shim", "agent", "hostport", "hostport_cli")
MOST_LINES, MOST_METHODS, MOST_CONSTRUCTOR = 350, 20, 25
DOCUMENTED = 4  # lines of a public function that says what it takes, gives and raises
UNTOLD = {"AssertionError", "NotImplementedError", "CancelledError"}
"""Mistakes of ours, and the end of a task."""
REASON = re.compile(r"Longer than 350 lines,? (because|since|as) ", re.IGNORECASE)
LONGEST_SLEEP = 0.2  # seconds, of a unit test

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """A file of the product, parsed."""

    path: str
    source: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def classes(self) -> Iterator[ast.ClassDef]:
        return (each for each in ast.walk(self.tree) if isinstance(each, ast.ClassDef))

    def functions(self) -> Iterator[Function]:
        return (each for each in ast.walk(self.tree) if isinstance(each, Function))

    def public_functions(self) -> Iterator[Function]:
        """Of the module, and of its public classes."""
        places: list[ast.AST] = [self.tree, *(each for each in self.classes() if is_public(each.name))]
        for place in places:
            for each in ast.iter_child_nodes(place):
                if isinstance(each, Function) and is_public(each.name):
                    yield each


def modules(root: Path = ROOT) -> list[Module]:
    """Every module of the product that people write."""
    paths = (path for program in PROGRAMS for path in sorted((root / program).rglob("*.py")))
    return [
        Module(str(path.relative_to(root)), source := path.read_text(encoding="utf-8"), ast.parse(source))
        for path in paths
        if "_pb2" not in path.name
    ]


def is_public(name: str) -> bool:
    return not name.startswith("_")


def lines_of(node: Function | ast.ClassDef) -> int:
    """From its name to its end, its docstring left out."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    inner = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - inner


def long_modules(tree: list[Module]) -> list[str]:
    """Modules that are too long and give no reason at their heads."""
    found = []
    for module in tree:
        lines = module.source.count("\n")
        if lines > MOST_LINES and not REASON.search(ast.get_docstring(module.tree) or ""):
            found.append(f"{module.path} has {lines} lines")
    return found


def wide_classes(tree: list[Module]) -> list[str]:
    """Classes with too many public methods and properties."""
    found = []
    for module in tree:
        for each in module.classes():
            public = [one.name for one in each.body if isinstance(one, Function) and is_public(one.name)]
            if len(public) > MOST_METHODS:
                found.append(f"{module.path}: {each.name} has {len(public)} public methods")
    return found


def long_constructors(tree: list[Module]) -> list[str]:
    """Constructors that do too much."""
    return [
        f"{module.path}: the constructor at line {each.lineno} has {lines_of(each)} lines"
        for module in tree
        for each in module.functions()
        if each.name == "__init__" and lines_of(each) > MOST_CONSTRUCTOR
    ]


def names_used_twice(tree: list[Module]) -> list[str]:
    """Names of public classes that stand in more than one place."""
    places = defaultdict[str, list[str]](list)
    for module in tree:
        for each in module.classes():
            if is_public(each.name):
                places[each.name].append(module.path)
    return [f"{name} is a class of {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]


def helpers_of_one_name(tree: list[Module]) -> list[str]:
    """Names of private functions of modules that stand in several. Whoever knows one takes the other for the same."""
    places = defaultdict[str, list[str]](list)
    for module in tree:
        for each in module.tree.body:
            if isinstance(each, Function) and not is_public(each.name) and not each.name.startswith("__"):
                places[each.name].append(f"{module.path}:{each.lineno}")
    return [f"{name} is a function of {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def undocumented(tree: list[Module]) -> list[str]:
    """Public functions of four lines or more that say nothing of themselves."""
    return [
        f"{module.path}:{each.lineno} {each.name}"
        for module in tree
        for each in module.public_functions()
        if lines_of(each) >= DOCUMENTED and ast.get_docstring(each) is None
    ]


def untold_errors(tree: list[Module]) -> list[str]:
    """Public functions of four lines or more that raise an error which their docstring does not name."""
    return [
        f"{module.path}:{each.lineno} {each.name} raises {name}"
        for module in tree
        for each in module.public_functions()
        if lines_of(each) >= DOCUMENTED
        if not any("command(" in ast.unparse(decorator) for decorator in each.decorator_list)  # its docstring is help
        for name in sorted(set(_raised(each.body)) - UNTOLD)
        if not re.search(rf"\b{name}\b", ast.get_docstring(each) or "")
    ]


def _raised(body: Iterable[ast.AST], caught: frozenset[str] = frozenset()) -> Iterator[str]:
    """The classes of which some statements raise an instance; less those that are caught around it."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef | ast.Lambda):
            continue  # raises when it is called
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(raised).rpartition(".")[2]
            if name[0].isupper() and name not in caught:
                yield name
        if isinstance(node, ast.Try):
            handled = {
                name for each in node.handlers if each.type for name in re.findall(r"\w+", ast.unparse(each.type))
            }
            yield from _raised(node.body, caught | handled)
            yield from _raised([*node.handlers, *node.orelse, *node.finalbody], caught)
        else:
            yield from _raised(ast.iter_child_nodes(node), caught)


def import_circles(tree: list[Module]) -> list[str]:
    """Packages that import each other, by way of others too. A package is a folder; type checkers' imports count."""
    edges = defaultdict[str, set[str]](set)
    names = {module.name for module in tree}
    for module in tree:
        for imported in _imports(module, names):
            one, other = _package(module.name, names), _package(imported, names)
            # A folder may use what lies in it; what lies in it uses what stands beside it.
            if one != other and not other.startswith(f"{one}."):
                edges[one].add(other)
            edges[one.partition(".")[0]].add(other.partition(".")[0])  # whole programs, too
    for one, others in edges.items():
        others.discard(one)
    return sorted({" → ".join(circle) for start in list(edges) for circle in _circles(start, edges)})


def _imports(module: Module, names: set[str]) -> Iterator[str]:
    for each in ast.walk(module.tree):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names if alias.name in names)
        elif isinstance(each, ast.ImportFrom) and each.module:
            for alias in each.names:
                full = f"{each.module}.{alias.name}"
                if full in names or each.module in names:
                    yield full if full in names else each.module


def _package(name: str, names: set[str]) -> str:
    """The folder of a module."""
    is_folder = any(each.startswith(f"{name}.") for each in names)
    return name if is_folder else name.rpartition(".")[0]


def _circles(start: str, edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """The shortest way from a package back to itself, from its smallest name."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop(0)
        for each in sorted(edges.get(way[-1], ())):
            if each == start:
                if start == min(way):
                    yield [*way, start]
                return
            if each not in seen:
                seen.add(each)
                ways.append([*way, each])


def long_sleeps(root: Path = ROOT) -> list[str]:
    """Sleeps of unit tests that wait for a time instead of a thing."""
    slow = ("e2e", "e2e_cluster", "helm", "browser", "images", "packages", "cert_manager", "crash", "testdata")
    found = []
    for path in sorted((root / "tests").rglob("*.py")):
        inner = path.relative_to(root / "tests")
        if inner.parts[0] in slow:
            continue
        source = path.read_text(encoding="utf-8")
        if "sleep" not in source:
            continue
        for each in ast.walk(ast.parse(source)):
            if isinstance(each, ast.Call) and ast.unparse(each.func) in {"asyncio.sleep", "time.sleep", "sleep"}:
                seconds = each.args[0].value if isinstance(each.args[0], ast.Constant) else 0
                if isinstance(seconds, int | float) and seconds > LONGEST_SLEEP:
                    found.append(f"tests/{inner}:{each.lineno} sleeps {seconds} s")
    return found


RULES: dict[str, Callable[[list[Module]], list[str]]] = {
    "modules over 350 lines without a reason at the head": long_modules,
    "classes over 20 public methods": wide_classes,
    "constructors over 25 lines": long_constructors,
    "public class names twice": names_used_twice,
    "names of private functions twice": helpers_of_one_name,
    "import circles between packages": import_circles,
    "public functions of four lines or more without a docstring": undocumented,
    "public functions of four lines or more that raise what they do not tell": untold_errors,
    "fixed sleeps over 0.2 s in unit tests": lambda _: long_sleeps(),
}
"""What must hold, and how to find the places where it does not."""


def findings() -> dict[str, list[str]]:
    """Everything that is not as it should be, by rule."""
    tree = modules()
    return {rule: places(tree) for rule, places in RULES.items()}


def main() -> int:
    """Prints all of it."""
    found = findings()
    for rule, places in found.items():
        print(f"{len(places):4}  {rule}", *(f"        {place}" for place in places), sep="\n")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
