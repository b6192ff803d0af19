"""Claims as JSON and back. Absent keys are zero values, so that a record stays short and old ones stay readable."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Bounds, Claim, ClaimId, ClaimPort, Owner, PodUid, State, bounds
from allocator.core.ports import Protocol

_encode = msgspec.json.Encoder().encode
_PORT_KEYS = ("container", "name", "container_port", "host_ip", "appeared")
_OPTIONAL_KEYS = ("node", "expires", "pod_uid", "settled_at")
_RARE_KEYS = ("priority", "may_preempt", "is_terminating")
_OWNER_KEYS = ("kind", "namespace", "name", "generate_name", "uid", "controller_uid", "description")


def encode_claim(claim: Claim) -> str:
    """One line of JSON."""
    owner = claim.owner
    record: dict[str, Any] = {
        "id": claim.id,
        "state": claim.state.value,
        "owner": {key: value for key in _OWNER_KEYS if (value := getattr(owner, key))},
        "ports": [_encode_port(port) for port in claim.ports],
        "created": claim.created,
    }
    if claim.constraints is not ANYWHERE:
        record["constraints"] = _encode_constraints(claim.constraints)
    for key in _OPTIONAL_KEYS:
        value = getattr(claim, key)
        if value is not None:
            record[key] = value
    if claim.range is not None:
        record["range"] = claim.range
    for key in _RARE_KEYS:
        value = getattr(claim, key)
        if value:
            record[key] = value
    return _encode(record).decode()


def decode_claim(text: str) -> Claim:
    """The claim that a line stands for.

    Raises:
        ValueError: the text is not what encode_claim writes.

    """
    try:
        record = json.loads(text)
        return Claim(
            id=ClaimId(_text(record["id"])),
            owner=Owner(**{key: _text(value) for key, value in record["owner"].items()}),
            state=State(record["state"]),
            ports=tuple(_decode_port(port) for port in record["ports"]),
            created=float(record["created"]),
            constraints=_decode_constraints(record.get("constraints", {})),
            node=NodeName(_text(record["node"])) if "node" in record else None,
            expires=float(record["expires"]) if "expires" in record else None,
            settled_at=float(record["settled_at"]) if "settled_at" in record else None,
            pod_uid=PodUid(_text(record["pod_uid"])) if "pod_uid" in record else None,
            range=_decode_range(record["range"]) if "range" in record else None,
            priority=int(record.get("priority", 0)),
            may_preempt=bool(record.get("may_preempt")),
            is_terminating=bool(record.get("is_terminating")),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a claim record: {error!r}") from error


def _encode_port(port: ClaimPort) -> dict[str, Any]:
    record: dict[str, Any] = {"protocol": port.protocol.value, "host_port": port.host_port}
    for key in _PORT_KEYS:
        value = getattr(port, key)
        if value:
            record[key] = value
    return record


def _decode_port(record: dict[str, Any]) -> ClaimPort:
    number = record["host_port"]
    if not isinstance(number, int) or not 1 <= number <= 65535:
        raise ValueError(f"{number!r} is no port")
    return ClaimPort(**{**record, "protocol": Protocol(record["protocol"])})


def _decode_range(record: list[int]) -> Bounds:
    low, high = record
    return bounds(int(low), int(high))


def _encode_constraints(constraints: Constraints) -> dict[str, Any]:
    record = {
        "node_name": constraints.node_name,
        "selector": dict(constraints.selector),
        "affinity": [
            {
                "expressions": [[r.key, r.operator, *r.values] for r in term.expressions],
                "fields": [[r.key, r.operator, *r.values] for r in term.fields],
            }
            for term in constraints.affinity
        ],
        "tolerations": [[t.key, t.operator, t.value, t.effect] for t in constraints.tolerations],
    }
    return {key: value for key, value in record.items() if value}


def _decode_constraints(record: dict[str, Any]) -> Constraints:
    return Constraints(
        node_name=NodeName(record["node_name"]) if "node_name" in record else None,
        selector=tuple(sorted(record.get("selector", {}).items())),
        affinity=tuple(
            Term(
                expressions=tuple(_requirement(parts) for parts in term["expressions"]),
                fields=tuple(_requirement(parts) for parts in term["fields"]),
            )
            for term in record.get("affinity", ())
        ),
        tolerations=tuple(
            Toleration(key=key, operator=operator, value=value, effect=effect)
            for key, operator, value, effect in record.get("tolerations", ())
        ),
    )


def _requirement(parts: list[str]) -> Requirement:
    return Requirement(key=parts[0], operator=parts[1], values=tuple(parts[2:]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
