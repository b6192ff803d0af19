"""Kubernetes objects as JSON → the values of the core. Pure.

What occupies a node follows the scheduler (pkg/scheduler/util, GetHostPorts): the ports of containers and of
restartable init containers. A hostNetwork Pod's containerPorts are host ports, which the API server records as such;
an object that did not pass through it may lack them.

The objects were validated by an API server, or were written by hand into a file; what is malformed raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from sys import intern
from typing import Any

from allocator.core.addresses import address_of
from allocator.core.candidates import Constraints, Node, NodeName, Requirement, Taint, Term, Toleration
from allocator.core.claims import ClaimPort, ObservedPod, PodUid, PortRejection, RejectedBy
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from hostport.contract.annotations import EXTERNAL_ADDRESS, Annotation
from hostport.contract.limits import HIGHEST_PORT, Bound
from hostport.timestamps import seconds_of

ALLOCATION_ID = Annotation.ALLOCATION_ID.text
ALLOCATIONS = Annotation.ALLOCATIONS.text
WARNINGS = Annotation.WARNINGS.text
MOST_WARNINGS = 32
MOST_ADDRESSES = 64
"""Of a Node; a machine has a handful."""
ENFORCE = "pod-security.kubernetes.io/enforce"
_WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NO_FREE_PORTS = re.compile(r"([0-9]{1,6}) node\(s\) didn't have free ports")
FORBIDS_HOST_NETWORK = frozenset({"baseline", "restricted"})

_REQUIREMENTS = ("matchExpressions", "matchFields")

Json = Mapping[str, Any]


def flatten(documents: Iterable[Any]) -> Iterator[Json]:
    """The objects of some documents: each a list, a `List`, or one object."""
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


def parse_pod(obj: Json) -> ObservedPod:
    """The Pod of a JSON object; one without a uid (written by hand) goes by its name.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is malformed.

    """
    metadata, spec = _mapping(obj, "metadata"), _mapping(obj, "spec")
    namespace, name = _text(metadata.get("namespace"), "namespace") or "default", _name(obj)
    annotations = _mapping(metadata, "annotations")
    carried_id = _text(str(annotations.get(ALLOCATION_ID, "")), ALLOCATION_ID)
    listens = bool(carried_id and spec.get("hostNetwork") and spec.get("nodeName"))
    controllers = [_text(ref.get("uid"), "uid") for ref in _list(metadata, "ownerReferences") if ref.get("controller")]
    return ObservedPod(
        uid=PodUid(_text(metadata.get("uid"), "uid") or f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        generate_name=_text(metadata.get("generateName"), "generateName"),
        controller_uid=controllers[0] if controllers else "",
        node=NodeName(_text(spec["nodeName"], "nodeName")) if spec.get("nodeName") else None,
        is_finished=_mapping(obj, "status").get("phase") in {"Succeeded", "Failed"},
        ports=tuple(_ports(spec)),
        constraints=parse_constraints(spec),
        priority=_integer(spec.get("priority"), "priority"),
        may_preempt=spec.get("preemptionPolicy") != "Never",
        is_terminating=bool(metadata.get("deletionTimestamp")),
        carried_id=carried_id,
        own_network=not spec.get("hostNetwork"),
        warnings=_words(annotations.get(WARNINGS)) if carried_id else "",
        rejection=_port_rejection(_mapping(obj, "status")),
        ready_at=_ready_at(_mapping(obj, "status")) if listens else None,
    )


def _words(listed: Any) -> str:
    """The words of a list with commas, each one object however many Pods have it. What is no word is left out."""
    words = listed.split(",", MOST_WARNINGS)[:MOST_WARNINGS] if isinstance(listed, str) else ()
    return intern(",".join(word for word in words if _WORD.fullmatch(word)))


def _port_rejection(status: Json) -> PortRejection | None:
    """What Kubernetes says of the Pod's host ports, if it says no.

    The kubelet fails a Pod for the reason `NodePorts`; the scheduler writes how many nodes its filter of that name
    turned down, before what it thinks of preemption.
    """
    if status.get("phase") == "Failed" and status.get("reason") == "NodePorts":
        return PortRejection(RejectedBy.KUBELET)
    for condition in _list(status, "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = str(condition.get("message") or "").partition("preemption:")[0]
            found = _NO_FREE_PORTS.search(message)
            return PortRejection(RejectedBy.SCHEDULER, int(found[1])) if found else None
    return None


def _ready_at(status: Json) -> float | None:
    """Since when the Pod is Ready, in seconds since the epoch; None where it is not, or nobody says since when."""
    for condition in _list(status, "conditions"):
        if condition.get("type") == "Ready":
            return seconds_of(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None
    return None


def parse_constraints(spec: Json) -> Constraints:
    """Where a Pod may run. A Pod that has a node was not asked for more."""
    if spec.get("nodeName"):
        return Constraints(node_name=NodeName(_text(spec["nodeName"], "nodeName")))
    affinity = _mapping(_mapping(spec, "affinity"), "nodeAffinity")
    required = _mapping(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    return Constraints(
        selector=tuple(sorted(_texts(spec, "nodeSelector").items())[: Bound.SELECTOR.most]),
        affinity=_affinity(_list(required, "nodeSelectorTerms")),
        tolerations=_tolerations(_list(spec, "tolerations")),
    )


def _affinity(terms: Sequence[Json]) -> tuple[Term, ...]:
    """The terms; none, so that any node will do, where they are more than an ask may have: too many, never too few."""
    requirements = [each for term in terms for key in _REQUIREMENTS for each in _list(term, key)]
    values = sum(len(_list(each, "values")) for each in requirements)
    if len(terms) > Bound.TERMS.most or len(requirements) > Bound.EXPRESSIONS.most or values > Bound.VALUES.most:
        return ()
    return tuple(
        Term(
            expressions=tuple(_requirement(r) for r in _list(term, "matchExpressions")),
            fields=tuple(_requirement(r) for r in _list(term, "matchFields")),
        )
        for term in terms
    )


def _tolerations(tolerations: Sequence[Json]) -> tuple[Toleration, ...]:
    """Likewise: more than an ask may have are read as one that tolerates everything."""
    if len(tolerations) > Bound.TOLERATIONS.most:
        return (Toleration(operator="Exists"),)
    return tuple(
        Toleration(
            key=_text(t.get("key"), "key"),
            operator=_text(t.get("operator"), "operator") or "Equal",
            value=_text(t.get("value"), "value"),
            effect=_text(t.get("effect"), "effect"),
        )
        for t in tolerations
    )


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


def _ports(spec: Json) -> Iterator[ClaimPort]:
    is_host = bool(spec.get("hostNetwork"))
    restartable = [c for c in _list(spec, "initContainers") if c.get("restartPolicy") == "Always"]
    for container in [*_list(spec, "containers"), *restartable]:
        for port in _list(container, "ports"):
            number = port.get("hostPort") or (port.get("containerPort") if is_host else 0)
            if not number:
                continue
            inside = _integer(port.get("containerPort"), "containerPort")
            if not 1 <= _integer(number, "hostPort") <= HIGHEST_PORT or not 0 <= inside <= HIGHEST_PORT:
                raise ValueError(f"{number!r} (containerPort {inside!r}) is no port: 1 to {HIGHEST_PORT}")
            yield ClaimPort(
                container=_text(container.get("name"), "name"),
                name=_text(port.get("name"), "name"),
                protocol=Protocol(port.get("protocol") or "TCP"),
                container_port=inside,
                host_port=number,
                host_ip=_text(port.get("hostIP"), "hostIP"),
            )


def _requirement(obj: Json) -> Requirement:
    return Requirement(
        key=_text(obj["key"], "key"),
        operator=_text(obj["operator"], "operator"),
        values=tuple(_text(each, "values") for each in _list(obj, "values")),
    )


def _name(obj: Json) -> str:
    name = _mapping(obj, "metadata").get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a {obj.get('kind')} has no metadata.name")
    return _text(name, "metadata.name")


def _mapping(obj: Json, key: str) -> Json:
    value = obj.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is no mapping")  # noqa: TRY004 - one kind of error for what is malformed
    return value


def _texts(obj: Json, key: str) -> dict[str, str]:
    return {_text(name, key): _text(value, key) for name, value in _mapping(obj, key).items()}


def _text(value: object, key: str) -> str:
    """Text; null is empty, as for the API server. YAML reads a bare 1 or true as something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} has {value!r}, which is no text: write it in quotes")  # noqa: TRY004 - as above
    value.encode()  # raises where it has half of a surrogate pair, which nobody could be told
    return value


def _integer(value: object, key: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} has {value!r}, which is no whole number")  # noqa: TRY004 - as above
    return value


def _list(obj: Json, key: str) -> list[Any]:
    value = obj.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")  # noqa: TRY004 - as above
    return value
