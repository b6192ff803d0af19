"""Protobuf of the API server: its envelopes and frames, and the rules by which a Pod becomes the core's value. Pure.

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
* What the fields of a Pod mean is said here once (`observed_pod`). A Pod in JSON is read as a message
  (`objects.as_message`).
* What occupies a node follows the scheduler (pkg/scheduler/util, GetHostPorts): the ports of containers and of
  restartable init containers. A hostNetwork Pod's containerPorts are host ports, which the API server records as such;
  an object that did not pass through it may lack them.

Longer than 350 lines because a Pod event is read here as a whole: its frame, what is asked of its Pod, and what the
core is told of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from sys import intern
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from allocator.cluster import decoding
from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.decoding import JsonDecoder, ListMetadata, ListPage, WatchEvent
from allocator.cluster.objects import ALLOCATION_ID, ALLOCATIONS, WARNINGS, Json
from allocator.cluster.projection import FINISHED, JSON, S, Sketch
from allocator.core.candidates import Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import ClaimPort, ObservedPod, PodUid, PortRejection, RejectedBy
from allocator.core.ports import Protocol
from hostport.contract.limits import HIGHEST_PORT, Bound

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
MAGIC: Final = b"k8s\0"
SIZE_BYTES: Final = 4  # before each frame of a watch: its length, the highest byte first

LONGEST_VARINT: Final = 10  # bytes
MOST_WARNINGS: Final = 32
_WORD: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NO_FREE_PORTS: Final = re.compile(r"([0-9]{1,6}) node\(s\) didn't have free ports")
_PROTOCOLS: Final = {each.value: each for each in Protocol}  # a look takes a tenth of `Protocol(...)`

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
        return uid if type(uid) is str else text_of(uid)  # a call less for each Pod of the cluster

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
        return version if type(version) is str else text_of(version)

    @property
    def title(self) -> str:
        return f"{text_of(self._pod.metadata.namespace)}/{text_of(self._pod.metadata.name)}"

    def holds_something(self) -> bool:
        """Whether it carries our id, or has host ports and is not finished."""
        if (self._weight or self._count()) > 1 and self._has_host_ports and self._pod.status.phase not in FINISHED:
            return True
        return bool(self._pod.metadata.annotations.get(ALLOCATION_ID))

    def fields(self) -> pb.Pod:
        """The Pod as `observed_pod` reads it."""
        return self._pod

    def wanted(self) -> tuple[Json, str] | None:
        """Metadata and table of ports; None where the Pod has no numbers of ours on the host's network."""
        metadata = self._pod.metadata
        if not (self._pod.spec.hostNetwork and metadata.annotations.get(ALLOCATION_ID)):
            return None
        found = {
            "namespace": text_of(metadata.namespace),
            "name": text_of(metadata.name),
            "labels": texts_of(metadata.labels),
            "ownerReferences": [plain_of(each) for each in metadata.ownerReferences],
        }
        return found, text_of(metadata.annotations.get(ALLOCATIONS) or "")


def observed_pod(pod: pb.Pod) -> ObservedPod:
    """What the core is told of a Pod; one without a uid (written by hand) goes by its name.

    pod: a message, or a JSON object that is read as one (`objects.as_message`).

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is malformed.

    """
    metadata, spec, status = pod.metadata, pod.spec, pod.status
    name, namespace = text_of(metadata.name), intern(text_of(metadata.namespace) or "default")
    if not name:
        raise ValueError("a Pod has no metadata.name")
    constraints, is_host, phase = constraints_of(spec), spec.hostNetwork, status.phase
    node, annotations = constraints.node_name, metadata.annotations
    carried_id = text_of(annotations.get(ALLOCATION_ID) or "")
    return ObservedPod(
        uid=PodUid(text_of(metadata.uid) or f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        generate_name=intern(text_of(metadata.generateName)),
        controller_uid=_controller_uid(metadata),
        node=node,
        is_finished=phase in FINISHED,
        ports=_host_ports(spec, is_host=is_host),
        constraints=constraints,
        priority=spec.priority,
        may_preempt=spec.preemptionPolicy != "Never",
        is_terminating=metadata.HasField("deletionTimestamp"),
        carried_id=carried_id,
        own_network=not is_host,
        warnings=_words(text_of(annotations.get(WARNINGS) or "")) if carried_id else "",
        rejection=_rejection(status, phase, is_waiting=node is None),
        ready_at=_ready_at(status) if carried_id and is_host and node is not None else None,
    )


def _controller_uid(metadata: pb.ObjectMeta) -> str:
    for owner in metadata.ownerReferences[:]:
        if owner.controller:
            return intern(text_of(owner.uid))
    return ""


def _words(listed: str) -> str:
    """The words of a list with commas, each one object however many Pods have it. What is no word is left out."""
    words = listed.split(",", MOST_WARNINGS)[:MOST_WARNINGS]
    return intern(",".join(word for word in words if _WORD.fullmatch(word)))


def _host_ports(spec: pb.PodSpec, *, is_host: bool) -> tuple[ClaimPort, ...]:
    """What occupies a node; see the module."""
    restartable = [each for each in spec.initContainers[:] if each.restartPolicy == "Always"]
    ports = []
    for container in [*spec.containers[:], *restartable]:
        for port in container.ports[:]:
            number = port.hostPort or (port.containerPort if is_host else 0)
            if not number:
                continue
            inside = port.containerPort
            if not 1 <= number <= HIGHEST_PORT or not 0 <= inside <= HIGHEST_PORT:
                raise ValueError(f"{number!r} (containerPort {inside!r}) is no port: 1 to {HIGHEST_PORT}")
            protocol = port.protocol or "TCP"
            ports.append(
                ClaimPort(
                    container=text_of(container.name),
                    name=text_of(port.name),
                    protocol=_PROTOCOLS.get(protocol) or Protocol(protocol),
                    container_port=inside,
                    host_port=number,
                    host_ip=text_of(port.hostIP),
                )
            )
    return tuple(ports)


def _rejection(status: pb.PodStatus, phase: str, *, is_waiting: bool) -> PortRejection | None:
    """What Kubernetes says of the Pod's host ports, if it says no.

    The kubelet fails a Pod for the reason `NodePorts`; the scheduler writes how many nodes its filter of that name
    turned down, before what it thinks of preemption. A Pod on a node was scheduled, whatever was written before.
    """
    if phase == "Failed" and status.reason == "NodePorts":
        return PortRejection(RejectedBy.KUBELET)
    for condition in status.conditions[:] if is_waiting else ():
        if condition.type == "PodScheduled" and condition.status == "False":
            found = _NO_FREE_PORTS.search(text_of(condition.message).partition("preemption:")[0])
            return PortRejection(RejectedBy.SCHEDULER, int(found[1])) if found else None
    return None


def _ready_at(status: pb.PodStatus) -> float | None:
    """Since when the Pod is Ready, in seconds since the epoch; None where it is not, or nobody says since when."""
    for condition in status.conditions[:]:
        if condition.type == "Ready":
            since = condition.lastTransitionTime.seconds
            return float(since) if since and condition.status == "True" else None
    return None


def constraints_of(spec: pb.PodSpec) -> Constraints:
    """Where a Pod may run. A Pod that has a node was not asked for more. spec, and what is raised: as above."""
    if spec.nodeName:
        return Constraints(node_name=NodeName(intern(text_of(spec.nodeName))))
    required = spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
    return Constraints(
        selector=tuple(sorted(texts_of(spec.nodeSelector).items())[: Bound.SELECTOR.most]),
        affinity=_affinity(required.nodeSelectorTerms[:]),
        tolerations=_tolerations(spec.tolerations[:]),
    )


def _affinity(terms: Sequence[pb.NodeSelectorTerm]) -> tuple[Term, ...]:
    """The terms; none, so that any node will do, where they are more than an ask may have: too many, never too few."""
    halves = [(term.matchExpressions[:], term.matchFields[:]) for term in terms]
    requirements = [each for half in halves for some in half for each in some]
    values = sum(len(each.values) for each in requirements)
    if len(terms) > Bound.TERMS.most or len(requirements) > Bound.EXPRESSIONS.most or values > Bound.VALUES.most:
        return ()
    return tuple(
        Term(expressions=tuple(map(_requirement, expressions)), fields=tuple(map(_requirement, fields)))
        for expressions, fields in halves
    )


def _requirement(requirement: pb.NodeSelectorRequirement) -> Requirement:
    if not requirement.HasField("key") or not requirement.HasField("operator"):
        raise ValueError("a requirement of the node affinity has no key, or no operator")
    return Requirement(
        key=text_of(requirement.key),
        operator=text_of(requirement.operator),
        values=tuple(map(text_of, requirement.values)),
    )


def _tolerations(tolerations: Sequence[pb.Toleration]) -> tuple[Toleration, ...]:
    """Likewise: more than an ask may have are read as one that tolerates everything."""
    if len(tolerations) > Bound.TOLERATIONS.most:
        return (Toleration(operator="Exists"),)
    return tuple(
        Toleration(
            key=text_of(each.key),
            operator=text_of(each.operator) or "Equal",
            value=text_of(each.value),
            effect=text_of(each.effect),
        )
        for each in tolerations
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
        """An event of a watch. Raises ValueError where it is malformed."""
        if not isinstance(part, ProtobufFrame):
            return self._json.event(part)
        event = _decode(pb.WatchEvent, part)
        if event.type == "ERROR":
            status = _decode(pb.Status, _unwrapped(event.object.raw, "Status"))
            failure: Any = Sketch(code=status.code, reason=text_of(status.reason), message=text_of(status.message))
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
    return text_of(status.message), text_of(status.reason)


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
        raise ValueError(f"it is a {text_of(envelope.typeMeta.kind)!r}, no {kind}")
    return envelope.raw


def _decode(message: type[M], data: bytes) -> M:
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise ValueError(f"a {message.DESCRIPTOR.name} is no valid protobuf: {error}") from error


def _list_metadata(meta: pb.ListMeta) -> ListMetadata:
    return ListMetadata(
        resource_version=text_of(meta.resourceVersion),
        continue_=text_of(getattr(meta, "continue")),
        remaining_item_count=meta.remainingItemCount if meta.HasField("remainingItemCount") else None,
    )


def plain_of(message: Message) -> dict[str, Any]:
    """The fields that are set, as JSON has them."""
    return {field.name: _value(value) for field, value in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return text_of(value)
    if isinstance(value, Message):
        return plain_of(value)
    return [_value(item) for item in value]


def texts_of(texts: Mapping[Any, str]) -> dict[str, str]:
    """By names that the API server checks; one that is no text nevertheless is left out."""
    return {name: text_of(texts[name]) for name in texts if isinstance(name, str)}


def text_of(text: str | bytes) -> str:
    """The decoder gives bytes where a text is no UTF-8."""
    return text if isinstance(text, str) else text.decode(errors="replace")
