"""Where a Pod may run, as the contract has it: read from the Pod's spec, decided on by the allocator."""

from __future__ import annotations

from hostport.v1.allocator_pb2 import NodeConstraints, NodeRequirement, NodeTerm, Toleration
from shim.fields import Json, json_object, json_objects, text, text_map, texts

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERMS = f"spec.affinity.nodeAffinity.{_REQUIRED}"


def read_constraints(spec: Json) -> NodeConstraints:
    """Raises FieldError where a field has an impossible type."""
    affinity = json_object(json_object(spec, "affinity", "spec"), "nodeAffinity", "spec.affinity")
    required = json_object(affinity, _REQUIRED, "spec.affinity.nodeAffinity")
    return NodeConstraints(
        node_name=text(spec, "nodeName", "spec"),
        node_selector=text_map(spec, "nodeSelector", "spec"),
        required_affinity=[_term(raw, path) for _, path, raw in json_objects(required, "nodeSelectorTerms", _TERMS)],
        tolerations=[_toleration(raw, path) for _, path, raw in json_objects(spec, "tolerations", "spec")],
    )


def _term(raw: Json, path: str) -> NodeTerm:
    return NodeTerm(
        match_expressions=_requirements(raw, "matchExpressions", path),
        match_fields=_requirements(raw, "matchFields", path),
    )


def _requirements(term: Json, key: str, path: str) -> list[NodeRequirement]:
    return [
        NodeRequirement(
            key=text(raw, "key", where), operator=text(raw, "operator", where), values=texts(raw, "values", where)
        )
        for _, where, raw in json_objects(term, key, path)
    ]


def _toleration(raw: Json, path: str) -> Toleration:
    return Toleration(
        key=text(raw, "key", path),
        operator=text(raw, "operator", path),
        value=text(raw, "value", path),
        effect=text(raw, "effect", path),
    )
