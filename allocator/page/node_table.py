"""The table of a node: everything that is open or given there, in order of number, and what its agent said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim
from allocator.core.foreign import ForeignHolder, ForeignKind, words_of
from allocator.core.holdings import foreign_holdings
from allocator.core.ledger import Ledger
from allocator.core.ports import WILDCARD, PortKey
from allocator.core.reserved import ReservedNumbers
from allocator.core.watch.listening import is_listening
from allocator.page import words
from allocator.page.claims import owner_of
from allocator.page.strips import kind_of
from hostport.meeting import Reach
from hostport.meeting import meeting as meeting_of
from hostport.timestamps import rfc3339

FOREIGN = {ForeignKind.SERVICE: "SERVICE", ForeignKind.PROCESS: "PROCESS", ForeignKind.RESERVED: "KEPT"}
"""The words for what holds a number without an allocation, beside the states of claims."""


class Held(NamedTuple):
    """A number or a block of a node, and who has it: a claim, or a foreign holder. `since`: by the wall clock."""

    key: PortKey
    claim: Claim | None
    foreign: ForeignHolder | None
    since: float | None

    @property
    def is_there(self) -> bool:
        """Whether it is more than a plan, or a number that nobody may have."""
        if self.claim is not None:
            return self.claim.is_settled
        return self.foreign is not None and self.foreign.kind is not ForeignKind.RESERVED


def held_on(ledger: Ledger, name: NodeName, ahead: float) -> list[Held]:
    """What a node holds, by protocol and number. `ahead`: seconds that the wall clock is ahead of the ledger's."""
    reserved = ReservedNumbers(ledger.rules.reserved, ledger.rules.reserved_for)
    held = [Held(key, claim, None, claim.settled_at or claim.created) for key, claim in ledger.nodes.port_map(name)]
    held += (
        Held(each.key, None, each.holder, None if each.since is None else each.since + ahead)
        for each in foreign_holdings(ledger.nodes, name, reserved)
    )
    return sorted(held, key=lambda one: (one.key.protocol.value, one.key.number, one.key.ip))


def meeting(held: Iterable[Held]) -> set[int]:
    """The places of those who meet: each has a number that another one who is there has, too."""
    return meeting_of(_reach(at, one) for at, one in enumerate(held) if one.is_there)


def _reach(at: int, one: Held) -> Reach:
    key, address = one.key, "" if one.key.ip == WILDCARD else one.key.ip
    return Reach(key.protocol.value, key.number, key.numbers[-1], address, at, one.claim.id if one.claim else "")


def rows(ledger: Ledger, name: NodeName, ahead: float, most: int) -> tuple[list[dict[str, Any]], int]:
    """The first rows of a node's table, so many at most, and how many there are besides."""
    held = held_on(ledger, name, ahead)
    meet = meeting(held)
    shown = [_row(ledger, name, one, meets=at in meet) for at, one in enumerate(held[:most])]
    return shown, max(0, len(held) - most)


def _row(ledger: Ledger, name: NodeName, held: Held, *, meets: bool) -> dict[str, Any]:
    key, claim, foreign = held.key, held.claim, held.foreign
    row: dict[str, Any] = {
        "protocol": key.protocol.value,
        "number": key.number,
        "last": key.numbers[-1],
        "ip": key.ip,
        "conflict": meets,
        "since": None if held.since is None else rfc3339(held.since),
        "command": words.for_port(name, key.number, key.protocol.value),
    }
    if claim is not None:
        listening = is_listening(claim, key, ledger.nodes.sockets)
        return row | {
            "state": kind_of(claim),
            "planned": not claim.is_settled,
            "owner": owner_of(claim),
            "id": claim.id,
            "listening": listening,
        }
    return row | {"planned": False, "id": "", **_of_foreign(foreign)}


def _of_foreign(foreign: ForeignHolder | None) -> dict[str, Any]:
    if foreign is None:
        return {}
    name = foreign.name
    if foreign.kind is ForeignKind.PROCESS and not name:
        name = words_of(foreign, asker="", discloses=True)
    elif foreign.kind is ForeignKind.RESERVED and not name:
        name = "nobody who is known"
    owner = {"kind": foreign.kind.value, "namespace": foreign.namespace, "name": name}
    return {
        "state": FOREIGN[foreign.kind],
        "owner": owner,
        "listening": True if foreign.kind is ForeignKind.PROCESS else None,
    }


def report_of(ledger: Ledger, name: NodeName, ahead: float) -> dict[str, Any] | None:
    """What the agent of a node said; None where none ever did."""
    said = ledger.nodes.last_report(name)
    return said and {
        "at": rfc3339(said.at + ahead),
        "current": said.is_current,
        "ephemeral": list(said.ephemeral) if said.ephemeral else None,
        "reserves": said.reserves,
        "foreign": said.undeclared,
    }


def foreign_words(holders: Iterable[ForeignHolder]) -> Iterator[str]:
    """What foreign holders are called in a sentence; whoever sees the page sees every name."""
    return (words_of(holder, asker="", discloses=True) for holder in holders)
