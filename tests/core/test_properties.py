"""What must always hold, whatever the order of things.

A machine asks, leases, releases, renews, lets time pass, creates and deletes the Pods of admitted asks, binds them to
any node that the scheduler's NodePorts rule allows, adds and removes nodes, and restarts the ledger from what the
journal keeps. Hypothesis looks for an order in which two live claims conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kit import node, on

from allocator.core.asks import Ask, Policy, PortAsk, Refused
from allocator.core.candidates import ANYWHERE, Constraints, NodeName
from allocator.core.claims import Claim, ClaimId, Owner, PodUid
from allocator.core.ledger import Ledger, Rules
from allocator.core.occupancy import Occupancy
from allocator.core.pods import Pod
from allocator.core.ports import Protocol
from allocator.journal.records import decode_claim, encode_claim

NODES = ["n1", "n2", "n3"]
SSD = Constraints(selector=(("disk", "ssd"),))

port_asks = st.builds(
    PortAsk,
    container=st.sampled_from(["a", "b"]),
    protocol=st.sampled_from([Protocol.TCP, Protocol.UDP]),
    container_port=st.sampled_from([1, 2, 7000, 7001]),
    host_port=st.sampled_from([0, 0, 7000, 7001, 7002]),
    host_ip=st.sampled_from(["", "", "10.0.0.1", "10.0.0.2"]),
)
asks = st.builds(
    Ask,
    owner=st.builds(
        Owner,
        namespace=st.sampled_from(["x", "y"]),
        name=st.sampled_from(["", "db-0", "db-1"]),
        generate_name=st.just("db-"),
        controller_uid=st.sampled_from(["", "rs"]),
    ),
    ports=st.lists(port_asks, min_size=1, max_size=3).map(tuple),
    policy=st.sampled_from(Policy),
    low=st.just(7000),
    high=st.sampled_from([7002, 7005]),
    stride=st.just(2),
    index=st.sampled_from([0, 1, None]),
    constraints=st.sampled_from([ANYWHERE, ANYWHERE, SSD, on("n1"), on("n2"), on("ghost")]),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A Pod that the API server stored, and the claim that admitted it."""

    pod: Pod
    claim_id: ClaimId


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.count = 0
        self.nodes = {name: node(name, labels={"disk": "ssd"} if name != "n3" else {}) for name in NODES}
        self.pods: dict[PodUid, Stored] = {}
        self.ledger = self.started([])

    def started(self, claims: list[Claim]) -> Ledger:
        ledger = Ledger(Rules(reserved=1 << 7003))
        ledger.trust_pods(self.now)
        ledger.restore(claims)
        gone = set(ledger.known_pods()) - self.pods.keys()
        ledger.observe(
            nodes=self.nodes.values(), pods=[s.pod for s in self.pods.values()], gone_pods=gone, now=self.now
        )
        return ledger

    def observe(self, **changes: Any) -> None:
        self.ledger.observe(**changes, now=self.now)

    def take(self, ask: Ask) -> None:
        self.count += 1
        before = self.visible()
        try:
            claim, _ = self.ledger.reserve(ask, ClaimId(f"{self.count:032x}"), self.now)
        except Refused:
            assert self.visible() == before, "a refusal changes nothing"
            return
        self.ledger.publish(claim.id)

    @rule(ask=asks)
    def allocate(self, ask: Ask) -> None:
        self.take(ask)

    @rule(ask=asks)
    def allocate_a_lease(self, ask: Ask) -> None:
        self.take(replace(ask, owner=Owner(kind="Service", name="relay"), ttl=60.0))

    @rule(ask=asks)
    def decide_and_abort(self, ask: Ask) -> None:
        before = self.numbers()
        try:
            claim, _ = self.ledger.reserve(ask, ClaimId("aborted"), self.now)
        except Refused:
            return
        self.ledger.abort(claim.id)
        assert self.numbers() == before, "plans may have moved, nothing else"

    @precondition(lambda self: any(self.ledger.claims()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(list(self.ledger.claims())))
        try:
            self.ledger.releasable(claim.id)
        except Refused:
            assert claim.pod_uid is not None
            return
        self.ledger.end(claim.id)

    @precondition(lambda self: any(self.ledger.claims()))
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(list(self.ledger.claims())))
        try:
            self.ledger.amend(self.ledger.renewed(claim.id, 60.0, self.now))
        except Refused:
            assert claim.owner.is_pod

    @rule(seconds=st.sampled_from([1.0, 20.0, 45.0, 61.0]), is_current=st.booleans())
    def pass_time(self, seconds: float, is_current: bool) -> None:
        self.now += seconds
        if is_current:
            self.ledger.proven(self.now)
        for claim in self.ledger.due(self.now):
            self.ledger.end(claim.id)

    @precondition(lambda self: any(c.owner.is_pod and c.pod_uid is None for c in self.ledger.claims()))
    @rule(data=st.data())
    def create_pod(self, data: st.DataObject) -> None:
        """The API server stores a Pod that was admitted, unless one of its name exists."""
        admitted = [c for c in self.ledger.claims() if c.owner.is_pod and c.pod_uid is None]
        claim = data.draw(st.sampled_from(admitted))
        self.count += 1
        name = claim.owner.name or f"db-{self.count}x"
        if any((s.pod.namespace, s.pod.name) == (claim.owner.namespace, name) for s in self.pods.values()):
            return
        pod = Pod(
            uid=PodUid(f"u{self.count}"),
            namespace=claim.owner.namespace,
            name=name,
            generate_name=claim.owner.generate_name,
            controller_uid=claim.owner.controller_uid,
            ports=claim.ports,
            constraints=claim.constraints,
            node=claim.constraints.node_name,
            carried_id=claim.id,
        )
        if pod.node is not None and not self.is_free(pod, pod.node):
            # Nobody scheduled it, so that the kubelet is the first to see the clash: it refuses the Pod (NodePorts).
            self.observe(pods=[replace(pod, is_finished=True)])
            return
        self.pods[pod.uid] = Stored(pod, claim.id)
        self.observe(pods=[pod])

    def is_free(self, pod: Pod, name: NodeName) -> bool:
        """The NodePorts rule: scheduler and kubelet know Pods that have a node, and no leases."""
        others = [other.pod for other in self.pods.values() if other.pod.node == name]
        return not any(a.key.conflicts_with(b.key) for other in others for a in pod.ports for b in other.ports)

    @precondition(lambda self: any(s.pod.node is None for s in self.pods.values()))
    @rule(data=st.data())
    def schedule(self, data: st.DataObject) -> None:
        stored = data.draw(st.sampled_from([s for s in self.pods.values() if s.pod.node is None]))
        fitting = [
            name
            for name in self.nodes
            if stored.pod.constraints.accepts(self.nodes[name]) and self.is_free(stored.pod, NodeName(name))
        ]
        if fitting:
            pod = replace(stored.pod, node=NodeName(data.draw(st.sampled_from(fitting))))
            self.pods[pod.uid] = replace(stored, pod=pod)
            self.observe(pods=[pod])

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def delete_pod(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(list(self.pods)))
        del self.pods[uid]
        self.observe(gone_pods=[uid])

    @rule(name=st.sampled_from(NODES))
    def toggle_node(self, name: str) -> None:
        if NodeName(name) in self.nodes:
            del self.nodes[name]
            self.observe(gone_nodes=[NodeName(name)])
        elif not any(c.node == name and not c.owner.is_pod for c in self.ledger.claims()):
            # A node that comes back with a lease on it may get a Pod that was admitted while it was away: that is
            # reported, and cannot be prevented.
            self.nodes[name] = node(name, labels={"disk": "ssd"})
            self.observe(nodes=[self.nodes[name]])

    @rule()
    def restart(self) -> None:
        self.ledger.mend_plans()
        kept = [decode_claim(encode_claim(claim)) for claim in self.ledger.claims() if not claim.external]
        before = self.visible()
        self.ledger = self.started(kept)
        assert self.visible() == before, "the journal replays to the same ledger"

    def visible(self) -> dict[ClaimId, Claim]:
        return {claim.id: claim for claim in self.ledger.claims()}

    def numbers(self) -> dict[ClaimId, object]:
        return {claim.id: (claim.state, claim.ports) for claim in self.ledger.claims()}

    @invariant()
    def no_two_live_claims_conflict_on_a_node(self) -> None:
        for a, b in combinations(self.ledger.claims(), 2):
            if a.node is None or a.node != b.node:
                continue
            if a.owner.full_name is not None and a.owner.full_name == b.owner.full_name:
                continue  # succession
            assert not any(x.conflicts_with(y) for x in a.keys for y in b.keys), (a, b)

    @invariant()
    def every_pod_holds_its_ports_on_its_node(self) -> None:
        for stored in self.pods.values():
            claim = self.ledger.get(stored.claim_id)
            assert claim is not None
            assert claim.pod_uid == stored.pod.uid
            assert claim.node == stored.pod.node or stored.pod.node is None

    @invariant()
    def the_index_is_what_the_claims_say(self) -> None:
        fresh = Occupancy()
        for known in self.nodes.values():
            fresh.put_node(known)
        for claim in self.ledger.claims():
            fresh.stand(claim)
        ours = self.ledger._occupancy
        for constraints in (ANYWHERE, SSD, on("n1"), on("ghost")):
            for protocol in (Protocol.TCP, Protocol.UDP):
                taken = [o.taken(o.scope(constraints), protocol, 1, 65535) for o in (ours, fresh)]
                assert taken[0] == taken[1], (constraints, protocol)
        for name in fresh.names():
            assert ours.port_map(name) == fresh.port_map(name)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
