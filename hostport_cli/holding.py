"""What is open or given on a node, as rows for people. Pure: messages of the API in, text out.

Rules:

* A block is one row, a range of numbers.
* Two holders *meet* who have a number in common, under one protocol and on addresses that conflict, where both are
  there: planned numbers and numbers of --reserved-ports meet nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hostport.meeting import Reach, meeting
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.printing import Column

THERE = frozenset({pb.STATE_BOUND, pb.STATE_LEASED})


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row of the table of a node. `meets`: somebody else has a number of it."""

    held: pb.HeldPort
    meets: bool = False


def rows(ports: Iterable[pb.HeldPort]) -> list[HeldRow]:
    """The rows of a node's port map, in its order."""
    listed = list(ports)
    meet = meeting(_held_reach(at, held) for at, held in enumerate(listed) if _is_there(held))
    return [HeldRow(held, at in meet) for at, held in enumerate(listed)]


def _held_reach(at: int, held: pb.HeldPort) -> Reach:
    protocol, address = wording.protocol(held.protocol), wording.address(held)
    return Reach(protocol, held.host_port, wording.last(held), address, at, held.allocation_id)


def _is_there(held: pb.HeldPort) -> bool:
    if held.HasField("foreign"):
        return held.foreign.kind != pb.ForeignHolder.KIND_RESERVED
    return held.state in THERE


def known_by(held: pb.HeldPort) -> str:
    """How we know of a holder: by its Pod, its lease, its Service, its process, or the list of reserved numbers."""
    if held.HasField("foreign"):
        return pb.ForeignHolder.Kind.Name(held.foreign.kind).removeprefix("KIND_").lower()
    return "lease" if held.state == pb.STATE_LEASED else "pod"


def holder(held: pb.HeldPort) -> str:
    """Who holds it."""
    return wording.foreign(held.foreign) if held.HasField("foreign") else wording.owner(held.owner, qualified=True)


def _state(row: HeldRow) -> str:
    state = "" if row.held.HasField("foreign") else wording.state_name(row.held.state)
    return " ".join(filter(None, [state, "(conflict)" if row.meets else ""]))


def columns(now: float) -> list[Column[HeldRow]]:
    """The columns of the table of a node. `now`: seconds since the epoch."""
    return [
        Column("NUMBER", lambda row: wording.numbers(row.held)),
        Column("PROTOCOL", lambda row: wording.protocol(row.held.protocol)),
        Column("ADDRESS", lambda row: wording.address(row.held) or "*"),
        Column("HOLDER", lambda row: holder(row.held)),
        Column("KNOWN BY", lambda row: known_by(row.held)),
        Column("STATE", _state),
        Column("SINCE", lambda row: wording.since(row.held.since, now) if row.held.HasField("since") else ""),
        Column("LISTENING", lambda row: wording.listening(row.held.listening)),
        Column("DESCRIPTION", lambda row: row.held.owner.description, is_wide=True),
        Column("ALLOCATION", lambda row: row.held.allocation_id, is_wide=True),
    ]


def report_of(node: pb.Node, now: float) -> str:
    """What the agent of a node said, in one line; empty where none ever did. `now`: seconds since the epoch."""
    if not node.HasField("report"):
        return ""
    report = node.report
    age = wording.since(report.report_time, now)
    parts = [f"Reported {age} ago" if report.current else f"Reported {age} ago, which is old: is its agent there?"]
    if report.HasField("ephemeral_range"):
        low, high = report.ephemeral_range.min, report.ephemeral_range.max
        kept = ", never a number that is given (--reserve)" if report.reserves else ""
        parts.append(f"outgoing connections take {low}-{high}{kept}")
    count = report.foreign_port_count
    parts.append(f"{count} open {'number' if count == 1 else 'numbers'} of no Pod")
    return f"{node.name}: {'; '.join(parts)}."
