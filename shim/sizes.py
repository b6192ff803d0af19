"""How much a Pod says, and how large its patch could be, counted where it may be too much. Pure.

Rules:

* Whatever is walked later is counted here, before anything is made of it, so that no walk is longer than its bound.
* Only lengths are looked at: what has a wrong type is told by whoever reads it.
* Nearly every review has so few commas that there cannot be too much of anything: `FEW_COMMAS`. Nearly every patch is
  so small that a rough figure is enough (`allocation_request`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from hostport.contract import Mistake, Reason
from hostport.contract.limits import MOST_NUMBERS, MOST_PORTS, Bound
from shim.annotations import ALLOCATED
from shim.pods import NewPod, PodPort
from shim.ports import VARIABLE_PREFIX, variable_part

REQUIRED_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITY = f"spec.affinity.nodeAffinity.{REQUIRED_AFFINITY}"

# Bytes of a patch, each at least what it can take, less the names in it.
_FIXED = 1600  # hostNetwork, dnsPolicy, the annotations that every Pod gets, the words of all warnings
_PORT = 450  # containerPort, hostPort and hostIP, an annotation, an entry of the table
PROBE_BYTES = 120
_CONTAINER = 900  # the operation, HOSTPORT_HOST_IP, and three variables with addresses
_VARIABLE = 30
_OPERATION = 70
REMOVAL_BYTES = 70
_TARGET = 800  # what is published: a key of 317 characters, and the operation; as a variable, each time it is there
_REWRITTEN = 32_000  # the annotation that tells what was rewritten
_TEXT = 140  # the operation that rewrites a text
_GROWTH = 2  # bytes more for each character: at most every second is a number, and becomes one of five digits
_ENTRY = 250  # of a block's number: what is added, changed or removed, less its address
_BLOCK_VARIABLE = 150
_LETTER = 6  # bytes of a character as JSON, at most

FEW_COMMAS = 255
"""n entries of a list or map have n - 1 commas between them, and n ports of all containers n - 2: a review with no more
commas than this keeps every bound on a count, of which the least is 256."""

MOST_ENTRIES = MOST_PORTS + MOST_NUMBERS
"""Ports that stand in a Pod, the numbers of its blocks among them: those are known only when the ports were read."""

_encode = msgspec.json.Encoder().encode


def too_large(raw: Any) -> tuple[Mistake, ...]:
    """Everything that a Pod has too much of; `raw` is what came, as a map or skimmed."""
    metadata, spec = _map_at(raw, "metadata"), _map_at(raw, "spec")
    containers = [*_list_at(spec, "containers"), *_list_at(spec, "initContainers")]
    counted = tuple(
        Mistake(Reason.TOO_COMPLEX, field, bound.told(count))
        for field, bound, count in (*_metadata_sizes(metadata), *_spec_sizes(spec), *_affinity_sizes(spec))
        if count > bound.most
    )
    ports = sum(len(_list_at(container, "ports")) for container in containers)
    if ports > MOST_ENTRIES:
        counted += (_port_count_mistake(ports),)
    return counted


def too_many_ports(pod: NewPod) -> tuple[Mistake, ...]:
    """What is wrong with a Pod of more ports than may be, each block among them one."""
    ports = sum([len(container.all_ports) for container in pod.containers])
    return (_port_count_mistake(ports),) if ports > MOST_PORTS else ()


def _port_count_mistake(ports: int) -> Mistake:
    return Mistake(Reason.TOO_MANY_PORTS, "", f"{ports} ports are more than {MOST_PORTS}")


def texts_of(pod: NewPod) -> Iterator[str]:
    """The texts that may be rewritten."""
    for container in pod.containers:
        for command in container.commands:
            yield from command.words
        yield from (entry["value"] for entry in container.env or () if entry.get("value"))


def extra_bytes(pod: NewPod, *, rewrites: bool, targets: int, is_rough: bool) -> int:
    """What is written because the user asks for it: published numbers, rewritten texts."""
    size = targets * (_TARGET + REMOVAL_BYTES * max([0, *(len(container.env or ()) for container in pod.containers)]))
    if not rewrites:
        return size
    as_json = sum(_LETTER * len(text) if is_rough else len(_encode(text)) for text in texts_of(pod))
    return size + _REWRITTEN + as_json + sum(_TEXT + _GROWTH * len(text) for text in texts_of(pod))


def block_bytes(blocks: Iterable[PodPort], containers: int) -> int:
    """What blocks add at most: the entries of their other numbers, and six variables in each of so many containers."""
    size = 0
    for port in blocks:
        name = len(port.name) + len(port.container)
        size += (port.count + len(port.others)) * (_ENTRY + _LETTER * len(port.host_ip))
        size += 6 * containers * (_BLOCK_VARIABLE + 3 * _LETTER * name)
    return size


def patch_bytes(pod: NewPod, *, inject_env: bool, rewrites: bool = False, targets: int = 0) -> int:
    """The bytes that the patch of a Pod takes at most."""
    names = sum(3 * _width(port.name) + 3 * _width(port.container) for port in pod.ports)
    stale = [name for name in pod.annotations if name.startswith(ALLOCATED)]
    probes = sum(len(container.probes) for container in pod.containers)
    size = _FIXED + names + _PORT * len(pod.ports) + PROBE_BYTES * probes
    size += block_bytes(pod.blocks, len(pod.containers))
    size += sum(REMOVAL_BYTES + 2 * _width(name) for name in stale)
    size += extra_bytes(pod, rewrites=rewrites, targets=targets, is_rough=False) if rewrites or targets else 0
    return size + (_env_bytes(pod) if inject_env else 0)


def _env_bytes(pod: NewPod) -> int:
    """Every container gets the same number of variables: each name, and once more where several containers have it."""
    holders: dict[str, set[int]] = {}
    names: set[str] = set()
    for at, container in enumerate(pod.containers):
        for port in container.ports:
            holders.setdefault(variable_part(port.name), set()).add(at)
    for at, port in enumerate(pod.ports):
        suffix = variable_part(port.name)
        whole = suffix or f"{at:05}"  # its number stands there, of five digits at most; it may have been another before
        names.add(VARIABLE_PREFIX + whole)
        if not suffix or len(holders[suffix]) > 1:
            names.add(f"{VARIABLE_PREFIX}{variable_part(port.container)}_{whole}")
    letters = sum(len(_encode(name)) for name in names)
    size = 0
    for container in pod.containers:
        each = _VARIABLE if container.env is None else _VARIABLE + _OPERATION
        ours = sum(1 for entry in container.env or () if (entry.get("name") or "").startswith(VARIABLE_PREFIX))
        size += _CONTAINER + letters + each * len(names) + REMOVAL_BYTES * ours
    return size


@lru_cache(maxsize=1024)
def _width(text: str) -> int:
    """The bytes of a text as JSON within JSON. The names of a workload's Pods are the same ones each time."""
    return len(_encode(_encode(text).decode())) - 2


def _metadata_sizes(metadata: Any) -> Iterator[tuple[str, Bound, int]]:
    annotations = _entries(metadata, "annotations")
    characters = sum(len(name) + len(value) for name, value in annotations.items() if isinstance(value, str))
    yield "metadata.annotations", Bound.ANNOTATIONS, len(annotations)
    yield "metadata.annotations", Bound.ANNOTATION_BYTES, characters
    yield "metadata.labels", Bound.LABELS, len(_entries(metadata, "labels"))
    yield "metadata.ownerReferences", Bound.OWNERS, len(_list_at(metadata, "ownerReferences"))
    yield "metadata.managedFields", Bound.MANAGERS, len(_list_at(metadata, "managedFields"))


def _spec_sizes(spec: Any) -> Iterator[tuple[str, Bound, int]]:
    containers = [*_list_at(spec, "containers"), *_list_at(spec, "initContainers")]
    yield "spec.containers", Bound.CONTAINERS, len(containers)
    variables = sum(len(_list_at(container, "env")) for container in containers)
    yield "spec.containers", Bound.ENV, variables
    yield "spec.nodeSelector", Bound.SELECTOR, len(_entries(spec, "nodeSelector"))
    yield "spec.tolerations", Bound.TOLERATIONS, len(_list_at(spec, "tolerations"))
    yield "spec.securityContext.sysctls", Bound.SYSCTLS, len(_list_at(_map_at(spec, "securityContext"), "sysctls"))


def _affinity_sizes(spec: Any) -> Iterator[tuple[str, Bound, int]]:
    """Terms, and what is in them as long as they are not too many."""
    terms = _list_at(
        _map_at(_map_at(_map_at(spec, "affinity"), "nodeAffinity"), REQUIRED_AFFINITY), "nodeSelectorTerms"
    )
    yield AFFINITY, Bound.TERMS, len(terms)
    if len(terms) > Bound.TERMS.most:
        return
    keys = ("matchExpressions", "matchFields")
    yield AFFINITY, Bound.EXPRESSIONS, sum(len(_list_at(term, key)) for term in terms for key in keys)
    expressions = [each for term in terms for key in keys for each in _list_at(term, key)]
    yield AFFINITY, Bound.VALUES, sum(len(_list_at(each, "values")) for each in expressions)


def _map_at(parent: Any, key: str) -> Any:
    value = _at(parent, key)
    return {} if value is None or isinstance(value, list) else value


def _entries(parent: Any, key: str) -> dict[str, Any]:
    value = _at(parent, key)
    return value if isinstance(value, dict) else {}


def _list_at(parent: Any, key: str) -> list[Any]:
    value = _at(parent, key)
    return value if isinstance(value, list) else []


def _at(parent: Any, key: str) -> Any:
    return parent.get(key) if hasattr(parent, "get") else None
