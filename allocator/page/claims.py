"""The table of claims: which ones a query selects, and what a row shows. Pure; `views` walks over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allocator.core.claims import Claim
from allocator.core.ledger import Ledger
from allocator.core.watch.listening import is_listening
from allocator.page.finding import finder
from allocator.page.queries import UNPLACEABLE, ClaimsQuery
from allocator.page.strips import kind_of
from hostport.timestamps import rfc3339

IsUnplaceable = Callable[[Claim], bool]
Row = dict[str, Any]


def selector(query: ClaimsQuery, is_unplaceable: IsUnplaceable) -> Callable[[Claim], bool]:
    """Whether a claim is selected. Asked of every claim: what costs more is asked last."""
    has = finder(query.text)
    kind = "" if query.state == UNPLACEABLE else query.state

    def selects(claim: Claim) -> bool:
        if (query.namespace and query.namespace != claim.owner.namespace) or (query.node and query.node != claim.node):
            return False
        if kind and kind != kind_of(claim):
            return False
        return has(claim) and (query.state != UNPLACEABLE or is_unplaceable(claim))

    return selects


def row(claim: Claim, ledger: Ledger, ahead: float) -> Row:
    """What is shown of a claim. `ahead`: seconds that the wall clock is ahead of the one by which claims end."""
    sockets = ledger.listening.sockets
    return {
        "id": claim.id,
        "state": kind_of(claim),
        "unplaceable": ledger.claims.is_unplaceable(claim),
        "terminating": claim.is_terminating,
        "own_network": claim.own_network and not claim.unmanaged,  # the page says by which annotation
        "warnings": claim.warnings.split(",") if claim.warnings else [],
        "owner": owner_of(claim),
        "node": claim.node or "",
        "planned": claim.node is not None and not claim.is_settled,
        "ports": [
            {
                "name": port.name,
                "protocol": port.protocol.value,
                "number": port.host_port,
                "last": port.host_port + port.count - 1,
                "ip": port.host_ip,
                "listening": is_listening(claim, port.key, sockets),
            }
            for port in claim.ports
        ],
        "created": rfc3339(claim.created),
        "expires": None if claim.expires is None else rfc3339(claim.expires + ahead),
    }


def owner_of(claim: Claim) -> Row:
    """Kind, namespace and name of a claim's owner. A generateName ends in `*`; a lease may have a description alone."""
    owner = claim.owner
    name = owner.name or (f"{owner.generate_name}*" if owner.generate_name else owner.description)
    return {"kind": owner.kind, "namespace": owner.namespace, "name": name}
