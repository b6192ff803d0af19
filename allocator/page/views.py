"""What the page shows, as data: one function for each view. Every view names the command line with the same answer.

The walk over all claims that a filter needs goes in slices, one walk at a time; who asks the same within a second gets
the same answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, State
from allocator.core.upkeep import IncidentKind
from allocator.decisions import Decision, Decisions
from allocator.engine import Engine
from allocator.page import claims, words
from allocator.page.claims import at, owner_of
from allocator.page.pace import in_slices
from allocator.page.queries import CLAIMS_PAGE, NODES_PAGE, UNPLACEABLE, ClaimsQuery, NodesQuery, Sort
from allocator.page.strips import OUTSIDER, Axis, Board, Strip, kind_of

MOST_BOARDS = 4
MOST_MAPPED = 2000  # nodes; the map of more would be no map
MOST_PORTS = 1000
SHOWN_DECISIONS = 60
FRESH_SECONDS = 1.0
MOST_ANSWERS = 32
MOST_WAITING = 16
DEFAULT_AXIS = Axis(7000, 8000)  # what a Pod gets that names no range
LIVE_STATES = (State.BOUND, State.CONFIRMED, State.RESERVED, State.LEASED)

View = dict[str, Any]


class BusyError(Exception):
    """Too many readers wait for a walk over the claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What does not change while the program runs."""

    version: str
    instance: str
    cluster: str
    started: float
    epoch: str = ""  # what tells this start in the Lease; empty where there is none
    certificates: Mapping[str, Callable[[], float]] = field(default_factory=dict)  # when each of ours ends
    trusted: Callable[[], Mapping[str, float]] = dict  # when each authority ends; the last first


@dataclass(slots=True, kw_only=True)
class Views:
    """See the module. `checks` and `notes` are those of /readyz."""

    engine: Engine
    decisions: Decisions
    identity: Identity
    checks: Callable[[], Mapping[str, str | None]]
    notes: Callable[[], list[str]]
    viewers: Callable[[], int] = lambda: 0
    _boards: OrderedDict[Axis, Board] = field(default_factory=OrderedDict)
    _answers: OrderedDict[Hashable, tuple[float, int, View]] = field(default_factory=OrderedDict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    # -- the header

    def status(self) -> View:
        engine, tally, checks = self.engine, self.engine.ledger.tally(), self.checks()
        lag = engine.watch.lag() if engine.watch else None
        has_duty = engine.holds_lease() or bool(engine.who_serves())  # who stands by is as it should be, and notes it
        return {
            "healthy": not any(checks.values()) and has_duty,
            "checks": {**checks, "lease": None if has_duty else "the Lease is not ours: we answer nothing"},
            "notes": self.notes(),
            "version": self.identity.version,
            "instance": self.identity.instance,
            "cluster": self.identity.cluster,
            "started": at(self.identity.started),
            "epoch": self.identity.epoch,
            "certificates": {name: at(ends()) for name, ends in sorted(self.identity.certificates.items())},
            "authorities": {name: at(end) for name, end in self.identity.trusted().items()},
            "now": at(engine.wall()),
            "watch_age_seconds": None if lag is None or lag == float("inf") else round(lag, 1),
            "claims": {
                **{state.value: tally.states.get(state, 0) for state in LIVE_STATES},
                OUTSIDER: tally.outsiders,
                UNPLACEABLE: tally.unplaceable,
            },
            "nodes": tally.known_nodes,
            "drift": {
                "contradicted": tally.contradictions,
                "held_twice": tally.picture.held_twice,
                "unsaved": engine.unsaved,
            },
            "incidents": {kind.value: engine.incidents[kind] for kind in IncidentKind},
            "ranges": [f"{low}-{high}" for low, high in engine.ledger.ranges()],
            "revision": {"claims": engine.ledger.changes, "decisions": self.decisions.total},
            "viewers": self.viewers(),
            "command": "hostport check",
        }

    # -- nodes

    async def nodes(self, query: NodesQuery) -> View:
        board = await self._board(query.axis or self._usual_axis())
        names = board.names(text=query.text, fullest_first=query.sort is Sort.FULLEST)
        first, pages = _place(query.page, len(names), NODES_PAGE)
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
        """One node and everything that is held there; None where nobody knows it."""
        ledger, node = self.engine.ledger, NodeName(name)
        board = await self._board(axis or self._usual_axis())
        if node not in board.strips:
            return None
        held = ledger.port_map(node)
        return {
            **self._node_row(node, board.strips[node]),
            "range": f"{board.axis.low}-{board.axis.high}",
            "axis": _axis(board),
            "size": board.size,
            "ports": [
                {
                    "protocol": key.protocol.value,
                    "number": key.number,
                    "ip": key.ip,
                    "state": kind_of(claim),
                    "planned": not claim.is_settled,
                    "owner": owner_of(claim),
                    "id": claim.id,
                    "since": at(claim.settled_at or claim.created),
                    "command": words.for_port(name, key.number, key.protocol.value),
                }
                for key, claim in held[:MOST_PORTS]
            ],
            "more": max(0, len(held) - MOST_PORTS),
            "command": words.for_node(name),
        }

    def _node_row(self, name: NodeName, strip: Strip) -> View:
        return {
            "name": name,
            "known": self.engine.ledger.is_known_node(name),
            "claims": strip.claims,
            "held": strip.held,
            "used": strip.used,
            "totals": strip.totals(),
            "counts": {kind: list(counts) for kind, counts in strip.counts.items()},
        }

    def _usual_axis(self) -> Axis:
        ranges = self.engine.ledger.ranges()
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
        first, _ = _place(query.page, ledger.count, CLAIMS_PAGE)
        return self._claims_view(query, ledger.latest(first, CLAIMS_PAGE), ledger.count)

    async def _matching_claims(self, query: ClaimsQuery) -> View:
        ledger = self.engine.ledger
        selects = claims.selector(query, ledger.is_unplaceable)
        matching: list[ClaimId] = []

        def look(ids: Sequence[ClaimId]) -> None:
            found = map(ledger.get, ids)
            matching.extend(claim.id for claim in found if claim is not None and selects(claim))

        await in_slices(self._ids(query), look)
        matching.reverse()
        first, _ = _place(query.page, len(matching), CLAIMS_PAGE)
        return self._claims_view(query, matching[first : first + CLAIMS_PAGE], len(matching))

    def _ids(self, query: ClaimsQuery) -> list[ClaimId]:
        """Those that have to be looked at, what changed last at the end; where a node is named, its own by age."""
        ledger = self.engine.ledger
        if not query.node:
            return ledger.in_order_of_change()
        held = {claim.id: claim.created for _, claim in ledger.held_on(NodeName(query.node))}
        return sorted(held, key=held.__getitem__)

    def _claims_view(self, query: ClaimsQuery, ids: list[ClaimId], matching: int) -> View:
        ledger = self.engine.ledger
        found: list[Claim] = [claim for claim in map(ledger.get, ids) if claim is not None]
        first, pages = _place(query.page, matching, CLAIMS_PAGE)
        return {
            "matching": matching,
            "page": first // CLAIMS_PAGE + 1,
            "pages": pages,
            "rows": [claims.row(claim, ledger.is_unplaceable, self.engine.ahead) for claim in found],
            "command": words.for_claims(query),
        }

    async def _shared(self, key: Hashable, work: Callable[[], Awaitable[View]]) -> View:
        """The answer to a query that is as good as new, or a new one when it is our turn."""
        if self._waiting >= MOST_WAITING:
            raise BusyError("too many readers filter claims at once; try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                now, changes = monotonic(), self.engine.ledger.changes
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
        return {
            "total": self.decisions.total,
            "rows": [_decision(one) for one in self.decisions.latest(SHOWN_DECISIONS, results=results)],
            "command": words.for_decisions(results),
        }


def _decision(one: Decision) -> View:
    return {
        "number": one.number,
        "at": at(one.at),
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
        "kept": axis.counts(board.ledger.reserved),
    }


def _place(page: int, matching: int, size: int) -> tuple[int, int]:
    """Where a page begins, the last one where it is beyond; and how many pages there are."""
    pages = max(1, -(-matching // size))
    return (min(page, pages) - 1) * size, pages
