"""Who holds numbers of a node without an allocation: Services, processes, and for whom numbers are reserved. Pure.

Claims are in `NodesView.port_map`; both together are everything that is open or given on a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from allocator.core.candidates import NodeName
from allocator.core.foreign import ForeignHolder, ForeignKind
from allocator.core.ports import WILDCARD, PortKey, number_of, protocol_of
from allocator.core.reserved import ReservedNumbers
from allocator.core.sockets import Listener
from allocator.core.view import NodesView


class ForeignHolding(NamedTuple):
    """What somebody holds without an allocation. `since`: of processes, in seconds of the ledger's clock."""

    key: PortKey
    holder: ForeignHolder
    since: float | None = None


def foreign_holdings(nodes: NodesView, name: NodeName, reserved: ReservedNumbers) -> list[ForeignHolding]:
    """What is held on a node without an allocation, in no order. Reserved numbers are runs, one for each owner."""
    return [
        *_of_services(nodes),
        *(ForeignHolding(key, process(listener), since) for key, listener, since in nodes.foreign_on(name)),
        *(
            ForeignHolding(PortKey(WILDCARD, protocol, first, count), reserved_for(owner))
            for first, count, protocol, owner in reserved.runs()
        ),
    ]


def _of_services(nodes: NodesView) -> Iterator[ForeignHolding]:
    for slot, holders in nodes.services.holders.items():
        for holder in holders:
            yield ForeignHolding(PortKey(WILDCARD, protocol_of(slot), number_of(slot)), holder)


def foreign_holders(nodes: NodesView, name: NodeName, key: PortKey, reserved: ReservedNumbers) -> list[ForeignHolder]:
    """Who holds one number of a node without an allocation, on whatever address, each once.

    A number is reserved under every protocol.
    """
    found = [each.holder for each in foreign_holdings(nodes, name, ReservedNumbers()) if each.key.meets(key)]
    if reserved.numbers >> key.number & 1:
        found.append(reserved_for(reserved.owners.get(key.number, "")))
    return list(dict.fromkeys(found))


def reserved_for(owner: str) -> ForeignHolder:
    """The holder that a reserved number has. `owner`: the program that it is reserved for; empty: not known."""
    return ForeignHolder(kind=ForeignKind.RESERVED, name=owner)


def process(listener: Listener) -> ForeignHolder:
    """The holder that a socket is whose number nobody declares."""
    return ForeignHolder(kind=ForeignKind.PROCESS, name=listener.process, user=listener.uid)
