"""What the page shows, as data: one function for each view. Every view names the command line with the same answer.

The walk over all claims that a filter needs goes in slices, one walk at a time; who asks the same within a second gets
the same answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from allocator.core.candidates import NodeName
from allocator.core.claims import LIVE_STATES, Claim, ClaimId
from allocator.core.foreign import ForeignHolder
from allocator.core.holdings import foreign_holders
from allocator.core.ports import WILDCARD, PortKey, Protocol
from allocator.core.reserved import ReservedNumbers
from allocator.core.watch.replanner import IncidentKind
from allocator.decisions import Decision, Decisions
from allocator.engine import Engine
from allocator.health import HealthSnapshot, InstanceInfo
from allocator.page import claims, finding, node_table, words
from allocator.page.queries import CLAIMS_PAGE, NODES_PAGE, UNPLACEABLE, ClaimsQuery, NodesQuery, Sort
from allocator.page.strips import OUTSIDER, Axis, Board, Strip
from allocator.slices import in_slices
from hostport.contract import defaults
from hostport.timestamps import rfc3339
from hostport.version import DOCS

MOST_BOARDS = 4
MOST_MAPPED = 2000  # nodes; the map of more would be no map
MOST_PORTS = 1000
SHOWN_DECISIONS = 60
FRESH_SECONDS = 1.0
MOST_ANSWERS = 32
MOST_WAITING = 16
MOST_TOLD = 10_000  # claims that a sentence counts the nodes of
DEFAULT_AXIS = Axis(defaults.MIN_PORT, defaults.MAX_PORT)  # what a Pod gets that names no range

View = dict[str, Any]


class BusyError(Exception):
    """Too many readers wait for a walk over the claims."""


@dataclass(slots=True, kw_only=True)
class Views:
    """See the module."""

    engine: Engine
    decisions: Decisions
    info: InstanceInfo
    health: Callable[[], HealthSnapshot]
    _boards: OrderedDict[Axis, Board] = field(default_factory=OrderedDict)
    _answers: OrderedDict[Hashable, tuple[float, int, View]] = field(default_factory=OrderedDict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    # -- the header

    def status(self, viewers: int) -> View:
        """The header: health, counts of claims, and what tells a reader that the other views have changed.

        viewers: how many follow the page.
        """
        engine, tally, health = self.engine, self.engine.ledger.claims.tally(), self.health()
        lag = health.watch.lag if health.watch else None
        has_duty = health.holds_lease or bool(health.served_by)  # who stands by is as it should be, and notes it
        return {
            "healthy": not any(health.checks.values()) and has_duty,
            "checks": {**health.checks, "lease": None if has_duty else "the Lease is not ours: we answer nothing"},
            "notes": list(health.notes),
            "served_by": health.served_by,
            "manual": DOCS,
            "version": self.info.version,
            "instance": self.info.name,
            "cluster": self.info.cluster,
            "started": rfc3339(self.info.started),
            "epoch": self.info.epoch,
            "certificates": {name: rfc3339(end) for name, end in health.certificates.items()},
            "authorities": {name: rfc3339(end) for name, end in health.authorities.items()},
            "now": rfc3339(engine.clock.wall()),
            "watch_age_seconds": None if lag is None or lag == float("inf") else round(lag, 1),
            "claims": {
                **{state.value: tally.states.get(state, 0) for state in LIVE_STATES},
                OUTSIDER: tally.unmanaged,
                UNPLACEABLE: tally.unplaceable,
            },
            "nodes": tally.known_nodes,
            "drift": {
                "contradicted": tally.contradictions,
                "held_twice": tally.utilization.held_twice,
                "unsaved": health.unsaved,
            },
            "incidents": {kind.value: engine.maintenance.incidents[kind] for kind in IncidentKind},
            "ranges": [f"{low}-{high}" for low, high in engine.ledger.claims.ranges()],
            "revision": {"claims": engine.ledger.nodes.changes, "decisions": self.decisions.total},
            "viewers": viewers,
            "command": "hostport check",
        }

    # -- nodes

    async def nodes(self, query: NodesQuery) -> View:
        """A page of the table of nodes, and the map of all of them on one range of numbers."""
        board = await self._board(query.axis or self._usual_axis())
        names = board.names(text=query.text, fullest_first=query.sort is Sort.FULLEST)
        first, pages = _page_start(query.page, len(names), NODES_PAGE)
        shown = names[first : first + NODES_PAGE]
        return {
            "range": f"{board.axis.low}-{board.axis.high}",
            "axis": _axis(board),
            "size": board.size,
            "total": len(board.strips),
            "matching": len(names),
            "page": first // NODES_PAGE + 1,
            "pages": pages,
            "used": sum(strip.used for strip in board.strips.values()),
            "counts": {kind: counts for kind, counts in board.totals.items() if any(counts)},
            "tenths": board.tenths(),
            "map": list(board.shares()) if len(board.strips) <= MOST_MAPPED else None,
            "rows": [self._node_row(name, board.strips[name]) for name in shown],
            "command": words.for_nodes(query),
        }

    async def node(self, name: str, axis: Axis | None) -> View | None:
        """One node and everything that is open or given there; None where nobody knows it."""
        ledger, node = self.engine.ledger, NodeName(name)
        board = await self._board(axis or self._usual_axis())
        if node not in board.strips:
            return None
        ports, more = node_table.rows(ledger, node, self.engine.clock.ahead, MOST_PORTS)
        return {
            **self._node_row(node, board.strips[node]),
            "range": f"{board.axis.low}-{board.axis.high}",
            "axis": _axis(board),
            "size": board.size,
            "address": ledger.nodes.address(node).address,
            "report": node_table.report_of(ledger, node, self.engine.clock.ahead),
            "ports": ports,
            "more": more,
            "command": words.for_node(name),
        }

    def _node_row(self, name: NodeName, strip: Strip) -> View:
        return {
            "name": name,
            "known": self.engine.ledger.nodes.is_known(name),
            "claims": strip.claims,
            "held": strip.held,
            "used": strip.used,
            "totals": strip.totals(),
            "counts": {kind: list(counts) for kind, counts in strip.counts.items()},
        }

    def _usual_axis(self) -> Axis:
        ranges = self.engine.ledger.claims.ranges()
        return Axis(*ranges[0]) if ranges else DEFAULT_AXIS

    async def _board(self, axis: Axis) -> Board:
        board = self._boards.pop(axis, None) or Board(self.engine.ledger, axis)
        self._boards[axis] = board
        if len(self._boards) > MOST_BOARDS:
            self._boards.popitem(last=False)
        await board.refresh()
        return board

    # -- claims

    async def claims(self, query: ClaimsQuery) -> View:
        """What changed last comes first.

        Raises:
            BusyError: too many others wait.

        """
        if query.is_open:
            return self._every_claim(query)
        return await self._shared(query, lambda: self._matching_claims(query))

    def _every_claim(self, query: ClaimsQuery) -> View:
        ledger = self.engine.ledger
        first, _ = _page_start(query.page, len(ledger.claims), CLAIMS_PAGE)
        return self._claims_view(query, ledger.claims.latest(first, CLAIMS_PAGE), len(ledger.claims))

    async def _matching_claims(self, query: ClaimsQuery) -> View:
        ledger = self.engine.ledger
        selects = claims.selector(query, ledger.claims.is_unplaceable)
        matching: list[ClaimId] = []

        def look(ids: Sequence[ClaimId]) -> None:
            matching.extend(claim.id for claim in self._claims(ids) if selects(claim))

        await in_slices(self._ids(query), look)
        matching.reverse()
        first, _ = _page_start(query.page, len(matching), CLAIMS_PAGE)
        view = self._claims_view(query, matching[first : first + CLAIMS_PAGE], len(matching))
        return view | {"answer": await self._answer(query, matching)}

    async def _answer(self, query: ClaimsQuery, matching: Sequence[ClaimId]) -> View | None:
        """A sentence with the answer to a search, and the command that gives it; None where nothing is searched."""
        asked = finding.question(query.text)
        if not query.text:
            return None
        if asked and asked.node:
            node = NodeName(asked.node)
            if self.engine.ledger.nodes.is_known(node) or self.engine.ledger.nodes.port_map(node):
                foreign = node_table.foreign_words(self._foreign(node, asked))
                return words.port_on_node(asked, self._holders(node, asked), foreign, self._is_kept(asked.number))
            if asked.is_named_so and not matching:
                return {"text": f"No node is called {asked.node}.", "command": words.for_nodes(NodesQuery())}
        if asked and not asked.node and len(matching) <= MOST_TOLD:
            (word,) = finding.words_of(query.text)  # it names no node, so that there is no other
            holding: list[Claim] = []
            await in_slices(matching, lambda ids: holding.extend(filter(word.has_port, self._claims(ids))))
            return words.port_anywhere(asked, holding, self._is_kept(asked.number))
        return words.found(self._claims(matching[:1]), len(matching), words.for_claims(query))

    def _claims(self, ids: Sequence[ClaimId]) -> list[Claim]:
        """Those that still stand."""
        return [claim for claim in map(self.engine.ledger.claims.get, ids) if claim is not None]

    def _holders(self, node: NodeName, asked: finding.Question) -> list[Claim]:
        held = self.engine.ledger.nodes.port_map(node)
        claims = (
            claim for key, claim in held if asked.number in key.numbers and asked.protocol in {"", key.protocol.value}
        )
        return list({claim.id: claim for claim in claims}.values())

    def _foreign(self, node: NodeName, asked: finding.Question) -> list[ForeignHolder]:
        """Who holds a port there without an allocation; the numbers of --reserved-ports are said apart."""
        nodes = self.engine.ledger.nodes
        keys = [PortKey(WILDCARD, each, asked.number) for each in Protocol if asked.protocol in {"", each.value}]
        found = (foreign_holders(nodes, node, key, ReservedNumbers()) for key in keys)
        return list(dict.fromkeys(holder for some in found for holder in some))

    def _is_kept(self, number: int) -> bool:
        """Whether the number is never handed out (`--reserved-ports`)."""
        return bool(self.engine.ledger.rules.reserved >> number & 1)

    def _ids(self, query: ClaimsQuery) -> list[ClaimId]:
        """Those that have to be looked at, what changed last at the end; where a node is named, its own by age."""
        ledger = self.engine.ledger
        if not query.node:
            return ledger.claims.in_order_of_change()
        held = {claim.id: claim.created for _, claim in ledger.nodes.held_on(NodeName(query.node))}
        return sorted(held, key=held.__getitem__)

    def _claims_view(self, query: ClaimsQuery, ids: list[ClaimId], matching: int) -> View:
        ledger = self.engine.ledger
        first, pages = _page_start(query.page, matching, CLAIMS_PAGE)
        return {
            "matching": matching,
            "page": first // CLAIMS_PAGE + 1,
            "pages": pages,
            "rows": [claims.row(claim, ledger, self.engine.clock.ahead) for claim in self._claims(ids)],
            "command": words.for_claims(query),
            "answer": None,
        }

    async def _shared(self, key: Hashable, work: Callable[[], Awaitable[View]]) -> View:
        """The answer to a query that is as good as new, or a new one when it is our turn."""
        if self._waiting >= MOST_WAITING:
            raise BusyError("too many readers filter claims at once; try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                now, changes = monotonic(), self.engine.ledger.nodes.changes
                when, of, view = self._answers.pop(key, (float("-inf"), -1, {}))
                if of != changes and now - when > FRESH_SECONDS:
                    view, when = await work(), monotonic()
                    of = changes
                self._answers[key] = (when, of, view)
                if len(self._answers) > MOST_ANSWERS:
                    self._answers.popitem(last=False)
                return view
        finally:
            self._waiting -= 1

    # -- decisions

    def recent(self, results: frozenset[str]) -> View:
        """The last decisions, newest first; with `results` only those that came out so."""
        return {
            "total": self.decisions.total,
            "rows": [_decision(one) for one in self.decisions.latest(SHOWN_DECISIONS, results=results)],
            "command": words.for_decisions(results),
        }


def _decision(one: Decision) -> View:
    return {
        "number": one.number,
        "at": rfc3339(one.at),
        "owner": {"kind": one.kind, "namespace": one.namespace, "name": one.name},
        "policy": one.policy,
        "result": one.result,
        "reason": one.reason,
        "detail": one.detail,
        "numbers": list(one.numbers),
        "ports": one.ports,
        "node": one.node,
        "id": one.allocation_id,
        "milliseconds": round(one.seconds * 1000, 2),
    }


def _axis(board: Board) -> View:
    axis = board.axis
    return {
        "low": axis.low,
        "high": axis.high,
        "width": axis.width,
        "buckets": axis.buckets,
        "kept": axis.counts(board.ledger.rules.reserved),
    }


def _page_start(page: int, matching: int, size: int) -> tuple[int, int]:
    """Where a page begins, the last one where it is beyond; and how many pages there are."""
    pages = max(1, -(-matching // size))
    return (min(page, pages) - 1) * size, pages
