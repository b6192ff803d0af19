"""Objects of the API as its server writes them in protobuf. What our messages do not know is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.messages import MAGIC, SIZE_BYTES, ProtobufFrame
from hostport.timestamps import seconds_of

Object = dict[str, Any]
SINCE = "lastTransitionTime"


def envelope(kind: str, raw: bytes) -> bytes:
    """A body. The server writes the version of the kind as well, which we do not read."""
    return MAGIC + pb.Unknown(typeMeta=pb.TypeMeta(kind=kind), raw=raw).SerializeToString()


def binary(kind: str, obj: Object) -> bytes:
    """An object, in its envelope.

    Raises:
        google.protobuf.json_format.ParseError: protobuf has no such object.

    """
    return envelope(kind, _message(kind, obj).SerializeToString())


def binary_page(kind: str, metadata: Object, items: Iterable[Object]) -> bytes:
    """A page of a list."""
    whole = getattr(pb, f"{kind}List")(metadata=ParseDict(metadata, pb.ListMeta()))
    for item in items:
        whole.items.append(_message(kind, item))
    return envelope(f"{kind}List", whole.SerializeToString())


def frame(kind: str, event: bytes) -> ProtobufFrame:
    """A line of a watch as a frame; one that is no event, as it is."""
    try:
        told = json.loads(event)
        told["type"], told["object"]
    except (ValueError, KeyError):
        return ProtobufFrame(event)
    body = binary("Status" if told["type"] == "ERROR" else kind, told["object"])
    return ProtobufFrame(pb.WatchEvent(type=told["type"], object=pb.RawExtension(raw=body)).SerializeToString())


def sized(part: bytes) -> bytes:
    """As it goes over the wire."""
    return len(part).to_bytes(SIZE_BYTES, "big") + part


def _message(kind: str, obj: Object) -> Any:
    return ParseDict(_as_messages(obj), getattr(pb, kind)(), ignore_unknown_fields=True)


def _as_messages(obj: Object) -> Object:
    """A time is text in JSON and a number of seconds in protobuf; a Service's target is a message."""
    if isinstance(obj.get("items"), list):
        return {**obj, "items": [_as_messages(item) for item in obj["items"]]}
    return _with_targets(_with_seconds(obj))


def _with_targets(obj: Object) -> Object:
    spec = obj.get("spec")
    if obj.get("kind", "Service") != "Service" or not isinstance(spec, dict) or not spec.get("ports"):
        return obj
    ports = [port | {"targetPort": _int_or_string(port.get("targetPort", 0))} for port in spec["ports"]]
    return {**obj, "spec": {**spec, "ports": ports}}


def _int_or_string(value: int | str) -> Object:
    return {"type": 1, "strVal": value} if isinstance(value, str) else {"type": 0, "intVal": value}


def _with_seconds(obj: Object) -> Object:
    found, metadata, status = dict(obj), obj.get("metadata"), obj.get("status")
    if isinstance(metadata, dict) and metadata.get("deletionTimestamp"):
        found["metadata"] = _with_time(metadata, "deletionTimestamp")
    if isinstance(status, dict) and isinstance(status.get("conditions"), list):
        found["status"] = {**status, "conditions": [_with_time(each, SINCE) for each in status["conditions"]]}
    return found


def _with_time(obj: Object, name: str) -> Object:
    """The seconds of a time; one that cannot be read is none."""
    seconds = seconds_of(obj.get(name))
    rest = {key: value for key, value in obj.items() if key != name}
    return rest if seconds is None else {**rest, name: {"seconds": int(seconds)}}


# -- our numbers against a server's


def by_name(kind: str, obj: Object) -> Any:
    """The message of an object in JSON."""
    return _message(kind, obj)


def by_number(kind: str, body: bytes) -> Any:
    """The message of the same object in protobuf: it has the same fields if our numbers are the server's."""
    envelope = pb.Unknown.FromString(body.removeprefix(MAGIC))
    assert envelope.typeMeta.kind == kind
    return getattr(pb, kind).FromString(envelope.raw)


def filled(message: Any) -> Any:
    """The fields of ours that are set, but for those that are empty or zero, which JSON leaves out."""
    return _without_nothing(MessageToDict(message, preserving_proto_field_name=True))


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: each for name, raw in value.items() if (each := _without_nothing(raw))}
    return [_without_nothing(each) for each in value] if isinstance(value, list) else value


def known_fields(message: Descriptor) -> Iterator[str]:
    """`Message.field` of all that may be in it."""
    for field in message.fields:
        yield f"{message.name}.{field.name}"
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from known_fields(field.message_type)


def fields_in(message: Any) -> Iterator[str]:
    """Likewise of all that is in it."""
    for field, value in message.ListFields():
        if value:
            yield f"{message.DESCRIPTOR.name}.{field.name}"
        for each in [value] if isinstance(value, Message) else value if isinstance(value, Sequence) else ():
            if isinstance(each, Message):
                yield from fields_in(each)
