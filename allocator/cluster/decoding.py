"""Lists and watch events of the API server in JSON → sketches of their objects. Pure.

One bad object spoils neither its page nor the watch: it comes out with its identity and a `trouble`, so that its owner
is known to exist, and what was known of it before stays in force.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from allocator.cluster.projection import JSON, JsonFields, S, Sketch

J = TypeVar("J", bound=Sketch)


class ListMetadata(JsonFields):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None  # an estimate; only with `continue`


class ListPage(msgspec.Struct, Generic[S], gc=False):
    """A part of a list."""

    metadata: ListMetadata
    items: list[S] | None = None


class WatchEvent(msgspec.Struct, Generic[S], gc=False):
    """What a watch tells: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, whose object is a Status in a `Sketch`."""

    type: str
    object: S

    @property
    def version(self) -> str:
        return self.object.version


class _RawPage(msgspec.Struct):
    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class JsonDecoder(Generic[J]):
    """Reads lists and events of one kind of object. `accept`: what is asked for, as HTTP writes it."""

    accept = JSON

    def __init__(self, sketch: type[J]) -> None:
        self._sketch = sketch
        self._one = msgspec.json.Decoder(sketch)
        self._page = msgspec.json.Decoder(ListPage[sketch])  # type: ignore[valid-type]
        self._event = msgspec.json.Decoder(WatchEvent[sketch])  # type: ignore[valid-type]

    def page(self, body: bytes) -> ListPage[J]:
        """A page of a list; what cannot be read in it has a `trouble`.

        Raises:
            ValueError: it is no list.

        """
        try:
            return self._page.decode(body)
        except msgspec.ValidationError:
            raw = _decode_json(body, _RawPage)
            return ListPage(raw.metadata, [self._object(item) for item in raw.items or ()])
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def event(self, line: bytes) -> WatchEvent[J]:
        """A line of a watch, likewise.

        Raises:
            ValueError: it is no event.

        """
        try:
            return self._event.decode(line)
        except msgspec.ValidationError:
            raw = _decode_json(line, _RawEvent)
            return WatchEvent(raw.type, self._object(raw.object))
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def one(self, body: bytes) -> J:
        """One object, likewise.

        Raises:
            ValueError: it is none.

        """
        try:
            return self._object(msgspec.Raw(body))
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def _object(self, raw: msgspec.Raw) -> J:
        try:
            return self._one.decode(raw)
        except msgspec.ValidationError as error:
            broken = self._sketch(trouble=str(error))
        anything = msgspec.json.decode(raw)
        metadata = anything.get("metadata") if isinstance(anything, dict) else None
        if isinstance(metadata, dict):
            for field, name in (("name", "name"), ("uid", "uid"), ("resourceVersion", "resource_version")):
                if isinstance(metadata.get(field), str):
                    setattr(broken.metadata, name, metadata[field])
        return broken


T = TypeVar("T")


def _decode_json(text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def head_of_page(begin: bytes) -> ListMetadata | None:
    """The metadata of a list by its first bytes, as the API server writes it before the items. None: not among them."""
    head, items, _ = begin.partition(b',"items":[')
    try:
        return _decode_json(head + b"}", _RawPage).metadata if items else None
    except ValueError:
        return None
