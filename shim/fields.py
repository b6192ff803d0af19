"""Reading JSON that somebody else wrote: typed access that names the field when it is not what it should be.

Rules:

* `null` is the same as absent, as it is for the API server, save for the elements of a list.
* A wrong type is never coerced: `true` is no integer, `"80"` is no integer, 80.0 is no integer.
* Text is valid Unicode: the parser refuses half a surrogate pair, which no wire format can carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shim.outcomes import quoted

Json = Mapping[str, Any]

_TEXT_ALONE = {str}


class FieldError(ValueError):
    """The sender's fault: a field has a type that its schema does not allow."""

    def __init__(self, path: str, expected: str, value: object) -> None:
        super().__init__(f"{path} must be {expected}, not {_kind(value)}")


def json_object(parent: Json, key: str, path: str) -> Json:
    """The object at a key; empty when absent."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(join(path, key), "an object", value)
    return value


def json_objects(parent: Json, key: str, path: str) -> Iterator[tuple[int, str, Json]]:
    """The elements of a list of objects, each with its position and its path; none when absent."""
    found = json_list(parent, key, path)
    if not found:
        return
    where = join(path, key)
    for at, value in enumerate(found):
        element = f"{where}[{at}]"
        yield at, element, as_object(value, element)


def json_list(parent: Json, key: str, path: str) -> Sequence[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FieldError(join(path, key), "a list", value)
    return value


def text(parent: Json, key: str, path: str) -> str:
    """The text at a key; empty when absent."""
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldError(join(path, key), "a string", value)
    return value


def integer(parent: Json, key: str, path: str) -> int:
    """The integer at a key, of any size; 0 when absent."""
    value = parent.get(key)
    if value is None:
        return 0
    if not is_integer(value):
        raise FieldError(join(path, key), "an integer", value)
    return int(value)


def boolean(parent: Json, key: str, path: str) -> bool | None:
    value = parent.get(key)
    if value is not None and not isinstance(value, bool):
        raise FieldError(join(path, key), "true or false", value)
    return value


def text_map(parent: Json, key: str, path: str) -> dict[str, str]:
    """A map of text to text; a null value is empty text, as it is for the API server."""
    found = json_object(parent, key, path)
    if {*map(type, found.values())} <= _TEXT_ALONE:
        return dict(found)
    where = join(path, key)
    return {name: "" if value is None else as_text(value, f"{where}[{quoted(name)}]") for name, value in found.items()}


def texts(parent: Json, key: str, path: str) -> tuple[str, ...]:
    """The elements of a list of text; none when absent."""
    found = json_list(parent, key, path)
    if {*map(type, found)} <= _TEXT_ALONE:
        return tuple(found)
    return tuple([as_text(value, f"{join(path, key)}[{at}]") for at, value in enumerate(found)])


def as_object(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise FieldError(path, "an object", value)
    return value


def as_text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise FieldError(path, "a string", value)
    return value


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "the string", type(None): "null"}
    name = names.get(type(value), "")
    return name if isinstance(value, dict | list) or value is None else f"{name} {quoted(value)}".strip()
