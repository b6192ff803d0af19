"""JSON Patch operations (RFC 6902) and the JSON Pointers (RFC 6901) in them.

`add` serves for "set" too: at an object's key it replaces what is there, and needs no earlier value.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

Op = dict[str, Any]


def add(pointer: str, value: object) -> Op:
    return {"op": "add", "path": pointer, "value": value}


def remove(pointer: str) -> Op:
    return {"op": "remove", "path": pointer}


def escaped(key: str) -> str:
    """An object's key as one step of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def applied(document: Any, ops: Iterable[Op]) -> Any:
    """A document after the operations of this module, as the API server would apply them; a new one."""
    result = deepcopy(document)
    for op in ops:
        *parents, last = [_unescaped(step) for step in op["path"].split("/")[1:]]
        parent = result
        for step in parents:
            parent = parent[int(step) if isinstance(parent, list) else step]
        _apply(parent, last, op)
    return result


def _apply(parent: Any, last: str, op: Op) -> None:
    if op["op"] == "remove":
        del parent[int(last) if isinstance(parent, list) else last]
    elif isinstance(parent, list):
        parent.insert(int(last), deepcopy(op["value"]))
    else:
        parent[last] = deepcopy(op["value"])


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
