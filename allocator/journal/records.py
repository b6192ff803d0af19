"""Claims as JSON and back. Absent keys are zero values, so that a record stays short and old ones stay readable."""

from __future__ import annotations

import json
from sys import intern
from typing import Any

import msgspec

from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Bounds, Claim, ClaimId, ClaimPort, Owner, PodUid, State, bounds
from allocator.core.ports import Protocol
from allocator.core.sized import Sized


class _Port(msgspec.Struct, omit_defaults=True, gc=False):
    """A port as it is written. What is a zero value is left out."""

    protocol: Protocol
    host_port: int
    container: str = ""
    name: str = ""
    container_port: int = 0
    host_ip: str = ""
    appeared: bool = False


class _Owner(msgspec.Struct, omit_defaults=True, gc=False):
    """An owner likewise."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    generate_name: str = ""
    uid: str = ""
    controller_uid: str = ""
    description: str = ""


_ANYWHERE = msgspec.Raw(b"")
"""Left out, as it is the default."""


class _Record(msgspec.Struct, omit_defaults=True, gc=False):
    """A claim likewise. Its constraints are read for themselves: there are many claims and few constraints."""

    id: str
    state: State
    owner: _Owner
    ports: list[_Port]
    created: float
    constraints: msgspec.Raw = _ANYWHERE
    node: str | None = None
    expires: float | None = None
    pod_uid: str | None = None
    settled_at: float | None = None
    range: Bounds | None = None
    priority: int = 0
    may_preempt: bool = False
    is_terminating: bool = False
    own_network: bool = False
    warnings: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Record).decode


def encode_claim(claim: Claim) -> str:
    """One line of JSON."""
    owner = claim.owner
    record = _Record(
        claim.id,
        claim.state,
        _Owner(
            owner.kind,
            owner.namespace,
            owner.name,
            owner.generate_name,
            owner.uid,
            owner.controller_uid,
            owner.description,
        ),
        [
            _Port(p.protocol, p.host_port, p.container, p.name, p.container_port, p.host_ip, p.appeared)
            for p in claim.ports
        ],
        claim.created,
        _ANYWHERE if claim.constraints is ANYWHERE else msgspec.Raw(_encode(_plain(claim.constraints))),
        claim.node,
        claim.expires,
        claim.pod_uid,
        claim.settled_at,
        claim.range,
        claim.priority,
        claim.may_preempt,
        claim.is_terminating,
        claim.own_network,
        claim.warnings,
    )
    return _encode(record).decode()


def decode_claim(text: str | bytes) -> Claim:
    """The claim that a line stands for. What many claims have alike is one object, as in those that were asked for.

    Raises:
        ValueError: the text is not what encode_claim writes.

    """
    try:
        record = _decode(text)
        return Claim(
            id=ClaimId(record.id),
            owner=Owner.kept_once(record.owner),
            state=record.state,
            ports=tuple(map(_decode_port, record.ports)),
            created=record.created,
            constraints=_decode_constraints(bytes(record.constraints)) if record.constraints else ANYWHERE,
            node=None if record.node is None else NodeName(intern(record.node)),
            expires=record.expires,
            settled_at=record.settled_at,
            pod_uid=None if record.pod_uid is None else PodUid(record.pod_uid),
            range=None if record.range is None else bounds(*record.range),
            priority=record.priority,
            may_preempt=record.may_preempt,
            is_terminating=record.is_terminating,
            own_network=record.own_network,
            warnings=intern(record.warnings),
        )
    except (msgspec.DecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a claim record: {error!r}") from error


def _decode_port(port: _Port) -> ClaimPort:
    if not 1 <= port.host_port <= 65535:
        raise ValueError(f"{port.host_port} is no port")
    return ClaimPort(
        container=intern(port.container),
        name=intern(port.name),
        protocol=port.protocol,
        container_port=port.container_port,
        host_port=port.host_port,
        host_ip=intern(port.host_ip),
        appeared=port.appeared,
    )


def _plain(constraints: Constraints) -> dict[str, Any]:
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


_KEPT: Sized[bytes, Constraints] = Sized(16 << 20)
"""Constraints by their records: many claims have the same."""


def _decode_constraints(text: bytes) -> Constraints:
    constraints = _KEPT.get(text)
    if constraints is None:
        constraints = _read_constraints(text)
        _KEPT.put(text, constraints, len(text) + constraints.weight)
    return constraints


def _read_constraints(text: bytes) -> Constraints:
    record = json.loads(text)
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
