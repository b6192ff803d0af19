"""The ledger: who holds which port, on which node, in which state of life. The one mutable thing of the allocator.

Better to leak a port for a minute than to hand it out twice. Hence:

* a decided claim counts as taken at once (`reserve`), and is shown only when it is durable (`publish`) or undone when
  it cannot be (`abort`);
* a released claim goes on counting until its end is durable (`end` is called after the commit);
* no two claims that we granted conflict on a node. What Pods do that never asked us is recorded as it is.

Each command either does all of its work or raises `Refused` and has changed nothing. It is not thread-safe; its owner
calls it from one thread.

The ledger knows no clock: `now` is an argument, in seconds of the clock by which claims end. The times that people read
(`created`, `settled_at`) are those of the wall clock, which is `ahead` of it. Nothing ends by them.

Pods are the truth about themselves: a claim's ports, node and constraints come from its Pod as soon as that is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from msgspec.structs import replace

from allocator.core.asks import Ask, Mistake, Policy, Refused, Warned, WhenFull
from allocator.core.backlog import Backlog
from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName
from allocator.core.claims import Bounds, Claim, ClaimId, ClaimPort, Owner, PodUid, State, bounds
from allocator.core.matching import Move, World, blockers, key_of
from allocator.core.plan import Context, Placement, place
from allocator.core.pods import Judge, Pod, as_stored, is_of_pod, is_same_name, outsider, recognise
from allocator.core.policy import number_groups
from allocator.core.ports import WILDCARD, PortKey, Protocol
from allocator.core.register import Register
from allocator.core.sticky import Sticky
from allocator.core.survey import MOST_RANGES, Picture, Survey
from allocator.core.tenants import UNBOUNDED, Shares, Tenants
from allocator.core.upkeep import Incident, Upkeep
from allocator.core.verdicts import Verdicts
from hostport.contract import Notice, Reason

RESERVATION_SECONDS = 45.0  # a create lives at most 34 s in the API server, after that its Pod cannot appear
LEASE_SECONDS = 3600.0
MOST_DUE = 256
"""Leases, and likewise reservations, that are told as due at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an operator sets."""

    reserved: int = 0
    discloses_holders: bool = False
    reservation_seconds: float = RESERVATION_SECONDS
    when_full: WhenFull = WhenFull.DENY
    shares: Shares = UNBOUNDED
    implicit_node: NodeName | None = None  # --cluster none: every ask is about this node


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How much there is; claims that are pending among it."""

    states: Mapping[State, int]
    outsiders: int
    outsider_ports: int
    unplaceable: int
    known_nodes: int
    verdicts: Mapping[tuple[str, bool], int]
    contradictions: int
    picture: Picture


Listener = Callable[[Claim, bool], None]
"""Told of each visible change: the claim, and whether it has ended."""


class Ledger:
    """Commands in, decisions out."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.ahead = 0.0  # seconds that the wall clock is ahead of `now`
        self._register = Register()
        self._occupancy = self._register.occupancy
        self._claims = self._register.claims
        self._pending: set[ClaimId] = set()
        self.listener: Listener | None = None
        self._changed: dict[ClaimId, Claim | None] = {}
        self._backlog = Backlog(rules.reservation_seconds)
        self._tenants = Tenants(self._register, rules.shares, rules.reservation_seconds)
        self._sticky = Sticky()
        self._seen_until = float("-inf")
        self._confirms = False
        self._trusted_at = 0.0  # when that began
        self._endless: list[ClaimId] = []  # among them reservations of before, which have no deadline yet
        self._world = World(
            self._occupancy,
            self._claims,
            self._register.named,
            self._register.shareable,
            rules.reserved,
            rules.discloses_holders,
        )
        self._upkeep = Upkeep(self._register, self._world, self._note)
        self._verdicts = Verdicts(self._register, self._world)
        self._survey = Survey(self._register, rules.reserved)
        if rules.implicit_node is not None:
            self._occupancy.put_node(Node(name=rules.implicit_node))

    # -- asks

    def preview(self, ask: Ask, now: float) -> tuple[Claim, tuple[Warned, ...]]:
        """What `reserve` would grant, without an id. Changes nothing.

        Raises:
            Refused: the ask is wrong in itself, or nothing fits.
            UndecidedError: the search was cut off.

        """
        claim, placement = self._draft(ask, ClaimId(""), now)
        return claim, placement.warnings

    def reserve(self, ask: Ask, claim_id: ClaimId, now: float) -> tuple[Claim, tuple[Warned, ...]]:
        """Decides and takes: the claim counts from here on, and is pending until `publish` or `abort`.

        Raises:
            Refused, UndecidedError: as for `preview`.

        """
        if self._confirms:  # else no reservation would end by itself
            self._tenants.check_reservation(ask)
        claim, placement = self._draft(ask, claim_id, now)
        self._move(placement.moves)
        self._pending.add(claim_id)
        self._register.insert(claim)
        return claim, placement.warnings

    def _draft(self, ask: Ask, claim_id: ClaimId, now: float) -> tuple[Claim, Placement]:
        owner, is_pod = ask.owner, ask.owner.is_pod
        self._backlog.check(owner, self._reserved_of(owner), self._seen_until)
        self._tenants.check_lease(ask)
        within = self._constraints(ask)
        placement = place(ask, self._world, self._context(ask, within))
        claim = Claim(
            id=claim_id,
            owner=owner,
            state=State.RESERVED if is_pod else State.LEASED,
            ports=placement.ports,
            created=now + self.ahead,
            constraints=within,
            node=placement.node,
            expires=self._deadline(now) if is_pod else now + (ask.ttl or LEASE_SECONDS),
            range=bounds(ask.low, ask.high) if ask.policy.is_ranged else None,
            priority=ask.priority,
            may_preempt=ask.may_preempt,
        )
        return claim, placement

    def _context(self, ask: Ask, within: Constraints) -> Context:
        exempt = self._register.named(ask.owner)
        when_full = ask.when_full or self._rules.when_full
        if ask.policy is not Policy.DYNAMIC or not ask.owner.is_pod:
            return Context(within=within, exempt=exempt, when_full=when_full)
        shape = ask.shape
        before = [claim for claim in map(self._claims.__getitem__, exempt) if claim.shape == shape]
        if before:
            previous = tuple(port.host_port for port in max(before, key=lambda claim: claim.created).ports)
        else:
            previous = self._sticky.numbers(ask.owner, within, shape)
        used = reversed(self._register.by_shape.get(shape, {}))  # the newest first: likely ones to have room
        return Context(within=within, exempt=exempt, previous=previous, used=used, when_full=when_full)

    def take_up(self, ask: Ask, now: float) -> tuple[Claim, tuple[Warned, ...]] | None:
        """The Pod's own pending claim, seen again in a reinvocation, with what appeared since.

        The ports come in the order of the ask, less those that are on no host. Changes nothing: `amend` makes it stand.
        None: the id that the Pod carries proves nothing, and the ask is a new one.

        Raises:
            Refused: it is the Pod's own claim, and it no longer fits.
            UndecidedError: whether it fits is not known. The claim stays as it is.

        """
        ask = ask.on_host  # what appeared and is on no host is none of ours
        claim = self._claims.get(ClaimId(ask.carried_id))
        if claim is None or not self._is_own(claim, ask, now):
            return None
        recognised = recognise(claim, ask)
        if recognised is None:
            return None
        if self._confirms:
            self._tenants.check_growth(claim, ask)
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
        exempt = self._register.named(ask.owner) | {claim.id}
        placement = place(
            replace(ask, policy=Policy.STATIC, ports=fixed),
            self._world,
            Context(within=within, exempt=exempt, when_full=when_full),
        )
        ports = tuple(
            known or replace(placed, appeared=True) for known, placed in zip(recognised, placement.ports, strict=True)
        )
        taken = replace(claim, ports=ports, constraints=within, node=placement.node)
        if claim.node is not None and self._upkeep.stays(taken, claim.node):
            taken = replace(taken, node=claim.node)
        return taken, (*placement.warnings, *_appearances(ports))

    def amend(self, claim: Claim) -> None:
        """Makes a claim that `take_up` or `renewed` gave stand in place of the one with its id; plans make room."""
        self._register.replace(claim)
        self._tell(claim.id)
        if not claim.is_settled:
            self._upkeep.mend_now(claim)

    def _is_own(self, claim: Claim, ask: Ask, now: float) -> bool:
        owner, asker = claim.owner, ask.owner
        return (
            claim.state is State.RESERVED
            and (claim.expires is None or claim.expires > now)
            and claim.id not in self._pending
            and owner.namespace == asker.namespace
            and is_same_name(owner, asker.name, asker.generate_name)
            and owner.controller_uid == asker.controller_uid
        )

    def _constraints(self, ask: Ask) -> Constraints:
        """With one implicit node every ask is about that node, whatever it names."""
        return ask.constraints if self._rules.implicit_node is None else ANYWHERE

    def _deadline(self, now: float) -> float | None:
        return now + self._rules.reservation_seconds if self._confirms else None

    def awaits_sight(self, ask: Ask) -> bool:
        """Whether to wait a moment for the first Pod of the ask's owner before it is granted more."""
        return self._confirms and self._backlog.awaits_sight(ask.owner, self._reserved_of(ask.owner))

    def is_crowded(self, ask: Ask) -> bool:
        """Whether to wait a moment until Pods of the ask's namespace are seen, before it is refused for want of them.

        A Pod that brings the id of a reservation of its namespace may be asked about again: it is not held up.
        """
        own = self._claims.get(ClaimId(ask.carried_id))
        is_again = own is not None and own.owner.namespace == ask.owner.namespace
        return self._confirms and not is_again and self._tenants.is_crowded(ask)

    def enforce(self, levels: Mapping[str, str]) -> None:
        """The namespaces that enforce a Pod Security level which forbids host ports, with that level."""
        self._tenants.enforced = dict(levels)

    def _reserved_of(self, owner: Owner) -> Iterator[Claim]:
        """The owner's reservations, oldest first."""
        ids = self._register.by_controller.get((owner.namespace, owner.controller_uid), ())
        return map(self._claims.__getitem__, ids)

    def doubtful(self, ask: Ask, limit: int) -> list[Claim]:
        """Pods on the candidates that hold what an ask wants: were they gone, it might be granted."""
        ask = ask.with_unset_defaults()
        fixed = [
            key_of(ask.ports[member], group.number)
            for group in number_groups(ask, self._rules.reserved)
            if group.number
            for member in group.members
        ]
        low, high = (ask.low, ask.high) if ask.policy is Policy.DYNAMIC else (0, -1)
        scope, exempt = self._occupancy.scope(self._constraints(ask)), self._register.named(ask.owner)
        found: dict[ClaimId, Claim] = {}
        for node in islice(self._occupancy.names_of(scope.nodes), limit):
            held = chain(blockers(fixed, node, self._world, exempt), self._occupancy.held_within(node, low, high))
            pods = (claim for claim in held if claim.pod_uid is not None and claim.id not in self._pending)
            found.update((claim.id, claim) for claim in islice(pods, limit))
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    # -- the life of a claim

    def publish(self, claim_id: ClaimId) -> None:
        """The claim is durable: show it."""
        self._pending.discard(claim_id)
        if claim_id in self._claims:
            self._occupancy.touch(self._claims[claim_id].node)
            self.still_due(claim_id)  # it may have been due while it was pending
        self._tell(claim_id)

    def abort(self, claim_id: ClaimId) -> None:
        """The claim could not be made durable: it never was."""
        self._pending.discard(claim_id)
        self._changed.pop(claim_id, None)
        claim = self._claims[claim_id]
        self._register.remove(claim_id)
        self._upkeep.found_room(claim)

    def end(self, claim_id: ClaimId) -> None:
        """The claim's end is durable: its ports are free. A claim that a Pod has taken up meanwhile goes on."""
        claim = self._claims.get(claim_id)
        if claim is None:
            return
        if claim.pod_uid is not None:
            self._changed[claim_id] = claim  # the journal has just forgotten it
            return
        self._drop(claim)

    def releasable(self, claim_id: ClaimId) -> Claim | None:
        """The claim to end for a Release; None when it is gone already.

        Raises:
            Refused: its Pod lives.

        """
        claim = self.get(claim_id)
        if claim is not None and claim.pod_uid is not None:
            message = f"allocation {claim_id} is held by {claim.owner}, which lives. Delete the Pod"
            raise Refused(Mistake(Reason.HELD_BY_POD, "id", message))
        return claim

    def renewed(self, claim_id: ClaimId, ttl: float, now: float) -> Claim:
        """The lease with its new end. Changes nothing: `amend` makes it stand.

        Raises:
            Refused: there is no such lease.

        """
        claim = self.get(claim_id)
        if claim is None or is_over(claim, now):
            message = f"no allocation {claim_id}: it ended or never was. Allocate anew"
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", message))
        if claim.state is not State.LEASED:
            message = f"allocation {claim_id} is that of {claim.owner}: it lives as long as its Pod"
            raise Refused(Mistake(Reason.NOT_A_LEASE, "id", message))
        return replace(claim, expires=now + ttl)

    def due(self, now: float, most_leases: int = MOST_DUE, most_others: int = MOST_DUE) -> list[Claim]:
        """Some of the claims whose time is up, each once: `still_due` has it told again.

        A lease ends by the clock. A reservation ends when the view of the cluster is proven to reach beyond its
        deadline: until then its Pod may exist.
        """
        register = self._register
        taken = register.leases_end.take(now, most_leases)
        taken += register.others_end.take(min(now, self._seen_until), most_others)
        return [self._claims[claim_id] for claim_id in taken if claim_id not in self._pending]

    def still_due(self, claim_id: ClaimId) -> None:
        """A claim that `due` has told did not end."""
        claim = self._claims.get(claim_id)
        if claim is not None:
            self._register.expect(claim)

    def awaits_proof(self, now: float) -> bool:
        """Whether a reservation would end, were the view of the cluster proven to reach its deadline."""
        return self._register.others_end.has_due(now)

    def restore(self, claims: Iterable[Claim], now: float) -> None:
        """Takes what the journal kept, at start. Plans are checked by the first `observe`.

        A reservation's time begins anew: its Pod may have been on its way for as long as nobody looked.
        """
        for claim in sorted(claims, key=lambda claim: claim.created):
            if claim.state is State.RESERVED and claim.expires is not None:
                claim = replace(claim, expires=now + self._rules.reservation_seconds)  # noqa: PLW2901
            self._register.insert(claim)
            if claim.pod_uid is not None:
                self._backlog.confirmed(claim)
        self._upkeep.suspect_all()

    # -- the cluster

    def trust_pods(self, now: float) -> None:
        """From now on somebody shows us Pods, so that a reservation without one can expire."""
        if self._confirms:
            return
        self._confirms = True
        self._trusted_at = now
        self._endless = list(self._register.unsettled)
        self._end_some()

    def _end_some(self) -> None:
        """Gives some of the reservations that had no end their deadline."""
        for claim_id in self._endless[-MOST_DUE:]:
            claim = self._claims.get(claim_id)
            if claim and claim.state is State.RESERVED and claim.expires is None:
                self._note(replace(claim, expires=self._deadline(self._trusted_at)))
        del self._endless[-MOST_DUE:]

    def observe(
        self,
        *,
        nodes: Iterable[Node] = (),
        gone_nodes: Iterable[NodeName] = (),
        pods: Iterable[Pod] = (),
        gone_pods: Iterable[PodUid] = (),
        now: float,
    ) -> None:
        """What changed in the cluster since the last time."""
        have_nodes_changed = False
        for name in gone_nodes:
            self._occupancy.drop_node(name)
            have_nodes_changed = True
        for node in nodes:
            self._occupancy.put_node(node)
            have_nodes_changed = True
        if have_nodes_changed:
            self._upkeep.suspect_all()
        for uid in gone_pods:
            self._pod_gone(uid)
        for pod in pods:
            self._pod_seen(pod, now)
        self.mend_plans()

    def proven(self, until: float) -> None:
        """The view of the cluster reaches this far: who existed then has been observed."""
        self._seen_until = max(self._seen_until, until)

    def take_changes(self, most: int | None = None) -> dict[ClaimId, Claim | None]:
        """What the cluster changed and was not taken yet, for the journal: the new claim, or None where it ended.

        A pending claim is not in the journal yet, and may never be: its changes wait. With `most`: only as many of
        them, the oldest first, as have so many ports together, each counted as one more.
        """
        weight, changed = 0, dict[ClaimId, Claim | None]()
        for claim_id, claim in self._changed.items():
            if claim_id in self._pending:
                continue
            changed[claim_id] = claim
            weight += 1 + (len(claim.ports) if claim else 0)
            if most is not None and weight >= most:
                break
        for claim_id in changed:
            del self._changed[claim_id]
        return changed

    @property
    def unsaved(self) -> int:
        """How many changes wait to be taken."""
        return len(self._changed)

    def mend_plans(self) -> None:
        """Plans anew what stands where it cannot stay (displaced, or its node is no candidate any more) or nowhere.

        Reservations of a time without Pods get their deadlines, too. A bounded amount: `has_plans_to_mend` says whether
        there is more.
        """
        self._end_some()
        self._upkeep.mend()

    @property
    def has_plans_to_mend(self) -> bool:
        """Whether `mend_plans` did not get to all of them."""
        return bool(self._endless) or self._upkeep.has_more

    def look_for_room(self) -> None:
        """On every tick: what stands nowhere is looked at again, some of it on each."""
        self._upkeep.mend()
        if not self._upkeep.has_more:
            self._upkeep.go_round()

    def take_incidents(self) -> list[Incident]:
        """What went wrong since the last call, for events, logs and metrics."""
        return self._upkeep.take_incidents()

    def _pod_seen(self, pod: Pod, now: float) -> None:
        claim = self._claim_of(pod)
        if claim is None:
            if pod.ports and not pod.is_finished:
                self._note_outsider(pod, now)
            return
        if claim.state is State.RESERVED:
            self._backlog.confirmed(claim)
        if pod.is_finished:
            self._judge(replace(claim, node=pod.node or claim.node, state=State.BOUND, pod_uid=pod.uid), pod, now)
            self._end_with_pod(claim)
            return
        seen = replace(
            claim,
            owner=replace(claim.owner, name=pod.name, generate_name=pod.generate_name, uid=pod.uid),
            state=State.BOUND if pod.node else State.CONFIRMED,
            ports=as_stored(claim.ports, pod.ports),
            constraints=pod.constraints if self._rules.implicit_node is None else claim.constraints,
            node=pod.node or claim.node,
            expires=None,
            settled_at=(claim.settled_at or now + self.ahead) if pod.node else None,
            pod_uid=pod.uid,
            priority=pod.priority,
            may_preempt=pod.may_preempt,
            is_terminating=pod.is_terminating or claim.is_terminating,  # for good, though an older list may not know
        )
        if seen != claim:
            self._note(seen)
            self._upkeep.look_around(seen)
            if seen.is_terminating and not claim.is_terminating:
                self._upkeep.found_room(seen)  # whoever stands nowhere can wait behind it
        self._judge(seen, pod, now)

    def _judge(self, claim: Claim, pod: Pod, now: float) -> None:
        """Outsiders argue with Kubernetes without us."""
        judged = None if claim.external else self._verdicts.hear(claim, pod.verdict, now)
        if judged is not None and judged.verdict.by is Judge.KUBELET:
            self._upkeep.refused(judged)

    def weigh_verdicts(self, now: float) -> None:
        """Looks again at what the scheduler says against our books: what stands for long is an incident."""
        for judged in self._verdicts.unexplained(now):
            self._upkeep.refused(judged)

    def _claim_of(self, pod: Pod) -> Claim | None:
        """The Pod's claim: the one that it has, or the pending one whose id it carries.

        Of two Pods with one id the first owns it; a copied annotation makes no owner.
        """
        known = self._register.by_pod.get(pod.uid)
        if known is not None:
            return self._claims[known]
        claim = self._claims.get(ClaimId(pod.carried_id)) if pod.carried_id else None
        return claim if claim is not None and is_of_pod(claim, pod) else None

    def _note_outsider(self, pod: Pod, now: float) -> None:
        claim = outsider(pod, now + self.ahead)
        self._register.insert(claim)
        self._tell(claim.id)
        self._upkeep.look_around(claim)

    def _pod_gone(self, uid: PodUid) -> None:
        claim_id = self._register.by_pod.get(uid)
        if claim_id is not None:
            self._end_with_pod(self._claims[claim_id])

    def _end_with_pod(self, claim: Claim) -> None:
        """Its ports are free now: the Pod is the truth, and the journal follows."""
        self._drop(claim)
        if not claim.external:
            self._changed[claim.id] = None

    def _move(self, moves: Iterable[Move]) -> None:
        for claim_id, node in moves:
            claim = self._claims[claim_id]
            self._note(replace(claim, node=node))
            self._upkeep.found_room(claim)

    def _tell(self, claim_id: ClaimId) -> None:
        """Tells the listener of a claim that is visible and new or changed."""
        claim = self.get(claim_id) if self.listener else None
        if self.listener and claim:
            self.listener(claim, False)

    def _drop(self, claim: Claim) -> None:
        self._register.remove(claim.id)
        self._verdicts.forget(claim.id)
        if self.listener:
            self.listener(claim, True)
        self._upkeep.found_room(claim)
        if claim.owner.is_pod:
            self._sticky.remember(claim)

    def _note(self, claim: Claim) -> None:
        """A change that the cluster made: in force at once, and for the journal to follow."""
        self._register.replace(claim)
        self._tell(claim.id)
        if not claim.external:
            self._changed[claim.id] = claim

    # -- for metrics

    @property
    def discloses_holders(self) -> bool:
        """Whether holders of other namespaces may be named."""
        return self._rules.discloses_holders

    def tally(self) -> Tally:
        """How much there is. Reads counters that are kept anyway."""
        register = self._register
        return Tally(
            states=dict(register.states),
            outsiders=len(register.claims) - register.states.total(),
            outsider_ports=register.outsider_ports,
            unplaceable=sum(
                number
                for constraints, number in register.unplanned_within.items()
                if self._occupancy.scope(constraints).nodes
            ),
            known_nodes=self._occupancy.known_count(),
            verdicts={(judge.value, explained): n for (judge, explained), n in self._verdicts.counts.items()},
            contradictions=self._verdicts.contradictions,
            picture=self._survey.picture,
        )

    def survey(self, most: int) -> None:
        """Goes on with the walk that measures how full ranges are: so many nodes and numbers of it, or one node."""
        self._survey.step(most)

    # -- questions

    def candidate_count(self, claim: Claim) -> int:
        """On how many of the nodes of now the owner may run."""
        return self._occupancy.scope(claim.constraints).nodes.bit_count()

    def is_unplaceable(self, claim: Claim) -> bool:
        """Whether a claim has candidates and fits on none of them."""
        if claim.is_settled or claim.node is not None:
            return False
        return self._occupancy.scope(claim.constraints).nodes != 0

    def has(self, claim_id: ClaimId) -> bool:
        """Whether the books have a claim of this id, pending ones included."""
        return claim_id in self._claims

    def get(self, claim_id: ClaimId) -> Claim | None:
        return None if claim_id in self._pending else self._claims.get(claim_id)

    def claims(self) -> Iterator[Claim]:
        """Every durable claim, in the order of ids. Nothing may change meanwhile."""
        return (self._claims[claim_id] for claim_id in self._register.ids if claim_id not in self._pending)

    def ids_after(self, claim_id: str, most: int) -> list[ClaimId]:
        """The first ids beyond one, in order, fewer than `most` only at the end; `get` says which are durable."""
        return self._register.ids.after(claim_id, most)

    def ids_on(self, name: NodeName) -> set[ClaimId]:
        """The claims whose node this is; `get` says which are durable."""
        register = self._register
        held = {claim.id for holders in self._occupancy.held_by_slot(name).values() for claim in holders}
        return held | {claim_id for claim_id in register.portless if self._claims[claim_id].node == name}

    def leases(self) -> list[Claim]:
        """Every durable lease, in the order in which they last changed."""
        return [self._claims[claim_id] for claim_id in self._register.leases if claim_id not in self._pending]

    @property
    def has_leases(self) -> bool:
        """Whether anything is leased, pending leases among it."""
        return bool(self._register.leases)

    def lease_ids(self) -> list[ClaimId]:
        """Ids of all leases, pending ones among them."""
        return list(self._register.leases)

    def known_pods(self) -> Collection[PodUid]:
        """The Pods that were seen and hold something."""
        return self._register.by_pod.keys()

    @property
    def candidate_sets(self) -> int:
        """How many candidate sets are kept: each change of a node is held against all of them."""
        return self._occupancy.scope_count

    def node_names(self) -> list[NodeName]:
        return self._occupancy.names()

    def node_names_after(self, name: str, most: int) -> list[NodeName]:
        """The first names beyond one, in order; fewer than `most` only at the end."""
        return self._occupancy.names_after(name, most)

    def has_node(self, name: str) -> bool:
        """Whether a Node object, a Pod or a claim names such a node."""
        return self._occupancy.is_named(name)

    def is_known_node(self, name: NodeName) -> bool:
        """Whether there is a Node object; what only Pods and claims name is no known node."""
        return self._occupancy.is_known(name)

    def holders(self, name: NodeName, protocol: Protocol, number: int) -> list[Claim]:
        """Who holds a port on a node, on whatever address, pending ones aside, in order of arrival."""
        held = self._occupancy.holders(name, PortKey(WILDCARD, protocol, number))
        return [claim for claim in held if claim.id not in self._pending]

    @property
    def count(self) -> int:
        """How many claims there are, pending ones among them."""
        return len(self._claims)

    def latest(self, skip: int, most: int) -> list[ClaimId]:
        """Ids, what changed last first; `get` says which are durable."""
        return list(islice(reversed(self._claims), skip, skip + most))

    def in_order_of_change(self) -> list[ClaimId]:
        """All ids, what changed last at the end; `get` says which are durable."""
        return list(self._claims)

    def held_on(self, name: NodeName) -> Iterator[tuple[int, Claim]]:
        """Every number that is held on a node and its holder, in no order, pending ones aside."""
        for number, claim in self._occupancy.held_on(name):
            if claim.id not in self._pending:
                yield number, claim

    def held_by_slot(self, name: NodeName) -> list[list[Claim]]:
        """For each slot that is held on a node its holders, pending ones aside; in no order."""
        pending = self._pending
        every = self._occupancy.held_by_slot(name).values()
        held = ([claim for claim in holders if claim.id not in pending] for holders in every)
        return [claims for claims in held if claims]

    @property
    def changes(self) -> int:
        """Grows with whatever `claims`, `held_on` and `port_map` show."""
        return self._occupancy.changes

    def changed_on(self, name: NodeName) -> int:
        """The value of `changes` when a node last looked different."""
        return self._occupancy.changed_on(name)

    def ranges(self) -> list[Bounds]:
        """The ranges that most claims come from, the most used one first."""
        return [each for each, _ in self._register.ranges.most_common(MOST_RANGES)]

    @property
    def reserved(self) -> int:
        """The numbers that Dynamic and Index never hand out."""
        return self._rules.reserved

    def port_map(self, name: NodeName) -> list[tuple[PortKey, Claim]]:
        """Every port that is held on a node, with its holder, pending ones aside."""
        held = self._occupancy.port_map(name)
        return [(key, claim) for key, claim in held if claim.id not in self._pending]


def is_over(claim: Claim, now: float) -> bool:
    """Whether a lease has run out, though its end is not made durable yet. A reservation ends only when that is."""
    return claim.state is State.LEASED and claim.expires is not None and claim.expires <= now


def _appearances(ports: tuple[ClaimPort, ...]) -> Iterator[Warned]:
    appeared = ", ".join(f"{port.key} of container {port.container}" for port in ports if port.appeared)
    if appeared:
        yield Warned(Notice.PORT_APPEARED, f"{appeared} came with another webhook and is held as it stands")
