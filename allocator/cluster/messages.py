"""Protobuf of the API server → what `decoding` makes of JSON. Pure.

Why: the API server encodes an object once for all who watch it in one encoding, and its own components watch in
protobuf. Who asks for JSON makes it encode everything a second time, and into more bytes.

Rules:

* Lists, watches and reads of Kubernetes' own kinds ask for protobuf first and JSON second. The server chooses, answer
  by answer; a body says itself what it is (`MAGIC`), and so does an event (`Frame`). Custom resources and files are
  JSON.
* A body is the magic and an envelope with the kind, around the object. An event is a frame without an envelope, around
  an object that has one. What has another kind than was asked for is no answer.
* `kubernetes.proto` has upstream's numbers for the fields that we read; the decoder passes over the others.
* Text that is no UTF-8, which who writes protobuf may store, is read as the API server writes it into JSON: with the
  sign for what cannot be read. It spoils neither its object nor its list.
* Of a Pod that holds nothing no more is made than what shows that. What only others need is read when it is asked for.
  A repeated field is copied (`[:]`) before it is gone through, which takes half of the time.

Longer than 350 lines because every kind of object is read here, as `projection` says what is read of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from allocator.cluster import decoding
from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.decoding import JsonDecoder, ListMetadata, ListPage, WatchEvent
from allocator.cluster.objects import ALLOCATION_ID, ALLOCATIONS, ENFORCE, WARNINGS, Json
from allocator.cluster.projection import (
    FINISHED,
    JSON,
    Labels,
    Metadata,
    NamespaceMetadata,
    NamespaceSketch,
    NodeMetadata,
    NodeSketch,
    NodeSpec,
    NodeStatus,
    S,
    ServicePort,
    ServiceSketch,
    ServiceSpec,
    Sketch,
)
from hostport.contract.annotations import EXTERNAL_ADDRESS
from hostport.timestamps import rfc3339

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
READY: Final = "Ready"
MAGIC: Final = b"k8s\0"
SIZE_BYTES: Final = 4  # before each frame of a watch: its length, the highest byte first

LONGEST_VARINT: Final = 10  # bytes

M = TypeVar("M", bound=Message)


class ProtobufFrame(bytes):
    """An event in protobuf, without its length. An event in JSON is mere bytes."""

    __slots__ = ()


class PodMessage:
    """A `projection.SeenPod`. Its ports are counted when that is asked for: a page of Pods may have many."""

    __slots__ = ("_has_host_ports", "_pod", "_weight")
    trouble = ""

    def __init__(self, pod: pb.Pod) -> None:
        self._pod = pod
        self._weight = 0  # not counted yet
        self._has_host_ports = False

    @property
    def identity(self) -> str:
        uid = self._pod.metadata.uid
        return uid if type(uid) is str else _text(uid)  # a call less for each Pod of the cluster

    @property
    def weight(self) -> int:
        return self._weight or self._count()

    def _count(self) -> int:
        spec, ports, has_host_ports = self._pod.spec, 0, False
        for containers in (spec.containers, spec.initContainers):
            for container in containers[:]:
                found = container.ports[:]
                ports += len(found)
                for port in found:
                    if port.hostPort:
                        has_host_ports = True
                        break
        self._has_host_ports = has_host_ports or (ports > 0 and spec.hostNetwork)
        self._weight = 1 + ports
        return self._weight

    @property
    def version(self) -> str:
        version = self._pod.metadata.resourceVersion
        return version if type(version) is str else _text(version)

    @property
    def title(self) -> str:
        return f"{_text(self._pod.metadata.namespace)}/{_text(self._pod.metadata.name)}"

    def holds_something(self) -> bool:
        """Whether it carries our id, or has host ports and is not finished."""
        if (self._weight or self._count()) > 1 and self._has_host_ports and self._pod.status.phase not in FINISHED:
            return True
        return bool(self._pod.metadata.annotations.get(ALLOCATION_ID))

    def plain(self) -> Json:
        """What `objects.parse_pod` reads of the Pod, as JSON has it."""
        spec, status = self._pod.spec, self._pod.status
        plain_spec: dict[str, Any] = {
            "nodeName": _text(spec.nodeName),
            "hostNetwork": spec.hostNetwork,
            "containers": [_container(each) for each in spec.containers[:]],
            "initContainers": [_container(each) for each in spec.initContainers[:]],
            "priority": spec.priority,
            "preemptionPolicy": _text(spec.preemptionPolicy),
        }
        plain_status: dict[str, Any] = {"phase": _text(status.phase), "reason": _text(status.reason)}
        if spec.nodeName:  # it was scheduled
            if spec.hostNetwork and self._pod.metadata.annotations.get(ALLOCATION_ID):  # it is expected to listen
                plain_status["conditions"] = [_condition(each) for each in status.conditions[:] if each.type == READY]
        else:
            plain_spec["nodeSelector"] = _texts(spec.nodeSelector)
            plain_spec["affinity"] = _plain(spec.affinity)
            plain_spec["tolerations"] = [_plain(each) for each in spec.tolerations]
            plain_status["conditions"] = [_condition(each) for each in status.conditions]
        return {"metadata": self._metadata(), "spec": plain_spec, "status": plain_status}

    def wanted(self) -> tuple[Json, str] | None:
        """Metadata and table of ports; None where the Pod has no numbers of ours on the host's network."""
        metadata = self._pod.metadata
        if not (self._pod.spec.hostNetwork and metadata.annotations.get(ALLOCATION_ID)):
            return None
        found = {
            "namespace": _text(metadata.namespace),
            "name": _text(metadata.name),
            "labels": _texts(metadata.labels),
            "ownerReferences": [_plain(each) for each in metadata.ownerReferences],
        }
        return found, _text(metadata.annotations.get(ALLOCATIONS) or "")

    def _metadata(self) -> Json:
        metadata = self._pod.metadata
        owners = metadata.ownerReferences[:]
        return {
            "name": _text(metadata.name),
            "namespace": _text(metadata.namespace),
            "uid": self.identity,
            "generateName": _text(metadata.generateName),
            "deletionTimestamp": metadata.HasField("deletionTimestamp"),
            "ownerReferences": [{"uid": _text(each.uid), "controller": True} for each in owners if each.controller],
            "annotations": {name: _text(metadata.annotations.get(name) or "") for name in (ALLOCATION_ID, WARNINGS)},
        }


def _condition(condition: pb.PodCondition) -> Json:
    since = condition.lastTransitionTime.seconds
    return {
        "type": _text(condition.type),
        "status": _text(condition.status),
        "message": _text(condition.message),
        "lastTransitionTime": rfc3339(since) if since else None,
    }


def _container(container: pb.Container) -> Json:
    ports = [
        {
            "name": _text(port.name),
            "containerPort": port.containerPort,
            "hostPort": port.hostPort,
            "protocol": _text(port.protocol),
            "hostIP": _text(port.hostIP),
        }
        for port in container.ports[:]
    ]
    return {"name": _text(container.name), "restartPolicy": _text(container.restartPolicy), "ports": ports}


def see_node(node: pb.Node) -> NodeSketch:
    """The Node, as JSON would have told it."""
    metadata, spec = node.metadata, node.spec
    return NodeSketch(
        metadata=NodeMetadata(
            name=_text(metadata.name),
            uid=_text(metadata.uid),
            resource_version=_text(metadata.resourceVersion),
            labels=_texts(metadata.labels),
        ),
        spec=NodeSpec(taints=[_plain(taint) for taint in spec.taints], unschedulable=spec.unschedulable),
        status=NodeStatus(addresses=[{"type": one.type, "address": one.address} for one in node.status.addresses]),
    )


def see_namespace(namespace: pb.Namespace) -> NamespaceSketch:
    """The Namespace, likewise."""
    metadata = namespace.metadata
    return NamespaceSketch(
        metadata=NamespaceMetadata(
            name=_text(metadata.name),
            resource_version=_text(metadata.resourceVersion),
            labels=Labels(
                enforce=_text(metadata.labels.get(ENFORCE) or ""),
                external_address=_text(metadata.labels.get(EXTERNAL_ADDRESS) or ""),
            ),
        )
    )


def see_service(service: pb.Service) -> ServiceSketch:
    """The Service, likewise."""
    metadata, spec = service.metadata, service.spec
    return ServiceSketch(
        metadata=Metadata(
            name=_text(metadata.name),
            namespace=_text(metadata.namespace),
            uid=_text(metadata.uid),
            resource_version=_text(metadata.resourceVersion),
        ),
        spec=ServiceSpec(
            type=_text(spec.type),
            selector=_texts(spec.selector),
            ports=[_service_port(port) for port in spec.ports],
            health_check_node_port=spec.healthCheckNodePort,
        ),
    )


def _service_port(port: pb.ServicePort) -> ServicePort:
    target = port.targetPort
    return ServicePort(
        port=port.port,
        target_port=_text(target.strVal) if target.type else target.intVal,
        protocol=_text(port.protocol),
        node_port=port.nodePort,
    )


class ProtobufDecoder(Generic[S]):
    """Reads lists and events of one kind of object, in the encoding in which they come.

    `see` makes of a message what the sinks are told, `json` does the same for JSON. Everything raises ValueError for
    what is not what it should be.
    """

    accept: Final = f"{PROTOBUF}, {JSON}"

    def __init__(self, kind: str, see: Callable[[Any], S], json: JsonDecoder[Any]) -> None:
        self._kind = kind
        self._one: type[Message] = getattr(pb, kind)
        self._list: type[Message] = getattr(pb, f"{kind}List")
        self._see = see
        self._json = json

    def page(self, body: bytes) -> ListPage[S]:
        """A page of a list."""
        if not body.startswith(MAGIC):
            return self._json.page(body)
        found: Any = _decode(self._list, _unwrapped(body, f"{self._kind}List"))
        return ListPage(_list_metadata(found.metadata), [self._see(item) for item in found.items[:]])

    def event(self, part: bytes) -> WatchEvent[S]:
        """An event of a watch."""
        if not isinstance(part, ProtobufFrame):
            return self._json.event(part)
        event = _decode(pb.WatchEvent, part)
        if event.type == "ERROR":
            status = _decode(pb.Status, _unwrapped(event.object.raw, "Status"))
            failure: Any = Sketch(code=status.code, reason=_text(status.reason), message=_text(status.message))
            return WatchEvent(event.type, failure)
        if not event.type:
            raise ValueError("an event has no type")
        return WatchEvent(event.type, self._see(_decode(self._one, _unwrapped(event.object.raw, self._kind))))

    def one(self, body: bytes) -> S:
        """One object."""
        if not body.startswith(MAGIC):
            found: S = self._json.one(body)
            return found
        return self._see(_decode(self._one, _unwrapped(body, self._kind)))


def head_of_page(begin: bytes) -> ListMetadata | None:
    """The metadata of a list by its first bytes: it stands before the items. None: not among them."""
    if not begin.startswith(MAGIC):
        return decoding.head_of_page(begin)
    try:
        _, end = _span(begin, len(MAGIC), pb.Unknown.TYPEMETA_FIELD_NUMBER)
        start, _ = _span(begin, end, pb.Unknown.RAW_FIELD_NUMBER)
        start, end = _span(begin, start, pb.PodList.METADATA_FIELD_NUMBER)
        return _list_metadata(_decode(pb.ListMeta, begin[start:end])) if end <= len(begin) else None
    except (ValueError, IndexError):
        return None


def words_of_status(body: bytes) -> tuple[str, str]:
    """The message and the reason of an error that the API server answers.

    Raises:
        ValueError: it is none.

    """
    status = _decode(pb.Status, _unwrapped(body, "Status"))
    return _text(status.message), _text(status.reason)


def _span(data: bytes, at: int, number: int) -> tuple[int, int]:
    """Where the value of a field with a length begins and ends, which may be beyond the data."""
    if data[at] != number << 3 | 2:
        raise ValueError(f"there is no field {number}")
    size = 0
    for shift in range(0, LONGEST_VARINT * 7, 7):
        at += 1
        size |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return at + 1, at + 1 + size
    raise ValueError("a length has no end")


def _unwrapped(body: bytes, kind: str) -> bytes:
    """What is in the envelope."""
    if not body.startswith(MAGIC):
        raise ValueError(f"a {kind} has no envelope")
    envelope = _decode(pb.Unknown, body[len(MAGIC) :])
    if envelope.typeMeta.kind != kind:
        raise ValueError(f"it is a {_text(envelope.typeMeta.kind)!r}, no {kind}")
    return envelope.raw


def _decode(message: type[M], data: bytes) -> M:
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise ValueError(f"a {message.DESCRIPTOR.name} is no valid protobuf: {error}") from error


def _list_metadata(meta: pb.ListMeta) -> ListMetadata:
    return ListMetadata(
        resource_version=_text(meta.resourceVersion),
        continue_=_text(getattr(meta, "continue")),
        remaining_item_count=meta.remainingItemCount if meta.HasField("remainingItemCount") else None,
    )


def _plain(message: Message) -> dict[str, Any]:
    """The fields that are set, as JSON has them."""
    return {field.name: _value(value) for field, value in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Message):
        return _plain(value)
    return [_value(item) for item in value]


def _texts(texts: Mapping[Any, str]) -> dict[str, str]:
    """By names that the API server checks; one that is no text nevertheless is left out."""
    return {name: _text(texts[name]) for name in texts if isinstance(name, str)}


def _text(text: str | bytes) -> str:
    """The decoder gives bytes where a text is no UTF-8."""
    return text if isinstance(text, str) else text.decode(errors="replace")
