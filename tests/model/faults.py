"""Faults to plant in the allocator: a test that cannot fail proves nothing.

Each is something that somebody might write. The test says in which world it must be found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from msgspec import structs

from allocator import clock as clock_module
from allocator.cluster import sinks
from allocator.core import ledger as ledger_module
from allocator.core.asks import Ask
from allocator.core.claims import Claim, ClaimId, LifeEvent, ObservedPod, State
from allocator.core.foreign import ServicePorts
from allocator.core.index import ports
from allocator.core.index.ports import NodesBySlot, PortIndex
from allocator.core.ledger import Ledger
from allocator.core.place import matching, plan, view
from allocator.core.place.view import Demand
from allocator.core.ports import WILDCARD, PortKey
from allocator.core.watch import replanner
from allocator.core.watch.node_ports import NodePortConflicts
from allocator.journal.contract import Drop, Entry, Put, always
from allocator.maintenance import Changes

from . import process

Patch = pytest.MonkeyPatch


def expire_without_proof(patch: Patch) -> None:
    """A reservation ends at its deadline, whether or not the watch has shown who exists by then."""
    due = Ledger.due

    def due_by_the_clock(self: Ledger, now: float, *most: int) -> list[Claim]:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(self.limits, "seen_until", now)
            return due(self, now, *most)

    patch.setattr(Ledger, "due", due_by_the_clock)


def follow_the_wall_clock(patch: Patch) -> None:
    """A wall clock that is set forward ends reservations whose Pods are on their way."""

    def now(self: Any) -> float:
        return cast("float", self.wall())

    patch.setattr(clock_module.Clock, "__call__", now)


def begin_at_the_wall_clock(patch: Patch) -> None:
    """A start on a clock that is ahead ends leases that their holders count on."""
    patch.setattr(clock_module.Clock, "resume", lambda *_: None)


def admit_where_a_lease_stands(patch: Patch) -> None:
    """A Pod is given a number that is leased on one of its candidates."""
    patch.setattr(PortIndex, "leased", lambda *_: 0)
    patch.setattr(PortIndex, "is_leased", lambda *_: False)


def forget_to_keep_a_pod_off(patch: Patch) -> None:
    """A Pod is planned elsewhere than where its number is leased, and nobody is told to keep it off that node."""
    steered = plan._steered

    def untold(demand: Demand, context: plan.OwnerContext) -> plan.Placement:
        return structs.replace(steered(demand, context), within=None)

    patch.setattr(plan, "_steered", untold)


def overlook_processes(patch: Patch) -> None:
    """A plan stays where a process has opened its number."""
    patch.setattr(replanner.Replanner, "opened", lambda *_: None)


def forget_the_second_owner(patch: Patch) -> None:
    """When one of two owners of a port leaves, it counts as free."""
    patch.setattr(ports, "_left", lambda *_: ())


def take_addresses_at_their_word(patch: Patch) -> None:
    """0.0.0.0 conflicts with itself alone."""

    def conflicting(indexes: Iterable[NodesBySlot], key: PortKey) -> int:
        found = 0
        for index in indexes:
            of_ip = index.by_ip.get(key.slot, {}).get(key.ip, 0)
            found |= index.anywhere.get(key.slot, 0) if key.ip == WILDCARD else of_ip
        return found

    patch.setattr(ports, "conflicting", conflicting)


def overlook_plans(patch: Patch) -> None:
    """Only those who have a node count as holders: what was promised to others is promised again."""

    def free(self: PortIndex, keys: Iterable[PortKey], nodes: int) -> int:
        for key in keys:
            nodes &= ~self.settled(key)
        return nodes

    patch.setattr(PortIndex, "planned", lambda *_: 0)
    patch.setattr(PortIndex, "conflicting", PortIndex.settled)
    patch.setattr(PortIndex, "free", free)


def wait_twice_behind_one(patch: Patch) -> None:
    """Several Pods are planned behind one terminating Pod."""
    find_wait = matching.find_wait

    def find(seeker: view.Seeker, world: view.PlacementView, steps: view.Steps) -> view.NodeChoice | None:
        waiting = (claim.id for claim in world.claims.values() if not claim.is_settled)
        return find_wait(replace(seeker, exempt=seeker.exempt.union(waiting)), world, steps)

    patch.setattr(plan, "find_wait", find)
    patch.setattr(replanner, "find_wait", find)


def give_up_when_displaced(patch: Patch) -> None:
    """A plan that is displaced does not look for a holder that will go, so that another Pod gets that place too."""
    patch.setattr(replanner, "find_wait", lambda *_, **__: None)


def count_a_terminating_pod_as_gone(patch: Patch) -> None:
    seen = Ledger._pod_seen

    def pod_seen(self: Ledger, pod: ObservedPod, now: float) -> None:
        if pod.is_terminating:
            claim = self._claim_of(pod)
            if claim is not None:
                self._end_with_pod(claim, now)
        else:
            seen(self, pod, now)

    patch.setattr(Ledger, "_pod_seen", pod_seen)


def end_the_predecessor(patch: Patch) -> None:
    """A create for a name ends the claim of the Pod that has it; but the create may fail with AlreadyExists."""
    reserve = Ledger.reserve

    def reserve_alone(self: Ledger, ask: Ask, claim_id: ClaimId, now: float) -> Any:
        granted = reserve(self, ask, claim_id, now)
        for other in self._store.named(ask.owner) - {claim_id}:
            self._drop(self._claims[other], LifeEvent.POD_GONE, now)
        return granted

    patch.setattr(Ledger, "reserve", reserve_alone)


def believe_a_copied_id(patch: Patch) -> None:
    """Whoever carries the id of a claim is its Pod."""
    patch.setattr(ledger_module, "is_of_pod", lambda *_: True)


def take_a_page_for_the_list(patch: Patch) -> None:
    """What the pages so far lack is gone; but it may stand on the next one."""
    listed = sinks.PodSink.listed

    def listed_and_over(self: Any, items: Sequence[Any]) -> Iterator[None]:
        yield from listed(self, items)
        self._tell([], self._missing)

    patch.setattr(sinks.PodSink, "listed", listed_and_over)


def never_miss_a_pod_in_a_list(patch: Patch) -> None:
    """What a list lacks is kept: a deletion that the watch did not tell is never known."""
    patch.setattr(sinks.PodSink, "complete", lambda self, as_of: iter([self._proven(as_of)]))


def reply_before_the_commit(patch: Patch) -> None:
    record = process.QueueJournal.record

    def record_and_believe(
        self: process.QueueJournal, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always
    ) -> asyncio.Future[bool]:
        record(self, entries, is_wanted)
        entries, is_wanted, _ = self.queue.pop()
        loop = asyncio.get_running_loop()
        self.queue.append((entries, is_wanted, loop.create_future()))
        done: asyncio.Future[bool] = loop.create_future()
        done.set_result(True)
        return done

    patch.setattr(process.QueueJournal, "record", record_and_believe)


def forget_reservations_at_start(patch: Patch) -> None:
    """Only Pods are restored: they are in the list anyway."""
    restore = Ledger.restore

    def restore_some(self: Ledger, claims: Iterable[Claim], now: float) -> None:
        restore(self, [claim for claim in claims if claim.state is not State.RESERVED], now)

    patch.setattr(Ledger, "restore", restore_some)


def restore_without_ports(patch: Patch) -> None:
    """The claims are back, the index of ports is not."""

    restore = Ledger.restore

    def restore_claims(self: Ledger, claims: Iterable[Claim], now: float) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(PortIndex, "stand", lambda *_, **__: None)
            restore(self, claims, now)

    patch.setattr(Ledger, "restore", restore_claims)


def never_expire(patch: Patch) -> None:
    """A refused Pod's ports are held for ever."""
    due = Ledger.due
    patch.setattr(Ledger, "due", lambda self, now, *most: [c for c in due(self, now, *most) if c.state is State.LEASED])


def journal_a_move_after_the_end(patch: Patch) -> None:
    """A plan that is moved while its end is being written is back after a restart."""
    known = Changes._entries

    def entries(self: Changes, changes: dict[ClaimId, Claim | None]) -> list[Entry]:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(self, "ending", {})
            return known(self, changes)

    patch.setattr(Changes, "_entries", entries)


def release_before_the_commit(patch: Patch) -> None:
    """A released port is handed out before the release is durable, so that after a crash it has two holders."""
    end = Changes.end

    def end_at_once(self: Changes, claim_ids: Sequence[ClaimId]) -> asyncio.Future[bool]:
        for claim_id in claim_ids:
            self._ledger.end(claim_id, self._now())
        return end(self, claim_ids)

    patch.setattr(Changes, "end", end_at_once)


def forget_the_changes_of_pods(patch: Patch) -> None:
    """What the cluster changes is not journalled."""

    def only(entries: Sequence[Entry]) -> Iterator[Entry]:
        return (e for e in entries if not (isinstance(e, Put) and e.claim.pod_uid) and not isinstance(e, Drop))

    record = process.QueueJournal.record

    def record_some(
        self: process.QueueJournal, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always
    ) -> asyncio.Future[bool]:
        return record(self, list(only(entries)), is_wanted)

    patch.setattr(process.QueueJournal, "record", record_some)


def give_out_node_ports(patch: Patch) -> None:
    """A Service's number is taken to be free when a range is searched, and checked for a number that is fixed alone."""
    patch.setattr(ServicePorts, "within", lambda *_: 0)
    patch.setattr(Demand, "is_of_service", lambda *_: False)


def tell_of_later_services_alone(patch: Patch) -> None:
    """A Pod that is seen after the Service took its number is not told."""
    patch.setattr(NodePortConflicts, "seen", lambda *_: None)


ANY_PODS = (
    expire_without_proof,
    follow_the_wall_clock,
    overlook_processes,
    give_out_node_ports,
    tell_of_later_services_alone,
    forget_the_second_owner,
    take_addresses_at_their_word,
    count_a_terminating_pod_as_gone,
    end_the_predecessor,
    believe_a_copied_id,
    take_a_page_for_the_list,
    never_miss_a_pod_in_a_list,
    reply_before_the_commit,
    forget_reservations_at_start,
    restore_without_ports,
    never_expire,
    forget_the_changes_of_pods,
)
STEERED = (begin_at_the_wall_clock, forget_to_keep_a_pod_off, admit_where_a_lease_stands, release_before_the_commit)
ONE_PORT = (overlook_plans, wait_twice_behind_one)
ONE_NUMBER = (give_up_when_displaced,)
DISPLACED = (journal_a_move_after_the_end,)
