"""How much a Pod says, counted before anything is made of it; and how large its patch could be. Pure.

Rules:

* Whatever is walked later is counted here, so that no walk is longer than its bound.
* Only lengths are looked at: what has a wrong type is told by whoever reads it.
* Nearly every review has so few commas that there cannot be too much of anything: `FEW_COMMAS`.
* A patch is foretold from above. It is never larger than that, so that nothing is allocated for a Pod whose patch could
  not be sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from hostport.bounds import LONGEST_ADDRESS, LONGEST_NAME, MOST_PORTS, Bound
from hostport.contract import Reason
from shim.env import PREFIX, variable_part
from shim.outcomes import Mistake, mistake
from shim.pods import Pod
from shim.settings import ALLOCATED, Settings
from shim.texts import EACH

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITY = f"spec.affinity.nodeAffinity.{REQUIRED}"

# Bytes of a patch, each at least what it can take, less the names in it.
_FIXED = 1600  # hostNetwork, dnsPolicy, the annotations that every Pod gets, the words of all warnings
_PORT = 450  # containerPort, hostPort and hostIP, an annotation, an entry of the table
_PROBE = 120
_CONTAINER = 250  # the operation, and HOSTPORT_HOST_IP
_VARIABLE = 30
_OPERATION = 70
_REMOVAL = 70
_TARGET = 800  # what is published: a key of 317 characters, and the operation; as a variable, each time it is there
_REWRITTEN = 32_000  # the annotation that tells what was rewritten
_TEXT = 140  # the operation that rewrites a text
_GROWTH = 2  # bytes more for each character: at most every second is a number, and becomes one of five digits
_LETTER = 6  # bytes of a character as JSON, at most

FEW_COMMAS = 255
"""n entries of a list or map have n - 1 commas between them, and n ports of all containers n - 2: a review with no more
commas than this keeps every bound on a count, of which the least is 256."""

_encode = msgspec.json.Encoder().encode


def too_large(raw: Any) -> tuple[Mistake, ...]:
    """Everything that a Pod has too much of; `raw` is what came, as a map or skimmed."""
    metadata, spec = _map(raw, "metadata"), _map(raw, "spec")
    containers = [*_list(spec, "containers"), *_list(spec, "initContainers")]
    counted = tuple(
        mistake(Reason.TOO_COMPLEX, field, bound.told(count))
        for field, bound, count in (*_metadata_sizes(metadata), *_spec_sizes(spec), *_affinity_sizes(spec))
        if count > bound.most
    )
    ports = sum(len(_list(container, "ports")) for container in containers)
    if ports > MOST_PORTS:
        counted += (mistake(Reason.TOO_MANY_PORTS, "", f"{ports} ports are more than {MOST_PORTS}"),)
    return counted


def too_long(pod: Pod) -> tuple[Mistake, ...]:
    """Text that is sent, kept or shown, and is longer than Kubernetes has it."""
    wrong = [
        _long(f"{path}.{field}", name, LONGEST_NAME) for path, field, name in _names(pod) if len(name) > LONGEST_NAME
    ]
    for container in pod.containers:
        if len(container.name) > LONGEST_NAME:
            wrong.append(_long(f"{container.path}.name", container.name, LONGEST_NAME))
        for port in container.all_ports:
            if len(port.name) > LONGEST_NAME:
                wrong.append(_long(f"{port.path}.name", port.name, LONGEST_NAME))
            if len(port.host_ip) > LONGEST_ADDRESS:
                wrong.append(_long(f"{port.path}.hostIP", port.host_ip, LONGEST_ADDRESS))
    return tuple(wrong)


def _names(pod: Pod) -> list[tuple[str, str, str]]:
    """Each with its field, in two parts: the whole is put together only for one that is too long."""
    names = [
        ("metadata", "name", pod.name),
        ("metadata", "generateName", pod.generate_name),
        ("metadata", "namespace", pod.namespace),
        ("spec", "nodeName", pod.node_name),
    ]
    if (by := pod.controller) is not None:
        names += [
            (by.path, "apiVersion", by.api_version),
            (by.path, "kind", by.kind),
            (by.path, "name", by.name),
            (by.path, "uid", by.uid),
        ]
    return names


def too_large_a_patch(pod: Pod, settings: Settings, targets: int) -> tuple[Mistake, ...]:
    """What is wrong with a Pod whose patch could be larger than one may be. `targets`: how much is published."""
    rewrites = settings.rewrites and not settings.own_network
    characters = sum(len(text) + EACH for text in _texts(pod)) if rewrites else 0
    if characters > Bound.TEXTS.most:
        return (mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.TEXTS.told(characters)),)
    if rough_patch_bytes(pod, rewrites=rewrites, targets=targets) <= Bound.PATCH.most:
        return ()
    count = patch_bytes(pod, inject_env=settings.inject_env, rewrites=rewrites, targets=targets)
    if count <= Bound.PATCH.most:
        return ()
    return (mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.PATCH.told(count)),)


def _texts(pod: Pod) -> Iterator[str]:
    """The texts that may be rewritten."""
    for container in pod.containers:
        for command in container.commands:
            yield from command.words
        yield from (entry["value"] for entry in container.env or () if entry.get("value"))


def _extra_bytes(pod: Pod, *, rewrites: bool, targets: int, is_rough: bool) -> int:
    """What is written because the user asks for it: published numbers, rewritten texts."""
    size = targets * (_TARGET + _REMOVAL * max([0, *(len(container.env or ()) for container in pod.containers)]))
    if not rewrites:
        return size
    as_json = sum(_LETTER * len(text) if is_rough else len(_encode(text)) for text in _texts(pod))
    return size + _REWRITTEN + as_json + sum(_TEXT + _GROWTH * len(text) for text in _texts(pod))


def rough_patch_bytes(pod: Pod, *, rewrites: bool = False, targets: int = 0) -> int:
    """What `patch_bytes` says, or more, in a tenth of its time: nearly all Pods are far below the bound."""
    ports, containers = len(pod.ports) + 1, len(pod.containers) + 1
    letters = sum([len(port.name) + len(port.container) for port in pod.ports])
    kept = sum([len(container.probes) + len(container.env or ()) for container in pod.containers])
    stale = sum([len(name) for name in pod.annotations if name.startswith(ALLOCATED)])
    # A letter is three at most as a capital, and seven bytes at most as JSON within JSON; a port has two variables.
    size = 2000 + 1000 * ports * containers + 48 * letters * containers + _PROBE * kept + _REMOVAL * stale
    return size + (_extra_bytes(pod, rewrites=rewrites, targets=targets, is_rough=True) if rewrites or targets else 0)


def patch_bytes(pod: Pod, *, inject_env: bool, rewrites: bool = False, targets: int = 0) -> int:
    """The bytes that the patch of a Pod takes at most."""
    names = sum(3 * _width(port.name) + 3 * _width(port.container) for port in pod.ports)
    stale = [name for name in pod.annotations if name.startswith(ALLOCATED)]
    probes = sum(len(container.probes) for container in pod.containers)
    size = _FIXED + names + _PORT * len(pod.ports) + _PROBE * probes
    size += sum(_REMOVAL + 2 * _width(name) for name in stale)
    size += _extra_bytes(pod, rewrites=rewrites, targets=targets, is_rough=False) if rewrites or targets else 0
    return size + (_env_bytes(pod) if inject_env else 0)


def _env_bytes(pod: Pod) -> int:
    """Every container gets the same number of variables: each name, and once more where several containers have it."""
    holders: dict[str, set[int]] = {}
    names: set[str] = set()
    for at, container in enumerate(pod.containers):
        for port in container.ports:
            holders.setdefault(variable_part(port.name), set()).add(at)
    for at, port in enumerate(pod.ports):
        suffix = variable_part(port.name)
        whole = suffix or f"{at:05}"  # its number stands there, of five digits at most; it may have been another before
        names.add(PREFIX + whole)
        if not suffix or len(holders[suffix]) > 1:
            names.add(f"{PREFIX}{variable_part(port.container)}_{whole}")
    letters = sum(len(_encode(name)) for name in names)
    size = 0
    for container in pod.containers:
        each = _VARIABLE if container.env is None else _VARIABLE + _OPERATION
        ours = sum(1 for entry in container.env or () if (entry.get("name") or "").startswith(PREFIX))
        size += _CONTAINER + letters + each * len(names) + _REMOVAL * ours
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
    yield "metadata.ownerReferences", Bound.OWNERS, len(_list(metadata, "ownerReferences"))
    yield "metadata.managedFields", Bound.MANAGERS, len(_list(metadata, "managedFields"))


def _spec_sizes(spec: Any) -> Iterator[tuple[str, Bound, int]]:
    containers = [*_list(spec, "containers"), *_list(spec, "initContainers")]
    yield "spec.containers", Bound.CONTAINERS, len(containers)
    variables = sum(len(_list(container, "env")) for container in containers)
    yield "spec.containers", Bound.ENV, variables
    yield "spec.nodeSelector", Bound.SELECTOR, len(_entries(spec, "nodeSelector"))
    yield "spec.tolerations", Bound.TOLERATIONS, len(_list(spec, "tolerations"))
    yield "spec.securityContext.sysctls", Bound.SYSCTLS, len(_list(_map(spec, "securityContext"), "sysctls"))


def _affinity_sizes(spec: Any) -> Iterator[tuple[str, Bound, int]]:
    """Terms, and what is in them as long as they are not too many."""
    terms = _list(_map(_map(_map(spec, "affinity"), "nodeAffinity"), REQUIRED), "nodeSelectorTerms")
    yield AFFINITY, Bound.TERMS, len(terms)
    if len(terms) > Bound.TERMS.most:
        return
    keys = ("matchExpressions", "matchFields")
    yield AFFINITY, Bound.EXPRESSIONS, sum(len(_list(term, key)) for term in terms for key in keys)
    expressions = [each for term in terms for key in keys for each in _list(term, key)]
    yield AFFINITY, Bound.VALUES, sum(len(_list(each, "values")) for each in expressions)


def _long(field: str, value: str, most: int) -> Mistake:
    return mistake(Reason.INVALID_REQUEST, field, f"it has {len(value):,} characters, more than {most}")


def _map(parent: Any, key: str) -> Any:
    value = _at(parent, key)
    return {} if value is None or isinstance(value, list) else value


def _entries(parent: Any, key: str) -> dict[str, Any]:
    value = _at(parent, key)
    return value if isinstance(value, dict) else {}


def _list(parent: Any, key: str) -> list[Any]:
    value = _at(parent, key)
    return value if isinstance(value, list) else []


def _at(parent: Any, key: str) -> Any:
    return parent.get(key) if hasattr(parent, "get") else None
