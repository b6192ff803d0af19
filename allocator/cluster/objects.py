"""Kubernetes objects as JSON: Nodes, Services and Namespaces → the values of the core, and Pods as messages. Pure.

What a Pod means to us is said in `messages`, for both encodings: `as_message` lends a JSON object the fields that
protobuf has.

The objects were validated by an API server, or were written by hand into a file; what is malformed raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from allocator.cluster import kubernetes_pb2 as pb
from allocator.core.addresses import address_of
from allocator.core.candidates import Node, NodeName, Taint
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from hostport.contract.annotations import EXTERNAL_ADDRESS, Annotation
from hostport.contract.limits import HIGHEST_PORT
from hostport.timestamps import seconds_of

ALLOCATION_ID = Annotation.ALLOCATION_ID.text
ALLOCATIONS = Annotation.ALLOCATIONS.text
WARNINGS = Annotation.WARNINGS.text
MOST_ADDRESSES = 64
"""Of a Node; a machine has a handful."""
ENFORCE = "pod-security.kubernetes.io/enforce"
FORBIDS_HOST_NETWORK = frozenset({"baseline", "restricted"})
COMPARED = frozenset({"message", "phase", "preemptionPolicy", "reason", "restartPolicy", "status", "type"})
"""Fields of a Pod with words that are only compared: what is no text is no word that we know."""

Json = Mapping[str, Any]
Reader = Callable[[Any, str], Any]
M = TypeVar("M", bound=Message)


def flatten(documents: Iterable[Any]) -> Iterator[Json]:
    """The objects of some documents: each a list, a `List`, or one object. Raises ValueError where one is neither."""
    for document in documents:
        if isinstance(document, list):
            yield from flatten(document)
        elif not isinstance(document, Mapping):
            if document is not None:
                raise ValueError(f"expected an object with a kind, not {str(document)[:80]!r}")
        elif isinstance(document.get("items"), list):
            yield from flatten(document["items"])
        else:
            yield document


def parse_node(obj: Json) -> Node:
    """The Node of a JSON object.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is malformed.

    """
    spec, metadata = _mapping(obj, "spec"), _mapping(obj, "metadata")
    labels = _texts(metadata, "labels")
    return Node(
        name=NodeName(_name(obj)),
        uid=_text(metadata.get("uid"), "uid"),
        labels=labels,
        taints=tuple(
            Taint(
                key=_text(taint["key"], "key"),
                value=_text(taint.get("value"), "value"),
                effect=_text(taint.get("effect"), "effect") or "NoSchedule",
            )
            for taint in _list(spec, "taints")
        ),
        unschedulable=bool(spec.get("unschedulable")),
        address=address_of(labels, _addresses(_mapping(obj, "status"))),
    )


def _addresses(status: Json) -> Iterator[tuple[str, str]]:
    """The addresses that a Node names, each with its type."""
    for one in _list(status, "addresses")[:MOST_ADDRESSES]:
        yield _text(one.get("type"), "type"), _text(one.get("address"), "address")


def as_message(obj: Json, kind: type[M]) -> M:
    """A JSON object that is read as a message of `kubernetes.proto`: the rules for that are the rules for JSON, too.

    What is missing or null is empty, as in protobuf. What is malformed raises ValueError, TypeError or AttributeError
    when it is read.
    """
    return cast("M", _class_of(cast("Descriptor", kind.DESCRIPTOR))(obj))


class JsonMessage:
    """See `as_message`. Each kind of message has a class of its own, with a property for each field."""

    __slots__ = ("obj",)

    def __init__(self, obj: Json) -> None:
        self.obj = obj

    def HasField(self, name: str) -> bool:  # noqa: N802 - as messages have it
        """Whether it is there. Null is no object, but an empty text."""
        return name in self.obj and (self.obj[name] is not None or getattr(self, name) == "")


@cache
def _class_of(kind: Descriptor) -> type[JsonMessage]:
    fields = {field.name: _property(field.name, _reader(field)) for field in kind.fields}
    return type(f"Json{kind.name}", (JsonMessage,), {"__slots__": (), **fields})


def _property(name: str, read: Reader) -> property:
    return property(lambda message: read(message.obj.get(name), name))


def _reader(field: FieldDescriptor) -> Reader:
    kind = field.message_type
    if field.name == "annotations":
        return _our_annotations
    if kind is pb.Time.DESCRIPTOR:
        return _time
    if kind is None and field.is_repeated:
        return lambda value, name: [_text(each, name) for each in _listed(value, name)]
    if kind is None:
        return _word if field.name in COMPARED else _SCALARS[field.cpp_type]
    if kind.GetOptions().map_entry:
        return _named_texts
    part = _class_of(kind)
    if field.is_repeated:
        return lambda value, name: list(map(part, _listed(value, name)))
    return lambda value, name: part(_mapped(value, name))


def _our_annotations(value: Any, name: str) -> dict[str, str]:
    """The annotations that are read. YAML takes an id of digits for a number."""
    found = _mapped(value, name)
    return {each: _text(str(found[each]), each) for each in (ALLOCATION_ID, WARNINGS) if found.get(each) is not None}


def _word(value: Any, _: str) -> str:
    return value if isinstance(value, str) else ""


def _time(value: Any, _: str) -> SimpleNamespace:
    """As seconds since the epoch; none, as in protobuf, where it is no time."""
    return SimpleNamespace(seconds=seconds_of(value) or 0)


def parse_service_ports(obj: Json) -> ObservedService:
    """The numbers that a Service holds on every node.

    Raises:
        ValueError, TypeError: it is malformed.

    """
    metadata, spec = _mapping(obj, "metadata"), _mapping(obj, "spec")
    return ObservedService(
        namespace=_text(metadata.get("namespace"), "metadata.namespace") or "default",
        name=_name(obj),
        uid=_text(metadata.get("uid"), "metadata.uid"),
        ports=tuple(_node_ports(spec)),
    )


def _node_ports(spec: Json) -> Iterator[NodePort]:
    """Of each port its nodePort; and the healthCheckNodePort, on which kube-proxy listens by TCP."""
    for port in _list(spec, "ports"):
        if number := _node_port(port, "nodePort"):
            yield NodePort(protocol=Protocol(port.get("protocol") or "TCP"), number=number)
    if number := _node_port(spec, "healthCheckNodePort"):
        yield NodePort(protocol=Protocol.TCP, number=number, is_health_check=True)


def _node_port(obj: Json, key: str) -> int:
    """The number; 0 where there is none."""
    number = _integer(obj.get(key), key)
    if not 0 <= number <= HIGHEST_PORT:
        raise ValueError(f"{key} {number} is no port")
    return number


def addressed_namespace(obj: Json) -> str:
    """The name of a Namespace whose Pods are told the address of their node; empty of any other."""
    is_told = _mapping(_mapping(obj, "metadata"), "labels").get(EXTERNAL_ADDRESS) == "true"
    return _name(obj) if is_told else ""


def enforced_level(obj: Json) -> tuple[str, str] | None:
    """(namespace, level) of a Namespace that forbids hostNetwork."""
    level = _mapping(_mapping(obj, "metadata"), "labels").get(ENFORCE)
    return (_name(obj), level) if level in FORBIDS_HOST_NETWORK else None


def _name(obj: Json) -> str:
    name = _mapping(obj, "metadata").get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a {obj.get('kind')} has no metadata.name")
    return _text(name, "metadata.name")


def _mapping(obj: Json, key: str) -> Json:
    return _mapped(obj.get(key), key)


def _mapped(value: Any, key: str) -> Json:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{key} is no mapping")  # noqa: TRY004 - one kind of error for what is malformed
    return value or {}


def _texts(obj: Json, key: str) -> dict[str, str]:
    return _named_texts(obj.get(key), key)


def _named_texts(value: Any, key: str) -> dict[str, str]:
    return {_text(name, key): _text(text, key) for name, text in _mapped(value, key).items()}


def _text(value: object, key: str) -> str:
    """Text; null is empty, as for the API server. YAML reads a bare 1 or true as something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} has {value!r}, which is no text: write it in quotes")  # noqa: TRY004 - one kind of error for what is malformed
    value.encode()  # raises where it has half of a surrogate pair, which nobody could be told
    return value


def _integer(value: object, key: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} has {value!r}, which is no whole number")  # noqa: TRY004 - as above
    return value


def _list(obj: Json, key: str) -> list[Any]:
    return _listed(obj.get(key), key)


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value or [], list):
        raise ValueError(f"{key} is no list")  # noqa: TRY004 - as above
    return value or []


_SCALARS: Mapping[int, Reader] = {
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_INT32: _integer,
    FieldDescriptor.CPPTYPE_BOOL: lambda value, _: bool(value),
}
