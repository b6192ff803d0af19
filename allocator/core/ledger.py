"""The ledger: the commands that change who holds which port, on which node, in which state of life.

`Drafts` says what an ask would be given, `ClaimsView` and `NodesView` what is held: they change nothing. All of them
look at one `ClaimStore`.

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

Longer than 350 lines because every command that changes a claim is here, and no other module has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from allocator.core.admission import AdmissionLimits, Drafts, LedgerRules, placement_view
from allocator.core.asks import Ask
from allocator.core.candidates import Node
from allocator.core.claims import (
    Claim,
    ClaimId,
    ClusterChange,
    LifeEvent,
    ObservedPod,
    RejectedBy,
    State,
    after,
    has_shrunk,
    is_of_pod,
    planned,
    seen,
    unmanaged_claim,
)
from allocator.core.sockets import SocketChange
from allocator.core.store import ClaimStore
from allocator.core.view import ClaimsView, NodesView
from allocator.core.watch.listening import ListeningWatch
from allocator.core.watch.rejections import PortRejections
from allocator.core.watch.replanner import Incident, Replanner
from allocator.core.watch.utilization import UtilizationScan
from hostport.contract import PodWarning

MOST_DUE = 256
"""Leases, and likewise reservations, that are told as due at a time."""


Listener = Callable[[Claim, bool], None]
"""Told of each visible change: the claim, and whether it has ended."""


class Ledger:
    """What changes the claims. The views, the limits and the drafts are for its readers, who keep them."""

    def __init__(self, rules: LedgerRules) -> None:
        self.rules = rules
        self.ahead = 0.0  # seconds that the wall clock is ahead of `now`
        self.listener: Listener | None = None
        store = self._store = ClaimStore()
        self._claims = store.claims
        self.unsaved: dict[ClaimId, Claim | None] = {}  # changed by the cluster, and not taken for the journal yet
        self._trusted_at = 0.0  # when somebody began to show us Pods
        self._endless: list[ClaimId] = []  # among them reservations of before, which have no deadline yet
        placing = placement_view(store, rules)
        self._replanner = Replanner(store, placing, self._note)
        self._rejections = PortRejections(store, placing)
        self.listening = ListeningWatch(store)
        self.limits = AdmissionLimits(store, rules.shares, rules.reservation_seconds)
        self.drafts = Drafts(store, placing, self.limits, rules)
        self.utilization = UtilizationScan(store, rules.reserved)
        self.claims = ClaimsView(store, placing, self._rejections, self.utilization, self._replanner.node_ports)
        self.nodes = NodesView(store)
        if rules.implicit_node is not None:
            store.sets.put_node(Node(name=rules.implicit_node))

    # -- asks

    def preview(self, ask: Ask, now: float) -> tuple[Claim, tuple[PodWarning, ...]]:
        """What `reserve` would grant, without an id. Changes nothing.

        Raises:
            Refused: the ask is wrong in itself, or nothing fits.
            UndecidedError: the search was cut off.

        """
        claim, placement = self.drafts.draft(ask, ClaimId(""), now, now + self.ahead)
        return claim, placement.warnings

    def reserve(self, ask: Ask, claim_id: ClaimId, now: float) -> tuple[Claim, tuple[PodWarning, ...]]:
        """Decides and takes: the claim counts from here on, and is pending until `publish` or `abort`.

        Raises:
            Refused, UndecidedError: as for `preview`.

        """
        # The draft is the last thing that may refuse: nothing is changed so far.
        claim, placement = self.drafts.draft(ask, claim_id, now, now + self.ahead, is_counted=True)
        for moved, node in placement.moves:
            plan = self._claims[moved]
            self._note(planned(plan, node))
            self._replanner.found_room(plan)
        self._store.pending.add(claim_id)  # taken at once, and shown to nobody until it is durable
        self._store.insert(claim)
        return claim, placement.warnings

    def replace(self, claim: Claim) -> None:
        """Puts what `Drafts.readmit` or `ClaimsView.renewed` gave in place of the claim of its id; plans make room."""
        self._store.replace(claim)
        self._tell(claim.id)
        if claim.id in self._store.unsettled:
            self._replanner.replan_now(claim)

    # -- the life of a claim

    def publish(self, claim_id: ClaimId) -> None:
        """The claim is durable: show it."""
        claim = self._store.publish(claim_id)
        if self.listener and claim is not None:
            self.listener(claim, False)

    def abort(self, claim_id: ClaimId) -> None:
        """The claim could not be made durable: it never was."""
        self._store.pending.discard(claim_id)
        self.unsaved.pop(claim_id, None)
        claim = self._claims[claim_id]
        self._store.remove(claim_id)
        self._replanner.found_room(claim)

    def end(self, claim_id: ClaimId, now: float) -> None:
        """The claim's end is durable: its ports are free, and cool from `now`. One that a Pod has taken up goes on."""
        claim = self._claims.get(claim_id)
        if claim is None:
            return
        if claim.pod_uid is not None:  # a Pod is the truth about itself
            self.unsaved[claim_id] = claim  # the journal has just forgotten it
            return
        self._drop(claim, LifeEvent.ENDED, now)

    def due(self, now: float, most_leases: int = MOST_DUE, most_others: int = MOST_DUE) -> list[Claim]:
        """Some of the claims whose time is up, each once: `still_due` has it told again.

        A lease ends by the clock, a reservation when the view of the cluster is proven to reach beyond its deadline.
        most_leases, most_others: at most so many of each.
        """
        store = self._store
        taken = store.leases_end.take(now, most_leases)
        # Until the view of the cluster reaches beyond its deadline, the Pod of a reservation may exist.
        taken += store.others_end.take(min(now, self.limits.seen_until), most_others)
        return [self._claims[claim_id] for claim_id in taken if claim_id not in self._store.pending]

    def still_due(self, claim_id: ClaimId) -> None:
        """A claim that `due` has told did not end."""
        claim = self._claims.get(claim_id)
        if claim is not None:
            self._store.expect(claim)

    def restore(self, claims: Iterable[Claim], now: float) -> None:
        """Takes what the journal kept, at start. Plans are checked by the first `observe`.

        A reservation's time begins anew. `now`: in seconds.
        """
        restored = sorted(claims, key=lambda claim: claim.created)
        for claim in restored:
            if claim.state is State.RESERVED and claim.expires is not None:
                # Its Pod may have been on its way for as long as nobody looked.
                claim = replace(claim, expires=now + self.rules.reservation_seconds)  # noqa: PLW2901
            self._store.insert(claim)
            if claim.pod_uid is not None:
                self._store.owners.confirm(claim)
        self._replanner.suspect(claim.id for claim in restored if not claim.is_settled)

    # -- the cluster

    def trust_pods(self, now: float) -> None:
        """From now on somebody shows us Pods, so that a reservation without one can expire."""
        if self.limits.confirms:
            return
        self.limits.confirms = True
        self._trusted_at = now
        self._endless = list(self._store.unsettled)
        self._end_some()

    def _end_some(self) -> None:
        """Gives some of the reservations that had no end their deadline."""
        for claim_id in self._endless[-MOST_DUE:]:
            claim = self._claims.get(claim_id)
            if claim and claim.state is State.RESERVED and claim.expires is None:
                self._note(replace(claim, expires=self._trusted_at + self.rules.reservation_seconds))
        del self._endless[-MOST_DUE:]

    def observe(self, change: ClusterChange, *, now: float) -> None:
        """Takes what changed in the cluster, at `now` seconds, and plans anew what it displaced."""
        self._store.ports.sockets.now = now
        if change.enforced is not None:
            self.limits.enforce(change.enforced)
        if change.addressed is not None:
            self.limits.addressed = frozenset(change.addressed)
        have_nodes_changed = False
        for name in change.gone_nodes:
            self._store.ports.sockets.forget(name)
            self._store.sets.drop_node(name)
            have_nodes_changed = True
        for node in change.nodes:
            self._store.sets.put_node(node)
            have_nodes_changed = True
        if have_nodes_changed:
            self._replanner.suspect_all()
        if change.services or change.gone_services:
            self._replanner.services_changed(self._store.services.update(change.gone_services, change.services))
        for uid in change.gone_pods:
            claim_id = self._store.by_pod.get(uid)
            if claim_id is not None:
                self._end_with_pod(self._claims[claim_id], now)
        for pod in change.pods:
            self._pod_seen(pod, now)
        for report in change.reports:
            self._take_report(report, now)
        self.replan()

    def _take_report(self, report: SocketChange, now: float) -> None:
        """Takes a part of what an agent says; plans that stand in the way of a process are looked at again."""
        if not self._store.nodes.is_known(report.node):
            return  # it is gone, and its agent will be soon
        opened, closed = self._store.ports.sockets.take(report, now)
        self._replanner.opened(report.node, opened)
        self._replanner.closed(closed)

    def proven(self, until: float) -> None:
        """The view of the cluster reaches this far: who existed then has been observed."""
        self.limits.seen_until = max(self.limits.seen_until, until)

    def take_changes(self, most: int | None = None) -> dict[ClaimId, Claim | None]:
        """What the cluster changed and was not taken yet: a claim as it stands now, or None where its Pod is gone.

        A claim that a request ended since is left out: the journal has been told. A pending claim is not in the
        journal yet, and may never be: its changes wait. With `most`: only as many of them, the oldest first, as have
        so many ports together, each counted as one more.
        """
        weight, taken, changed = 0, list[ClaimId](), dict[ClaimId, Claim | None]()
        for claim_id, noted in self.unsaved.items():
            if claim_id in self._store.pending:
                continue
            taken.append(claim_id)
            claim = None if noted is None else self._claims.get(claim_id)
            if claim is None and noted is not None:
                continue
            changed[claim_id] = claim
            weight += 1 + (len(claim.ports) if claim else 0)
            if most is not None and weight >= most:
                break
        for claim_id in taken:
            del self.unsaved[claim_id]
        return changed

    def replan(self) -> None:
        """Plans anew what stands where it cannot stay (displaced, or its node is no candidate any more) or nowhere.

        Reservations of a time without Pods get their deadlines, too. It does a bounded amount, and `has_more_to_replan`
        says whether there is more.
        """
        self._end_some()
        self._replanner.replan()

    @property
    def has_more_to_replan(self) -> bool:
        """Whether `replan` did not get to all of them."""
        return bool(self._endless) or self._replanner.has_more

    def look_for_room(self) -> None:
        """On every tick: what stands nowhere is looked at again, some of it on each."""
        self._replanner.replan()
        if not self._replanner.has_more:
            self._replanner.go_round()

    def find_node_ports_again(self) -> None:
        """Whose numbers Services hold was told to nobody: that is found once more, and told a part at a time."""
        self._replanner.node_ports.find_again()

    def take_incidents(self) -> list[Incident]:
        """What went wrong since the last call, for events, logs and metrics."""
        return self._replanner.take_incidents()

    def _pod_seen(self, pod: ObservedPod, now: float) -> None:
        claim = self._claim_of(pod)
        if claim is None:
            if pod.ports and not pod.is_finished:
                self._note_unmanaged(pod, now)
            return
        if claim.state is State.RESERVED:  # whoever is seen makes room
            self._store.owners.confirm(claim)
        if pod.is_finished:
            self._note_rejection(
                replace(claim, node=pod.node or claim.node, state=State.BOUND, pod_uid=pod.uid), pod, now
            )
            self._store.given_up.note(claim, pod.node, now)  # it may have been finished before it was seen to run
            self._end_with_pod(claim, now)
            return
        shown = seen(claim, pod, now + self.ahead, keeps_constraints=self.rules.implicit_node is not None)
        if shown != claim:
            if shown.ports is not claim.ports and has_shrunk(claim, shown):
                self._replanner.shrunk(shown)
            self._note(shown)
            self._replanner.look_around(shown)
            if shown.is_terminating and not claim.is_terminating:
                self._replanner.found_room(shown)  # whoever stands nowhere can wait behind it
        self._note_rejection(shown, pod, now)
        if shown.state is State.BOUND and not (shown.own_network or shown.unmanaged):
            self.listening.note(shown, None if pod.ready_at is None else pod.ready_at - self.ahead, now)

    def _note_rejection(self, claim: Claim, pod: ObservedPod, now: float) -> None:
        """Compares what Kubernetes says of a Pod's ports with the claims. A Pod that never asked is left alone."""
        if claim.unmanaged or (pod.rejection is None and claim.id not in self._rejections.standing):
            return  # nothing is said, and nothing was
        compared = self._rejections.note(claim, pod.rejection, now)
        if compared is not None and compared.rejection.by is RejectedBy.KUBELET:
            self._replanner.refused(compared)

    def pass_time(self, now: float) -> None:
        """On every tick: reports of agents grow old."""
        self._store.ports.sockets.now = now

    def check_rejections(self, now: float) -> None:
        """Compares what the scheduler says again: a contradiction that stands for long is an incident."""
        for compared in self._rejections.compare(now):
            self._replanner.refused(compared)

    def _claim_of(self, pod: ObservedPod) -> Claim | None:
        """The Pod's claim: the one that it has, or the pending one whose id it carries.

        Of two Pods with one id the first owns it; a copied annotation makes no owner.
        """
        known = self._store.by_pod.get(pod.uid)
        if known is not None:
            return self._claims[known]
        claim = self._claims.get(ClaimId(pod.carried_id)) if pod.carried_id else None
        return claim if claim is not None and is_of_pod(claim, pod) else None

    def _note_unmanaged(self, pod: ObservedPod, now: float) -> None:
        claim = unmanaged_claim(pod, now + self.ahead)
        self._store.insert(claim)
        self._tell(claim.id)
        self._replanner.look_around(claim)

    def _end_with_pod(self, claim: Claim, now: float) -> None:
        """Its ports are free now: the Pod is the truth, and the journal follows."""
        self._drop(claim, LifeEvent.POD_GONE, now)
        if not claim.unmanaged:
            self.unsaved[claim.id] = None

    def _tell(self, claim_id: ClaimId) -> None:
        """Tells the listener of a claim that is visible and new or changed."""
        if self.listener and claim_id in self._claims and claim_id not in self._store.pending:
            self.listener(self._claims[claim_id], False)

    def _drop(self, claim: Claim, event: LifeEvent, now: float) -> None:
        after(claim.state, event)
        self._store.remove(claim.id)
        self._store.ports.sockets.presume_closed(claim)
        self._rejections.forget(claim.id)
        self.listening.forget(claim.id)
        self._replanner.forget(claim.id)
        if self.listener:
            self.listener(claim, True)
        self._replanner.found_room(claim)
        self._store.former.remember(claim)
        self._store.given_up.note(claim, claim.node if claim.is_settled else None, now)

    def _note(self, claim: Claim) -> None:
        """A change that the cluster made: in force at once, and for the journal to follow."""
        self._store.replace(claim)
        self._tell(claim.id)
        if not claim.unmanaged:
            self.unsaved[claim.id] = claim
