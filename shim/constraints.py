"""Where a Pod may run, as the contract has it: read from the Pod's spec, decided on by the allocator."""

from __future__ import annotations

from collections.abc import Callable

from hostport.v1.allocator_pb2 import NodeConstraints, NodeRequirement
from shim.fields import Json, json_object, json_objects, text, text_map, texts

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERMS = f"spec.affinity.nodeAffinity.{_REQUIRED}"


def write_constraints(spec: Json, into: NodeConstraints) -> None:
    """Raises FieldError where a field has an impossible type."""
    into.node_name = text(spec, "nodeName", "spec")
    for key, value in text_map(spec, "nodeSelector", "spec").items():  # nearly always there is none
        into.node_selector[key] = value
    affinity = json_object(json_object(spec, "affinity", "spec"), "nodeAffinity", "spec.affinity")
    required = json_object(affinity, _REQUIRED, "spec.affinity.nodeAffinity")
    for _, path, raw in json_objects(required, "nodeSelectorTerms", _TERMS):
        term = into.required_affinity.add()
        _write_requirements(raw, "matchExpressions", path, term.match_expressions.add)
        _write_requirements(raw, "matchFields", path, term.match_fields.add)
    for _, path, raw in json_objects(spec, "tolerations", "spec"):
        into.tolerations.add(
            key=text(raw, "key", path),
            operator=text(raw, "operator", path),
            value=text(raw, "value", path),
            effect=text(raw, "effect", path),
        )


def _write_requirements(term: Json, key: str, path: str, add: Callable[..., NodeRequirement]) -> None:
    for _, where, raw in json_objects(term, key, path):
        add(key=text(raw, "key", where), operator=text(raw, "operator", where), values=texts(raw, "values", where))
