"""The command line that gives the same answer as a view of the page."""

from __future__ import annotations

import shlex

from allocator.core.claims import State
from allocator.page.queries import UNPLACEABLE, ClaimsQuery, NodesQuery
from allocator.page.strips import OUTSIDER

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
    words = ["hostport", "list", *(["-n", query.namespace] if query.namespace else ["-A"])]
    if query.node:
        words += ["--node", query.node]
    if query.state in State.__members__:
        words += ["--state", query.state]
    return shlex.join(words) + MARKS.get(query.state, "") + _grep(query.text)


def for_decisions(results: frozenset[str]) -> str:
    """Decisions are remembered by the log; the API has none of them."""
    wanted = "".join(f' | grep \'"result":"{result}"\'' for result in sorted(results))
    return f'{LOG} | grep \'"message":"allocate"\'{wanted}'


def _grep(text: str) -> str:
    return f" | grep -F -- {shlex.quote(text)}" if text else ""
