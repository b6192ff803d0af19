"""The command line that gives the same answer as a view of the page, and the sentence that answers a search."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from allocator.core.claims import Claim, ClaimPort, State
from allocator.page.finding import Question
from allocator.page.queries import UNPLACEABLE, ClaimsQuery, NodesQuery
from allocator.page.strips import OUTSIDER, kind_of
from hostport.contract.words import format_run

LOG = "kubectl -n hostport-system logs deploy/hostport-allocator"
MARKS = {
    OUTSIDER: " | grep external",
    UNPLACEABLE: " | grep unplaceable",
    State.BOUND.value: " | grep -v external",
    State.CONFIRMED.value: " | grep -v external",
}
"""What is no state of the contract is a mark in the list, and Pods that never asked stand in a state as well."""


def for_nodes(query: NodesQuery) -> str:
    return "hostport node" + _grep(query.text)


def for_node(name: str) -> str:
    return shlex.join(["hostport", "node", name])


def for_port(node: str, number: int, protocol: str) -> str:
    return shlex.join(["hostport", "who", node, f"{number}/{protocol}"])


def for_claims(query: ClaimsQuery) -> str:
    """`hostport list` with the flags of a query; `grep` does what it has no flag for."""
    words = ["hostport", "list", *(["-n", query.namespace] if query.namespace else ["-A"])]
    if query.node:
        words += ["--node", query.node]
    if query.state in State.__members__:
        words += ["--state", query.state]
    return shlex.join(words) + MARKS.get(query.state, "") + "".join(_grep(word) for word in query.text.split())


def for_decisions(results: frozenset[str]) -> str:
    """Decisions are remembered by the log; the API has none of them."""
    wanted = "".join(f' | grep \'"result":"{result}"\'' for result in sorted(results))
    return f'{LOG} | grep \'"message":"allocate"\'{wanted}'


KEPT = " It is never handed out (--reserved-ports)."


def port_on_node(
    asked: Question,
    holders: Sequence[Claim],
    foreign: Iterable[str],
    is_kept: bool,  # noqa: FBT001
) -> dict[str, Any]:
    """Who holds a port on a node. Gives `text` and `command`; so do the others below.

    foreign: what those are called who hold it without an allocation.
    """
    who = "; ".join([*(_holder_name(claim) for claim in holders), *foreign])
    text = f"{asked.port} on {asked.node} is held by {who}." if who else f"{asked.port} on {asked.node} is free."
    return {
        "text": text + (KEPT if is_kept else ""),
        "command": for_port(asked.node, asked.number, asked.protocol or _protocol(asked, holders)),
    }


def port_anywhere(asked: Question, holders: Sequence[Claim], is_kept: bool) -> dict[str, Any]:  # noqa: FBT001
    """On how many nodes a port is held, and by whom where that is one."""
    nodes = sorted({claim.node for claim in holders if claim.node})
    if not holders:
        text = f"{asked.port} is held on no node."
    elif len(holders) == 1:
        text = f"{asked.port} is held by {_holder_name(holders[0])}, on {nodes[0] if nodes else 'no node yet'}."
    else:
        text = f"{asked.port} is held on {_count(len(nodes), 'node')}, by {_count(len(holders), 'claim')}."
    return {"text": text + (KEPT if is_kept else ""), "command": for_claims(ClaimsQuery(text=asked.port))}


def found(first: Sequence[Claim], matching: int, command: str) -> dict[str, Any]:
    """How many claims a search finds; what the one holds where it is one."""
    if matching == 1 and first:
        (claim,) = first
        ports = ", ".join(f"{numbers(port)}/{port.protocol.value}" for port in claim.ports[:8])
        more = f" and {len(claim.ports) - 8} more" if len(claim.ports) > 8 else ""
        text = f"{_holder_name(claim)} holds {ports}{more} on {claim.node or 'no node yet'}."
    else:
        text = f"{_count(matching, 'claim')} match." if matching else "No claim is like that."
    return {"text": text, "command": command}


def _holder_name(claim: Claim) -> str:
    owner = claim.owner
    name = owner.name or (f"{owner.generate_name}*" if owner.generate_name else owner.description)
    return f"{owner.kind} {owner.namespace}/{name}".replace(" /", " ") + f" ({kind_of(claim)})"


def numbers(port: ClaimPort) -> str:
    """`7000`, or a block as `20000-20099`."""
    return format_run(port.host_port, port.count)


def _protocol(asked: Question, holders: Sequence[Claim]) -> str:
    """That of the first holder, since the command line takes TCP where none is named."""
    held = (port.protocol.value for claim in holders for port in claim.ports if asked.number in port.key.numbers)
    return next(held, "TCP")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _grep(text: str) -> str:
    return f" | grep -F -- {shlex.quote(text)}" if text else ""
