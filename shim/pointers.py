"""JSON Patch operations (RFC 6902) and the JSON Pointers (RFC 6901) in them.

`add` serves for "set" too: at an object's key it replaces what is there, and needs no earlier value.
"""

from __future__ import annotations

from typing import Any

Op = dict[str, Any]


def add(pointer: str, value: object) -> Op:
    return {"op": "add", "path": pointer, "value": value}


def remove(pointer: str) -> Op:
    return {"op": "remove", "path": pointer}


def escaped(key: str) -> str:
    """An object's key as one step of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")
