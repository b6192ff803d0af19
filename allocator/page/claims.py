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


def selector(query: ClaimsQuery, is_unplaceable: IsUnplaceable) -> Callable[[Claim], bool]:
    """Whether a claim is selected. Asked of every claim: what costs more is asked last."""
    has = _finder(query.text)
    kind = "" if query.state == UNPLACEABLE else query.state

    def selects(claim: Claim) -> bool:
        if (query.namespace and query.namespace != claim.owner.namespace) or (query.node and query.node != claim.node):
            return False
        if kind and kind != kind_of(claim):
            return False
        return has(claim) and (query.state != UNPLACEABLE or is_unplaceable(claim))

    return selects


def _finder(text: str) -> Callable[[Claim], bool]:
    """A part of a name, namespace, kind, node or id, or of `namespace/name`; or the very number of a port."""
    if not text:
        return lambda _: True
    number = int(text) if text.isascii() and text.isdecimal() else -1
    is_qualified = "/" in text

    def has(claim: Claim) -> bool:
        owner = claim.owner
        name = owner.name or owner.generate_name or owner.description
        return (
            text in name
            or text in (claim.node or "")
            or text in owner.namespace
            or text in claim.id
            or text in owner.kind
            or (is_qualified and text in f"{owner.namespace}/{name}")
            or (number > 0 and any(port.host_port == number for port in claim.ports))
        )

    return has


def row(claim: Claim, is_unplaceable: IsUnplaceable, ahead: float) -> Row:
    """What is shown of a claim. `ahead`: seconds that the wall clock is ahead of the one by which claims end."""
    return {
        "id": claim.id,
        "state": kind_of(claim),
        "unplaceable": is_unplaceable(claim),
        "terminating": claim.is_terminating,
        "own_network": claim.own_network,
        "warnings": claim.warnings.split(",") if claim.warnings else [],
        "owner": owner_of(claim),
        "node": claim.node or "",
        "planned": claim.node is not None and not claim.is_settled,
        "ports": [
            {"name": port.name, "protocol": port.protocol.value, "number": port.host_port, "ip": port.host_ip}
            for port in claim.ports
        ],
        "created": at(claim.created),
        "expires": None if claim.expires is None else at(claim.expires + ahead),
    }


def owner_of(claim: Claim) -> Row:
    owner = claim.owner
    name = owner.name or (f"{owner.generate_name}*" if owner.generate_name else owner.description)
    return {"kind": owner.kind, "namespace": owner.namespace, "name": name}


def at(seconds: float) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
