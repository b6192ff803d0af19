"""The table of claims: which ones a query selects, and what a row shows. Pure; `views` walks over them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from allocator.core.claims import Claim
from allocator.page.queries import UNPLACEABLE, ClaimsQuery
from allocator.page.strips import kind_of

IsUnplaceable = Callable[[Claim], bool]
Row = dict[str, Any]


def selects(query: ClaimsQuery, claim: Claim, is_unplaceable: IsUnplaceable) -> bool:
    owner = claim.owner
    if (query.namespace and query.namespace != owner.namespace) or (query.node and query.node != claim.node):
        return False
    if query.state == UNPLACEABLE:
        return is_unplaceable(claim) and _has(query.text, claim)
    return query.state in {"", kind_of(claim)} and _has(query.text, claim)


def _has(text: str, claim: Claim) -> bool:
    """A part of `namespace/name`, of the kind, the node or the id; or the very number of a port."""
    if not text:
        return True
    if text.isdecimal() and any(text == str(port.host_port) for port in claim.ports):
        return True
    owner = claim.owner
    name = owner.name or owner.generate_name or owner.description
    return text in f"{owner.namespace}/{name} {owner.kind} {claim.node or ''} {claim.id}"


def row(claim: Claim, is_unplaceable: IsUnplaceable) -> Row:
    return {
        "id": claim.id,
        "state": kind_of(claim),
        "unplaceable": is_unplaceable(claim),
        "terminating": claim.is_terminating,
        "owner": owner_of(claim),
        "node": claim.node or "",
        "planned": claim.node is not None and not claim.is_settled,
        "ports": [
            {"name": port.name, "protocol": port.protocol.value, "number": port.host_port, "ip": port.host_ip}
            for port in claim.ports
        ],
        "created": at(claim.created),
        "expires": None if claim.expires is None else at(claim.expires),
    }


def owner_of(claim: Claim) -> Row:
    owner = claim.owner
    name = owner.name or (f"{owner.generate_name}*" if owner.generate_name else owner.description)
    return {"kind": owner.kind, "namespace": owner.namespace, "name": name}


def at(seconds: float) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
