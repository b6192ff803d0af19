"""What a manifest says besides its Pods: Services, unknown kinds, annotations in wrong places. Pure.

Rules:

* Whoever writes the annotation where nobody reads it, or others of ours without it, is told, and so is whoever has a
  kind whose Pods are not known: to print nothing would say that all is well.
* A kind is that of its API group: a Job of another one has its templates elsewhere. Where it has one in the place of
  ours, it is read like ours.
* A template is where a map has a `spec` with containers. `--pod-template` names it: `spec.groups[].template`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hostport.services import Selecting, parse_service
from shim.annotations import ENABLED, in_vain
from shim.manifests import pods_of, template_pod
from shim.pods import FieldError, Json, as_object, json_object, text

TEMPLATES = {
    "Pod": "",
    "CronJob": "spec.jobTemplate.spec.template",
    **dict.fromkeys(
        ("Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job"), "spec.template"
    ),
}
"""Where the kinds that we know have their Pods."""

GROUPS = frozenset({"", "apps", "batch", "extensions"})
"""Those of the kinds that we know."""

DEEPEST = 16
_ELEMENT = re.compile(r"\[[0-9]+\]")
MOST_TEMPLATES = 8
"""Of one object that are told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that keeps Pods of the file from getting ports. `about` is kind and name."""

    about: str
    message: str

    def __str__(self) -> str:
        return f"{self.about}: {self.message}"


@dataclass(frozen=True, slots=True)
class Read:
    """What one document has."""

    pods: tuple[dict[str, Any], ...]
    services: tuple[Selecting, ...]
    faults: tuple[Fault, ...]


def read_document(document: Json, *, namespace: str, templates: Sequence[str]) -> Read:
    """`namespace` is that of objects without one; `templates` are the paths of Pod templates in unknown kinds.

    Raises:
        FieldError: the manifest has an impossible type.

    """
    kind = text(document, "kind", "")
    if kind.endswith("List") and isinstance(document.get("items"), list):
        of = kind.removesuffix("List")  # the items of a PodList need not say that they are Pods
        items = [{**({"kind": of} if of else {}), **as_object(item, "items[]")} for item in document["items"]]
        parts = [read_document(item, namespace=namespace, templates=templates) for item in items]
        return Read(
            tuple(pod for part in parts for pod in part.pods),
            tuple(service for part in parts for service in part.services),
            tuple(fault for part in parts for fault in part.faults),
        )
    if _is_namesake(document, kind):
        return _read_unknown(document, kind, namespace, templates)
    if kind == "Service":
        service = parse_service(document, namespace)
        return Read((), (service,) if service else (), tuple(_misplaced(document, kind, ())))
    if kind in TEMPLATES:
        pods = tuple(pods_of(document, namespace))
        return Read(pods, (), (*_misplaced(document, kind, (TEMPLATES[kind],)), *_in_vain(document, pods)))
    return _read_unknown(document, kind, namespace, templates)


def _is_namesake(document: Json, kind: str) -> bool:
    """Whether an object is of a kind that we know by name alone. One without an apiVersion is ours: it is in a list."""
    group, is_grouped, _ = text(document, "apiVersion", "").partition("/")
    if not is_grouped or group in GROUPS:
        return False
    return kind == "Service" or (kind in TEMPLATES and TEMPLATES[kind] not in _templates(document, "", 0))


def _in_vain(document: Json, pods: Sequence[Json]) -> Iterator[Fault]:
    """The annotations of Pods that do not ask."""
    for pod in pods:
        why = in_vain(json_object(json_object(pod, "metadata", ""), "annotations", "metadata"))
        if why:
            yield Fault(called(document), why)
            return


def _read_unknown(document: Json, kind: str, namespace: str, templates: Sequence[str]) -> Read:
    """A kind that we do not know: its Pods are those of the templates that are named."""
    paths = [each.strip(".").replace("[*]", "[]") for each in templates]
    pods = [template_pod(document, found, at, namespace) for path in paths for at, found in _found_at(document, path)]
    there = list(dict.fromkeys(_plain_path(path) for path in _templates(document, "", 0)))
    left = [path for path in there if path not in paths]
    faults = [*_misplaced(document, kind, tuple(there)), *_in_vain(document, pods)]
    if left:
        named = " ".join(f"--pod-template {path}" for path in left[:MOST_TEMPLATES])
        why = f"{kind} is not a kind whose Pods are known: name its templates with {named}"
        faults.append(Fault(called(document), why))
    return Read(tuple(pods), (), tuple(faults))


def called(document: Json) -> str:
    """An object as people know it: kind and name."""
    kind, name = text(document, "kind", ""), text(json_object(document, "metadata", ""), "name", "metadata")
    return f"{kind or 'an object'} {name}".strip()


def _misplaced(document: Json, kind: str, templates: Sequence[str]) -> Iterator[Fault]:
    """The annotation where nobody reads it."""
    right = {f"{path}.metadata.annotations".strip(".") for path in templates}
    for path in _maps_that_ask(document, "", 0):
        if _plain_path(path) not in right:
            where = next(iter(sorted(right)), "")
            remedy = f"it belongs into {where}" if where else f"a {kind} makes no Pods"
            yield Fault(called(document), f"{ENABLED} stands in {path}, where nobody reads it: {remedy}")


def _maps_that_ask(value: Any, path: str, depth: int) -> Iterator[str]:
    """The maps of annotations or labels that have the annotation."""
    for step, child in _children(value, path, depth):
        if step.endswith((".annotations", ".labels")) and isinstance(child, dict) and ENABLED in child:
            yield step
        yield from _maps_that_ask(child, step, depth + 1)


def _templates(value: Any, path: str, depth: int) -> Iterator[str]:
    """The places of Pod templates."""
    if path and isinstance(value, dict) and isinstance(value.get("spec"), dict):
        containers = value["spec"].get("containers")
        if isinstance(containers, list) and containers:
            yield path
            return
    for step, child in _children(value, path, depth):
        yield from _templates(child, step, depth + 1)


def _children(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        yield from ((f"{path}.{key}".strip("."), child) for key, child in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}[{at}]", child) for at, child in enumerate(value))


def _plain_path(path: str) -> str:
    """A path without the numbers of elements, as `--pod-template` has it."""
    return _ELEMENT.sub("[]", path)


def _found_at(document: Json, path: str) -> Iterator[tuple[str, Json]]:
    """What stands at a path, each with its own; nothing where there is none."""
    found: list[tuple[str, Any]] = [("", document)]
    for step in path.split("."):
        key = step.removesuffix("[]")
        found = [(f"{at}.{key}".strip("."), each[key]) for at, each in found if isinstance(each, dict) and key in each]
        if step.endswith("[]"):
            lists = [(at, each) for at, each in found if isinstance(each, list)]
            found = [(f"{at}[{n}]", element) for at, each in lists for n, element in enumerate(each)]
    for at, value in found:
        if not isinstance(value, dict):
            raise FieldError(at, "a Pod template", value)
        yield at, value
