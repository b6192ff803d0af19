"""Whether an ask is admitted, and the claim that it would be given. Nothing here changes a claim.

Longer than 350 lines because it is the whole way of an ask: what its owner and its namespace have outstanding, then a
placement, then a draft.

* An ask that is new is held against the limits of its owner and its namespace, then placed.
* A Pod that asks again (a reinvocation) is given its own pending claim, with what appeared since, if all of it fits.

Whoever may create Pods may have them refused: by a quota, by Pod Security, or because they are wrong. Each of those
Pods is given ports here for 45 seconds, and nobody else can have them.

Rules for an owner, which is the controller of a Pod:

* Three reservations that stay unconfirmed for five seconds, none having been confirmed since, hold an owner back. From
  then on it gets one reservation at a time, until one of its Pods is seen.
* An owner with three reservations that never had one confirmed is asked to wait a moment for its first Pod
  (`awaits_sight`), since a ReplicaSet whose Pods are refused asks eleven times in those five seconds. Controllers
  create in growing batches, each after the one before was stored: the first Pod of a healthy owner is seen within the
  lag of the watch. Waiting denies nobody.
* Only what the view of the cluster reaches counts as unconfirmed: a view that stands still accuses nobody.

Rules for a namespace:

* Its reservations that no Pod has confirmed are bounded, in number and in ports (each number of a block is one),
  whether or not a controller makes its Pods. Where Pod Security baseline or restricted is enforced, the bound is a
  handful, since nearly all Pods that ask for ports there are refused. Some are exempt: whoever is seen makes room.
* A Pod with more ports than the bound is admitted where its namespace has nothing outstanding.
* Where nobody can confirm a Pod, nothing is counted: no reservation ends there by itself.
* Leases end when their holder wants. Their ports are bounded without these two exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from allocator.core.asks import Ask, Refused, WhenFull
from allocator.core.candidates import ANYWHERE, Constraints, NodeName
from allocator.core.claims import (
    POD,
    TRANSITIONS,
    Claim,
    ClaimId,
    ClaimPort,
    LifeEvent,
    Owner,
    bounds,
    count_numbers,
    is_same_name,
    shape_of,
)
from allocator.core.index.cooling import CoolDown, Reuse, by_chance
from allocator.core.place.plan import OwnerContext, Placement, place
from allocator.core.place.policies import STATIC
from allocator.core.place.view import Pick, PlacementView
from allocator.core.ports import normalise_ip
from allocator.core.reserved import ReservedNumbers
from allocator.core.store import LONG_AGO, NOTHING, ClaimStore
from allocator.core.watch.replanner import stays
from hostport.contract import Mistake, Notice, PodWarning, Reason
from hostport.contract.defaults import LEASE_SECONDS

UNCONFIRMED_SECONDS = 5.0
TOLERATED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What a namespace may have outstanding. 0: as much as it likes."""

    reservations: int = 500  # that no Pod has confirmed
    reserved_ports: int = 500  # of those, in all
    leases: int = 5_000  # ports that are leased


DEFAULT_SHARES = Shares()
UNBOUNDED = Shares(reservations=0, reserved_ports=0, leases=0)
HANDFUL = Shares(reservations=8, reserved_ports=64)
"""Of a namespace that enforces Pod Security baseline or restricted, where the flags do not say less."""
RESERVATION_SECONDS = 45.0  # a create lives at most 34 s in the API server, after that its Pod cannot appear
FOR_A_POD = TRANSITIONS[None, LifeEvent.POD_ASKED]
FOR_A_LEASE = TRANSITIONS[None, LifeEvent.LEASE_ASKED]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRules:
    """What an operator sets."""

    reserved: int = 0
    reserved_for: Mapping[int, str] = field(default_factory=dict)  # the owners of those that are known
    discloses_holders: bool = False
    reservation_seconds: float = RESERVATION_SECONDS
    when_full: WhenFull = WhenFull.DENY
    shares: Shares = UNBOUNDED
    implicit_node: NodeName | None = None  # --cluster none: every ask is about this node
    cool_down: float = 0.0  # seconds for which a number that was given up is left alone
    reuse: Reuse = Reuse.LOWEST


class AdmissionLimits:
    """Holds what owners and namespaces have outstanding against the limits.

    A reservation is known by its end, which is `reservation_seconds` after it was made, or after the last start.
    """

    def __init__(self, store: ClaimStore, shares: Shares, reservation_seconds: float) -> None:
        self._store = store
        self._shares = shares
        self._reservation_seconds = reservation_seconds
        self.enforced: Mapping[str, str] = {}  # Pod Security level by namespace, where it forbids host ports
        self.addressed: frozenset[str] = frozenset()  # namespaces whose Pods are told the address of their node
        self.confirms = False  # whether somebody shows us Pods, so that a reservation can be confirmed
        self.seen_until = LONG_AGO  # how far the view of the cluster is proven to reach

    def enforce(self, levels: Mapping[str, str]) -> None:
        """Takes the namespaces that enforce a Pod Security level which forbids host ports, with that level."""
        self.enforced = dict(levels)

    # -- whom to ask to wait

    def awaits_sight(self, ask: Ask) -> bool:
        """Whether to wait a moment for the first Pod of the ask's owner before the owner is granted more.

        True for an owner that has several reservations, never had one confirmed, and is not held back for it yet.
        """
        if not self.confirms or not ask.owner.controller_uid or self._store.owners.is_known(ask.owner):
            return False
        return len(list(islice(self._reserved_of(ask.owner), TOLERATED))) == TOLERATED

    def is_crowded(self, ask: Ask) -> bool:
        """Whether to wait a moment for Pods of the ask's namespace to be seen, before it is refused for want of them.

        A Pod that brings the id of a reservation of its namespace may be asked about again: it is not held up.
        """
        own = self._store.claims.get(ClaimId(ask.carried_id))
        is_again = own is not None and own.owner.namespace == ask.owner.namespace
        return self.confirms and not is_again and ask.owner.is_pod and self._has_no_room(ask)

    # -- whom to refuse

    def check(self, ask: Ask, *, is_pod: bool, is_counted: bool) -> None:
        """Refuses what is one too many: for a namespace, for an owner that is held back, or of leases.

        is_pod: whether a Pod asks. is_counted: whether the reservations of the namespace count, as for whoever takes.

        Raises:
            Refused: with NAMESPACE_BACKLOG, UNCONFIRMED_BACKLOG or TOO_MANY_LEASES.

        """
        if is_pod and is_counted and self.confirms and self._has_no_room(ask):
            raise self._crowded(ask.owner.namespace)
        if ask.owner.controller_uid and self.seen_until != LONG_AGO:
            self._check_owner(ask.owner)
        if not is_pod:
            self._check_lease(ask)

    def check_growth(self, claim: Claim, ask: Ask) -> None:
        """Refuses a reservation that is asked about again and wants more ports than its namespace has room for.

        Raises:
            Refused: with NAMESPACE_BACKLOG.

        """
        namespace, more = claim.owner.namespace, count_numbers(ask.ports) - count_numbers(claim.ports)
        if not self.confirms or more <= 0:
            return
        has, (_, ports) = self._store.reserved_in[namespace], self._bounds(namespace)
        if has.claims > 1 and 0 < ports < has.ports + more:
            raise self._crowded(namespace)

    def _check_owner(self, owner: Owner) -> None:
        since = self._store.owners.confirmed_until(owner)
        has_any, unconfirmed = False, 0
        for claim in self._reserved_of(owner):
            has_any = True
            if claim.expires is None:
                break  # of a time when nobody saw Pods: it has no deadline yet, and says nothing
            is_young = claim.expires - self._reservation_seconds > self.seen_until - UNCONFIRMED_SECONDS
            if is_young or unconfirmed == TOLERATED:
                break  # the younger ones say nothing yet
            unconfirmed += claim.expires > since
        if unconfirmed == TOLERATED:
            self._store.owners.hold_back(owner)
        if has_any and self._store.owners.is_held_back(owner):
            raise Refused(
                Mistake(
                    Reason.UNCONFIRMED_BACKLOG,
                    "owner",
                    "Pods of this owner were admitted here and never appeared: something refuses them afterwards (a"
                    " quota, Pod Security, another webhook; see the events of the owner). One more is admitted when"
                    " the reservation of the last has expired",
                )
            )

    def _check_lease(self, ask: Ask) -> None:
        most = self._shares.leases
        has, more = self._store.leased_in.get(ask.owner.namespace, NOTHING).ports, count_numbers(ask.ports)
        if not most or has + more <= most:
            return
        whose = f"namespace {ask.owner.namespace}" if ask.owner.namespace else "who leases without a namespace"
        message = (
            f"{whose} leases {has} ports, this would be {more} more, and at most {most} are allowed. Release"
            " leases that nobody uses, or raise --namespace-leases"
        )
        raise Refused(Mistake(Reason.TOO_MANY_LEASES, "owner.namespace", message))

    def _has_no_room(self, ask: Ask) -> bool:
        """Whether a Pod's namespace has no room for it until others of its Pods are seen."""
        has = self._store.reserved_in.get(ask.owner.namespace, NOTHING)
        if not has.claims:
            return False
        reservations, ports = self._bounds(ask.owner.namespace)
        return 0 < reservations <= has.claims or 0 < ports < has.ports + count_numbers(ask.ports)

    def _crowded(self, namespace: str) -> Refused:
        has = self._store.reserved_in[namespace]
        reservations, ports = self._bounds(namespace)
        level = self.enforced.get(namespace)
        message = (
            f"namespace {namespace} has {has.claims} reservations with {has.ports} ports in all that no Pod has"
            f" confirmed, and at most {reservations or 'any number'} with {ports or 'any number'} are allowed"
            f"{f', as it enforces Pod Security {level}' if level else ''}: something refuses its Pods after they were"
            " admitted here (a quota, Pod Security, another webhook: see the events of their owners), or very many are"
            " created at once. Mend that; each reservation ends when its Pod is seen, or else"
            f" {self._reservation_seconds:g} s after it was made. Or raise --namespace-reservations and"
            " --namespace-reserved-ports"
        )
        return Refused(Mistake(Reason.NAMESPACE_BACKLOG, "owner.namespace", message))

    def _reserved_of(self, owner: Owner) -> Iterator[Claim]:
        """The owner's reservations, oldest first."""
        ids = self._store.by_controller.get((owner.namespace, owner.controller_uid), ())
        return map(self._store.claims.__getitem__, ids)

    def _bounds(self, namespace: str) -> tuple[int, int]:
        """Reservations and ports; 0: no bound."""
        shares = self._shares
        if namespace not in self.enforced:
            return shares.reservations, shares.reserved_ports
        return min(shares.reservations, HANDFUL.reservations), min(shares.reserved_ports, HANDFUL.reserved_ports)


def placement_view(store: ClaimStore, rules: LedgerRules) -> PlacementView:
    """What a placement looks at: the indexes of a store, and the operator's rules."""
    return PlacementView(
        store.nodes,
        store.ports,
        store.sets,
        store.numbers,
        store.claims,
        store.named,
        store.shareable,
        ReservedNumbers(rules.reserved, rules.reserved_for),
        rules.discloses_holders,
        services=store.services,
    )


class Remarks(NamedTuple):
    """What whoever asked is told beside the claim that is given.

    warnings: of what will refuse the Pod afterwards. ephemeral: ranges of numbers that outgoing connections take on the
    candidates; None: nobody knows. is_addressed: whether the Pod will be told the address of its node.
    """

    warnings: tuple[PodWarning, ...] = ()
    ephemeral: tuple[tuple[int, int], ...] | None = None
    is_addressed: bool = False


UNREMARKED = Remarks()


class Drafts:
    """What asks would be given, as things are now."""

    def __init__(self, store: ClaimStore, placing: PlacementView, limits: AdmissionLimits, rules: LedgerRules) -> None:
        self._store = store
        self._claims = store.claims
        self._placing = placing
        self._limits = limits
        self._rules = rules
        self._picks = rules.reuse is not Reuse.LOWEST
        self._given_up = store.given_up
        self._given_up.keeps_order = rules.reuse is Reuse.OLDEST

    def draft(
        self, ask: Ask, claim_id: ClaimId, now: float, created: float, *, is_counted: bool = False
    ) -> tuple[Claim, Placement]:
        """The claim that a new ask would be given, and the moves of plans that make room for it.

        now: in seconds of the clock by which claims end. created: by the wall clock. is_counted: as in `check`.

        Raises:
            Refused: the ask is wrong in itself, its owner or namespace has too much outstanding, or nothing fits.
            UndecidedError: the search was cut off.

        """
        owner, is_pod = ask.owner, ask.owner.kind == POD
        self._limits.check(ask, is_pod=is_pod, is_counted=is_counted)
        within = self._constraints(ask)
        expires = self._deadline(now) if is_pod else now + (ask.ttl or LEASE_SECONDS)
        placement = place(ask, self._placing, self._context(ask, within, claim_id, now, is_pod=is_pod))
        claim = Claim(
            id=claim_id,
            owner=owner,
            state=FOR_A_POD if is_pod else FOR_A_LEASE,
            ports=placement.ports,
            created=created,
            constraints=placement.within or within,
            node=placement.node,
            expires=expires,
            range=bounds(ask.low, ask.high) if ask.policy.is_ranged else None,
            priority=ask.priority,
            may_preempt=ask.may_preempt,
        )
        return claim, placement

    def remarks(self, claim: Claim) -> Remarks:
        """What to tell whoever asked for a claim, which need not be in force."""
        namespace, sockets, limits = claim.owner.namespace, self._store.ports.sockets, self._limits
        ephemeral = sockets.ephemeral_ranges(self._store.sets.of(claim.constraints).nodes) if sockets.outgoing else None
        if claim.state is FOR_A_LEASE:
            return Remarks(ephemeral=ephemeral)
        warnings: tuple[PodWarning, ...] = ()
        if level := limits.enforced.get(namespace):
            why = f"namespace {namespace} enforces Pod Security {level}, which refuses host ports"
            warnings = (PodWarning(Notice.POD_SECURITY, f"{why}: the Pod will not be created"),)
        return Remarks(warnings, ephemeral, namespace in limits.addressed)

    def _context(self, ask: Ask, within: Constraints, claim_id: ClaimId, now: float, *, is_pod: bool) -> OwnerContext:
        when_full, shape = ask.when_full or self._rules.when_full, shape_of(ask.ports)
        exempt = self._store.named(ask.owner)
        if not ask.policy.is_searched:
            return OwnerContext(is_pod=is_pod, within=within, exempt=exempt, when_full=when_full)
        cooling = self._cooling(ask, within, now) if self._given_up.at else None
        pick = self._pick(ask, claim_id) if self._picks else None
        if not is_pod:
            return OwnerContext(
                is_pod=False, within=within, exempt=exempt, when_full=when_full, cooling=cooling, pick=pick
            )
        others = map(self._claims.__getitem__, exempt)
        before = [claim for claim in others if claim.shape == shape] if exempt else []
        if before:
            previous = tuple(port.host_port for port in max(before, key=lambda claim: claim.created).ports)
        else:
            previous = self._store.former.numbers(ask.owner, within, shape)
        used = reversed(self._store.by_shape.get(shape, {}))  # the newest first: likely ones to have room
        return OwnerContext(
            is_pod=True,
            within=within,
            exempt=exempt,
            previous=previous,
            used=used,
            when_full=when_full,
            cooling=cooling,
            pick=pick,
        )

    def _cooling(self, ask: Ask, within: Constraints, now: float) -> CoolDown | None:
        """What cools for an ask at `now` seconds; None where nothing does."""
        seconds = self._rules.cool_down if ask.cool_down is None else ask.cool_down
        cooling = self._given_up.cooling(seconds, now) if seconds else None
        return CoolDown(cooling.ports, self._store.former.own(ask.owner, within)) if cooling else None

    def _pick(self, ask: Ask, claim_id: ClaimId) -> Pick:
        """How one of the numbers that are free everywhere is chosen, where not the lowest is."""
        if self._rules.reuse is Reuse.OLDEST:
            return self._given_up.oldest_first(ask.low)
        return by_chance(claim_id)

    def readmit(self, ask: Ask, now: float) -> tuple[Claim, tuple[PodWarning, ...]] | None:
        """The Pod's own pending claim, seen again in a reinvocation, with what appeared since.

        The ports come in the order of the ask, less those that are on no host.
        None: the id that the Pod carries proves nothing, and the ask is a new one.

        Raises:
            Refused: it is the Pod's own claim, and it no longer fits.
            UndecidedError: whether it fits is not known. The claim stays as it is.

        """
        claim = self._claims.get(ClaimId(ask.carried_id))
        if claim is None or not self._is_own(claim, ask, now):
            return None
        ask = ask.on_host  # what appeared and is on no host is none of ours
        recognised = recognise(claim, ask)
        if recognised is None:
            return None
        self._limits.check_growth(claim, ask)
        within = self._constraints(ask)
        # As they stand: with hostNetwork the API server has set hostPort := containerPort where nobody did.
        fixed = tuple(
            replace(
                port, host_port=known.host_port if known else port.host_port or port.container_port, is_former=False
            )
            for port, known in zip(ask.ports, recognised, strict=True)
        )
        # Whoever was admitted without room, to wait for it, goes on waiting.
        when_full = WhenFull.PENDING if claim.node is None else ask.when_full or self._rules.when_full
        exempt = self._store.named(ask.owner) | {claim.id}
        placement = place(
            replace(ask, policy=STATIC, ports=fixed),
            self._placing,
            OwnerContext(is_pod=True, within=within, exempt=exempt, when_full=when_full),
        )
        ports = tuple(_as_it_stands(known, placed) for known, placed in zip(recognised, placement.ports, strict=True))
        taken = replace(claim, ports=ports, constraints=placement.within or within, node=placement.node)
        if claim.node is not None and stays(taken, claim.node, self._placing):
            taken = replace(taken, node=claim.node)
        return taken, (*placement.warnings, *_appearances(ports))

    def _is_own(self, claim: Claim, ask: Ask, now: float) -> bool:
        owner, asker = claim.owner, ask.owner
        return (
            (claim.state, LifeEvent.POD_ASKED_AGAIN) in TRANSITIONS
            and (claim.expires is None or claim.expires > now)
            and claim.id not in self._store.pending
            and owner.namespace == asker.namespace
            and is_same_name(owner, asker.name, asker.generate_name)
            and owner.controller_uid == asker.controller_uid
        )

    def _constraints(self, ask: Ask) -> Constraints:
        """With one implicit node every ask is about that node, whatever it names."""
        return ask.constraints if self._rules.implicit_node is None else ANYWHERE

    def _deadline(self, now: float) -> float | None:
        return now + self._rules.reservation_seconds if self._limits.confirms else None


def _as_it_stands(known: ClaimPort | None, placed: ClaimPort) -> ClaimPort:
    """A port as the Pod has it now. `known`: what the claim has of it; None where it appeared since.

    Another webhook may have given it another name, container or address. What it was called by before stays.
    """
    if known is None:
        return replace(placed, appeared=True)
    ip = known.host_ip if normalise_ip(known.host_ip) == normalise_ip(placed.host_ip) else placed.host_ip
    return replace(placed, container_port=known.container_port, host_ip=ip, appeared=known.appeared)


def _appearances(ports: tuple[ClaimPort, ...]) -> Iterator[PodWarning]:
    appeared = ", ".join(f"{port.key} of container {port.container}" for port in ports if port.appeared)
    if appeared:
        yield PodWarning(Notice.PORT_APPEARED, f"{appeared} came with another webhook and is held as it stands")


def recognise(claim: Claim, ask: Ask) -> list[ClaimPort | None] | None:
    """For each port of the ask the claim's port that it is, by container, name and protocol, else by its new number.

    None: the claim's numbers do not all stand in the ask, so that it is not the Pod that we answered.
    """
    left = list(claim.ports)
    found: list[ClaimPort | None] = [None] * len(ask.ports)
    for by_name in (True, False):
        for position, port in enumerate(ask.ports):
            if found[position] is not None:
                continue
            stands = port.host_port or (port.container_port if ask.host_network else 0)
            for known in left:
                same = (known.container, known.name) == (port.container, port.name) or not by_name
                is_same_size = known.count == port.count and known.protocol is port.protocol
                if same and is_same_size and known.host_port == stands:
                    found[position] = known
                    left.remove(known)
                    break
    return None if left else found
