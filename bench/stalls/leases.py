"""Rows of leases, of reservations that get their deadlines, and of the journal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from allocator.cluster.lease import Legacy
from allocator.core.claims import Claim, State
from allocator.core.ledger import Ledger
from allocator.journal.contract import Entry, JournalError, Put, Recorded
from allocator.leases.cache import PortLeaseCache
from allocator.leases.durability import LeaseDurability
from allocator.leases.objects import PortLease, shown_end, ttl_of
from allocator.leases.reconciler import LeaseReconciler
from allocator.slices import in_turns
from bench.stalls.cluster import NODES, a_claim, node_name, observe, restore
from bench.stalls.messages import affinity, ask, keep_sets
from bench.turns import Place
from hostport.v1 import allocator_pb2 as pb


def leases(place: Place) -> None:
    """100,000 leases: a tick"""
    place.on_loop(restore, place, _leases(100_000, 1e12))
    with place.measured():
        time.sleep(2)


def leases_end(place: Place) -> None:
    """50,000 leases that end at one moment"""
    end = place.engine.clock() + 1e6
    place.on_loop(restore, place, _leases(50_000, end))
    _end(place)


def _end(place: Place) -> None:
    with place.measured():
        place.clock_shift = 1e6 + 60.0
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and place.engine.ledger.claims.tally().states.get(State.LEASED):
            time.sleep(0.1)
    left = place.engine.ledger.claims.tally().states.get(State.LEASED, 0)
    place.remark(f"{left:,} left")


def large_leases_end(place: Place) -> None:
    """400 leases of 512 ports that end at one moment, under 64 candidate sets that are kept"""
    keep_sets(place, 64)
    end = place.engine.clock() + 1e6
    numbers = range(40_000, 40_512)
    claims = [a_claim(500_000 + at, *numbers, node=node_name(at), state=State.LEASED, expires=end) for at in range(400)]
    place.on_loop(restore, place, claims)
    _end(place)


def _leases(number: int, end: float) -> list[Claim]:
    return [
        a_claim(500_000 + at, 3_000 + at // NODES, node=node_name(at % NODES), state=State.LEASED, expires=end)
        for at in range(number)
    ]


def leases_recovered(place: Place) -> None:
    """100,000 leases that the cluster has stored are taken up at the start, 20,000 others have ended"""
    place.on_loop(restore, place, _leases(20_000, 1e12))
    recorded = [Recorded(claim, None) for claim in _leases(120_000, 1e12)[20_000:]]

    async def recover() -> None:
        await in_turns(place.engine.recovery.recover_leases(recorded))

    with place.measured():
        place.on_loop(recover)
    place.remark(f"{len(place.engine.recovery.leases()):,} in force")


class _Nothing:
    """Objects that need nothing written."""


def leases_reconciled(place: Place) -> None:
    """100,000 leases and their objects are held against each other"""
    claims = _leases(100_000, 1e12)
    place.on_loop(restore, place, claims)
    cache = PortLeaseCache()
    for claim in claims:
        cache.put(
            PortLease(
                namespace="lessee",
                name=claim.id,
                uid=claim.id,
                version=1,
                id=claim.id,
                claim=claim,
                left=ttl_of(claim, 0.0),
                expires=shown_end(claim, 0.0),
            )
        )
    durability = LeaseDurability(place.journal, _Nothing(), cache, now=place.engine.clock)  # type: ignore[arg-type]
    reconciler = LeaseReconciler(
        _Nothing(),  # type: ignore[arg-type]
        api=_Nothing(),  # type: ignore[arg-type]
        cache=cache,
        durability=durability,
        books=place.engine.recovery,
        legacy=lambda: Legacy.EVERYTHING,
        may_write=lambda: True,
        clock=place.engine.clock,
    )
    with place.measured():
        is_whole = place.on_loop(reconciler.reconcile)
    place.remark("nothing to do" if is_whole else "something failed")


def reservations_dated(place: Place) -> None:
    """100,000 reservations of a time without Pods get their deadlines"""
    ledger = place.engine.ledger
    claims = [
        a_claim(500_000 + at, 3_000 + at // NODES, node=node_name(at % NODES), state=State.RESERVED)
        for at in range(100_000)
    ]
    place.on_loop(restore, place, claims)
    place.on_loop(_until_mended, ledger)
    ledger.limits.confirms = False
    with place.measured():
        observe(place)
        place.on_loop(_until_mended, ledger)
    undated = sum(1 for claim in ledger.claims if claim.state is State.RESERVED and claim.expires is None)
    place.remark(f"{undated:,} left")


async def _until_mended(ledger: Ledger) -> None:
    while ledger.has_more_to_replan:
        ledger.replan()
        await asyncio.sleep(0)


def failed_commit(place: Place) -> None:
    """a commit that fails, with 100,000 claims in the journal"""
    _journalled(place, 100_000)
    commit, fails = place.journal._commit, [1]  # noqa: SLF001 - no disk is full here

    def failing() -> Any:
        if fails:
            fails.clear()
            return JournalError("as if the disk were full")
        return commit()

    with place.measured():
        place.journal._commit = failing  # type: ignore[method-assign]  # noqa: SLF001
        time.sleep(1)
        reason = place.ask(ask("after"))
    place.remark("it goes on" if not reason else f"it does not go on: {reason}")


def _journalled(place: Place, number: int) -> None:
    """So many claims in the journal."""

    async def fill() -> None:
        for start in range(0, number, 1_000):
            entries: list[Entry] = [
                Put(a_claim(600_000 + at, 80, state=State.CONFIRMED)) for at in range(start, start + 1_000)
            ]
            await place.journal.record(entries)

    place.on_loop(fill)


def ports_among_leases(place: Place) -> None:
    """512 ports asked for where there are 55,000 leases"""
    leased = [
        a_claim(500_000 + at, 1_024 + at % 55_000, node=node_name(at % NODES), state=State.LEASED, expires=1e12)
        for at in range(55_000)
    ]
    place.on_loop(restore, place, leased)
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(512)]
    pinned = affinity(
        [pb.NodeTerm(match_fields=[pb.NodeRequirement(key="metadata.name", operator="In", values=[node_name(7)])])]
    )
    reasons = []
    with place.measured():
        for within in (None, pinned):
            for low, high in ((1_024, 56_000), (30_000, 34_000)):
                reasons.append(place.ask(ask("ports", within, range=pb.PortRange(min=low, max=high), ports=ports)))
    place.remark(" ".join(reason or "granted" for reason in reasons))
