"""The port map of a node as messages: the ports of claims, and what is held there without an allocation.

Rules:

* A map has an order: protocol, number, address, allocation; who has none comes first.
* Whoever may ask for the map of a node may see every namespace: nobody's name is left out.
* Whether somebody listens is said of claims as `core.watch.listening` says it; a process listens, or it would hold
  nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from operator import itemgetter

from allocator.core.claims import Claim, ClaimPort
from allocator.core.foreign import ForeignKind
from allocator.core.holdings import ForeignHolding
from allocator.core.ports import WILDCARD, Protocol
from allocator.core.watch.listening import OpenSockets, is_listening
from allocator.wire import PROTOCOLS, STATES, to_listening, write_foreign, write_owner, write_timestamp
from hostport.v1 import allocator_pb2 as pb

HeldRow = tuple[int, str, str, ClaimPort | ForeignHolding, Claim | None]
"""A port of a claim, or what a foreign holder has, behind what it is sorted by: protocol and number, address, claim."""

_RANK = itemgetter(0, 1, 2)
_BY_NAME = {protocol: at for at, protocol in enumerate(sorted(Protocol, key=lambda each: each.value))}


def held_ports(claims: Iterable[Claim]) -> list[HeldRow]:
    """Every port of some claims, in order."""
    held: Iterator[HeldRow] = (
        (_BY_NAME[p.protocol] << 16 | p.host_port, p.key.ip, claim.id, p, claim)
        for claim in claims
        for p in claim.ports
    )
    return sorted(held, key=_RANK)


def foreign_ports(holdings: Iterable[ForeignHolding]) -> list[HeldRow]:
    """What is held without an allocation, in order."""
    held: Iterator[HeldRow] = (
        (_BY_NAME[each.key.protocol] << 16 | each.key.number, each.key.ip, "", each, None) for each in holdings
    )
    return sorted(held, key=_RANK)


def merged(held: Iterable[list[HeldRow]]) -> Iterator[HeldRow]:
    """Several of what `held_ports` and `foreign_ports` gave, as one in order."""
    return merge(*held, key=_RANK)


def write_held(held: HeldRow, into: pb.HeldPort, sockets: OpenSockets, *, ahead: float) -> None:
    """Writes a row into a message that is empty. `ahead`: seconds that the wall clock is ahead of the ledger's."""
    *_, what, claim = held
    if isinstance(what, ForeignHolding):
        _write_foreign(what, into, ahead)
    elif claim is not None:
        _write_port(what, claim, into, sockets)


def _write_foreign(held: ForeignHolding, into: pb.HeldPort, ahead: float) -> None:
    key = held.key
    into.protocol = PROTOCOLS[key.protocol]
    into.host_port = key.number
    into.host_ip = "" if key.ip == WILDCARD else key.ip
    if key.length > 1:
        into.count = key.length
    write_foreign(held.holder, into.foreign)
    if held.holder.kind is ForeignKind.PROCESS:
        into.listening = pb.LISTENING_YES
    if held.since is not None:
        write_timestamp(held.since + ahead, into.since)


def _write_port(port: ClaimPort, claim: Claim, into: pb.HeldPort, sockets: OpenSockets) -> None:
    into.protocol = PROTOCOLS[port.protocol]
    into.host_port = port.host_port
    into.host_ip = port.host_ip
    if port.count > 1:
        into.count = port.count
    into.allocation_id = claim.id
    into.state = STATES[claim.state]
    write_owner(claim.owner, into.owner)
    into.listening = to_listening(is_listening(claim, port.key, sockets))
    write_timestamp(claim.settled_at or claim.created, into.since)
