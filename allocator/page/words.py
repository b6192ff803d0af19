"""The command line that gives the same answer as a view of the page."""

from __future__ import annotations

import shlex

from allocator.page.queries import ClaimsQuery, NodesQuery


def for_nodes(query: NodesQuery) -> str:
    return _line("hostport", "node") + _grep(query.text)


def for_node(name: str) -> str:
    return _line("hostport", "node", name)


def for_port(node: str, number: int) -> str:
    return _line("hostport", "who", node, str(number))


def for_claims(query: ClaimsQuery) -> str:
    words = ["hostport", "list"]
    for flag, value in (("-n", query.namespace), ("--node", query.node), ("--state", query.state)):
        if value:
            words += [flag, value]
    return _line(*words) + _grep(query.text)


def _line(*words: str) -> str:
    return shlex.join(words)


def _grep(text: str) -> str:
    return f" | grep -F -- {shlex.quote(text)}" if text else ""
