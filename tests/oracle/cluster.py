"""A small random cluster, made from one number, and what holds after each thing that happens in it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kit import Desk, node
from msgspec.structs import replace

from allocator.core.asks import Ask, Policy, PortAsk, Refused, UndecidedError, WhenFull
from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName, Taint, Toleration
from allocator.core.claims import Claim, ClaimPort, Owner, State
from allocator.core.pods import Pod
from allocator.core.ports import Protocol

from . import brute

LOW, HIGH = 7000, 7004
ADDRESSES = ("", "", "", "", "10.0.0.1", "10.0.0.2")
UNPROVEN = {"PORT_CONFLICT", "RANGE_EXHAUSTED"}


@dataclass
class Findings:
    """What was seen, over many clusters."""

    answers: Counter[str] = field(default_factory=Counter)


class Cluster:
    """One ledger, asked at random, held against `brute`."""

    def __init__(self, seed: int, findings: Findings) -> None:
        self._random = random.Random(seed)
        self._findings = findings
        self._reserved = 1 << 7001 if self._random.random() < 0.2 else 0
        self._nodes: dict[str, Node] = {}
        self._is_simple = self._random.random() < 0.4  # one port each: for these the search is always exact
        self._serial = 0
        self._have_nodes_changed = False
        self.desk = Desk(reserved=self._reserved)
        self.desk.ledger.trust_pods(self.desk.now)
        for number in range(self._random.randint(1, 6)):
            self._put_node(f"n{number}")

    def run(self) -> None:
        """Lets some things happen; raises AssertionError where an answer was wrong."""
        steps = [(self._ask_pod, 10), (self._bind, 4), (self._lease, 2), (self._terminate, 2), (self._go, 1)]
        steps += [(self._outsider, 1), (self._change_node, 1), (self._come_again, 1)]
        for _ in range(self._random.randint(4, 14)):
            (step,) = self._random.choices([s for s, _ in steps], [weight for _, weight in steps])
            step()
            self._check_books()

    # -- what happens

    def _ask_pod(self) -> None:
        ask = self._pod_ask()
        before = self._picture()
        try:
            claim = self.desk.grant(ask)
        except UndecidedError:
            self._findings.answers["undecided"] += 1
            return
        except Refused as refused:
            self._check_refusal(ask, before, {mistake.reason.name for mistake in refused.mistakes})
            return
        self._check_grant(ask, claim, before)

    def _check_refusal(self, ask: Ask, before: brute.Picture, reasons: set[str]) -> None:
        self._findings.answers["refused"] += 1
        if reasons & UNPROVEN:
            self._findings.answers["denied"] += 1
            assert not brute.pod_fits(before, ask), f"denied without proof: {reasons}"
        if "HELD_BY_LEASE" in reasons:
            (ports,) = brute.tuples(ask, 0) if ask.policy is not Policy.DYNAMIC else (_fixed(ask),)
            assert brute.leased_on_candidates(before, ports, brute.candidates(before, ask.constraints))

    def _check_grant(self, ask: Ask, claim: Claim, before: brute.Picture) -> None:
        self._findings.answers["granted"] += 1
        nodes = brute.candidates(before, ask.constraints)
        ports = brute.ports_of(claim)
        assert not brute.leased_on_candidates(before, ports, nodes), "given a number that is leased on a candidate"
        assert _is_allowed(ask, claim, self._reserved), "given numbers that its policy does not allow"
        if claim.node is None and nodes:
            self._findings.answers["pending"] += 1
            assert ask.when_full is WhenFull.PENDING, "admitted without a node"
            assert not brute.pod_fits(before, ask), "left Pending though there is room"
        elif claim.node is not None:
            self._findings.answers["placed"] += 1
            assert claim.node in nodes

    def _lease(self) -> None:
        ports = self._ports(self._random.choice((1, 1, 2)))
        fixed = self._random.random() < 0.5
        ask = Ask(
            owner=Owner(kind="Relay", namespace="lessee", name=self._name()),
            ports=tuple(self._with_number(port) for port in ports) if fixed else ports,
            policy=Policy.STATIC if fixed else Policy.DYNAMIC,
            low=LOW,
            high=HIGH,
            constraints=self._constraints(),
        )
        before = self._picture()
        try:
            claim = self.desk.grant(ask)
        except UndecidedError:
            self._findings.answers["undecided"] += 1
        except Refused as refused:
            reasons = {mistake.reason.name for mistake in refused.mistakes}
            assert not (reasons & UNPROVEN and brute.lease_fits(before, ask)), "a lease was denied without proof"
        else:
            self._findings.answers["leased"] += 1
            assert claim.node in brute.candidates(before, ask.constraints)
            assert not any(
                brute.conflict(brute.ports_of(claim), brute.ports_of(other))
                for other in before.claims
                if other.node == claim.node
                or (not brute.is_settled(other) and claim.node in brute.candidates(before, other.constraints))
            ), "leased where somebody has the number, or could land with it"

    def _bind(self) -> None:
        """The scheduler chooses a node where no Pod has the ports; it knows no leases and no plans."""
        waiting = [claim for claim in self._claims() if not brute.is_settled(claim)]
        if not waiting:
            return
        claim, picture = self._random.choice(waiting), self._picture()
        bound = [other for other in picture.claims if other.state is State.BOUND and other.id != claim.id]
        free = [
            name
            for name in brute.candidates(picture, claim.constraints)
            if not any(o.node == name and brute.conflict(brute.ports_of(claim), brute.ports_of(o)) for o in bound)
        ]
        if free:
            node = NodeName(self._random.choice(free))
            self._show(claim, node)
            leases = [other for other in picture.claims if other.state is State.LEASED and other.node == node]
            # A node that changes may bring its leases to a Pod that was admitted before: nobody can help that.
            assert (
                claim.external
                or self._have_nodes_changed
                or not any(brute.conflict(brute.ports_of(claim), brute.ports_of(lease)) for lease in leases)
            ), "a lease was met by a Pod"

    def _terminate(self) -> None:
        bound = [claim for claim in self._claims() if claim.state is State.BOUND]
        if bound:
            claim = self._random.choice(bound)
            self._show(claim, claim.node, is_terminating=True)

    def _go(self) -> None:
        claims = self._claims()
        if not claims:
            return
        claim = self._random.choice(claims)
        if claim.pod_uid is not None:
            self.desk.observe(gone_pods=[claim.pod_uid])
        else:
            self.desk.ledger.end(claim.id)
            self.desk.ledger.mend_plans()

    def _outsider(self) -> None:
        at = NodeName(self._random.choice([*self._nodes, ""])) or None
        claim_ports = tuple(self._with_number(port) for port in self._ports(1))
        self._serial += 1
        pod = Pod(
            uid=f"outsider-{self._serial}",  # type: ignore[arg-type]
            namespace="other",
            name=f"outsider-{self._serial}",
            node=at,
            ports=tuple(_claim_port(port) for port in claim_ports),
            priority=self._random.choice((0, 0, 5)),
        )
        self.desk.observe(pods=[pod])

    def _change_node(self) -> None:
        name = f"n{self._random.randint(0, 5)}"
        self._have_nodes_changed = True
        if name in self._nodes and self._random.random() < 0.3:
            del self._nodes[name]
            self.desk.observe(gone_nodes=[NodeName(name)])
        else:
            self._put_node(name)

    def _come_again(self) -> None:
        """A reinvocation: the Pod's own pending claim is seen again with its numbers."""
        waiting = [c for c in self._claims() if c.state is State.RESERVED and c.pod_uid is None and not c.external]
        if not waiting:
            return
        claim = self._random.choice(waiting)
        ask = Ask(
            owner=claim.owner,
            ports=tuple(
                PortAsk(
                    container=p.container,
                    name=p.name,
                    protocol=p.protocol,
                    container_port=p.host_port,
                    host_port=p.host_port,
                    host_ip=p.host_ip,
                )
                for p in claim.ports
            ),
            policy=Policy.DYNAMIC,
            constraints=claim.constraints,
            priority=claim.priority,
            may_preempt=claim.may_preempt,
            host_network=True,
            carried_id=claim.id,
        )
        before = self._picture()
        others = brute.Picture(before.nodes, [other for other in before.claims if other.id != claim.id], 0)
        try:
            taken = self.desk.ledger.take_up(ask, self.desk.now)
        except UndecidedError:
            self._findings.answers["undecided"] += 1
            return
        except Refused:
            body, ports = brute.body_of(others, claim), brute.ports_of(claim)
            is_leased = brute.leased_on_candidates(others, ports, body.nodes)
            assert is_leased or claim.node is not None, "a Pod that waits for room was refused when it came again"
            assert is_leased or not brute.places(others, body), "refused when it came again, though there is room"
            return
        assert taken is not None, "a Pod's own claim was not recognised"
        self.desk.ledger.amend(taken[0])

    # -- what always holds

    def _check_books(self) -> None:
        picture = self._picture()
        plans = [claim for claim in picture.claims if not brute.is_settled(claim) and claim.node is not None]
        for claim in plans:
            body = brute.body_of(picture, claim)
            assert claim.node is not None
            assert claim.node in body.nodes, f"planned where it may not run: {claim}"
            assert brute.stands_well(picture, body, claim.node), f"planned where somebody stays: {claim}"
            for other in plans:
                if other.node == claim.node and other.id != claim.id and brute.name_of(other) != brute.name_of(claim):
                    assert not brute.conflict(brute.ports_of(claim), brute.ports_of(other)), (claim, other)

    # -- chance

    def _claims(self) -> list[Claim]:
        return list(self.desk.ledger.claims())

    def _picture(self) -> brute.Picture:
        return brute.Picture(list(self._nodes.values()), self._claims(), self._reserved)

    def _put_node(self, name: str) -> None:
        taints = (Taint(key="gpu"),) if self._random.random() < 0.15 else ()
        made = node(name, labels={"zone": self._random.choice("ab")}, taints=taints)
        self._nodes[name] = made
        self.desk.observe(nodes=[made])

    def _name(self) -> str:
        return f"p{self._random.randint(0, 7)}"

    def _pod_ask(self) -> Ask:
        policy = self._random.choice((Policy.DYNAMIC, Policy.DYNAMIC, Policy.STATIC, Policy.STATIC, Policy.INDEX))
        ports = self._ports(1 if self._is_simple else self._random.choice((1, 2, 2, 3, 4)))
        if policy is Policy.STATIC:
            ports = tuple(self._with_number(port) for port in ports)
        elif policy is Policy.DYNAMIC and self._random.random() < 0.2:
            ports = (self._with_number(ports[0]), *ports[1:])
        name = self._name() if self._random.random() < 0.3 else f"q{self._random.getrandbits(32)}"
        return Ask(
            owner=Owner(namespace="demo", name=name),
            ports=ports,
            policy=policy,
            low=LOW,
            high=HIGH - self._random.randint(0, 3),
            stride=1,
            index=self._random.randint(0, 1) if policy is Policy.INDEX and len(ports) == 1 else 0,
            constraints=self._constraints(),
            priority=self._random.choice((0, 0, 5, 10)),
            may_preempt=self._random.random() < 0.7,
            when_full=self._random.choice((None, None, WhenFull.PENDING)),
        )

    def _ports(self, count: int) -> tuple[PortAsk, ...]:
        protocols = self._random.choices((Protocol.TCP, Protocol.UDP), (4, 1), k=count)
        address = self._random.choice(ADDRESSES) if self._random.random() < 0.3 else ""
        return tuple(
            PortAsk(container=f"c{at}", name=f"x{at}", protocol=protocol, container_port=8000 + at, host_ip=address)
            for at, protocol in enumerate(protocols)
        )

    def _with_number(self, port: PortAsk) -> PortAsk:
        return replace(port, host_port=self._random.randint(LOW, HIGH))

    def _constraints(self) -> Constraints:
        tolerations = (Toleration(key="gpu", operator="Exists"),) if self._random.random() < 0.3 else ()
        match self._random.randint(0, 5):
            case 0:
                return Constraints(node_name=NodeName(f"n{self._random.randint(0, 5)}"))
            case 1 | 2:
                return Constraints(selector=(("zone", self._random.choice("ab")),), tolerations=tolerations)
            case _:
                return ANYWHERE if not tolerations else Constraints(tolerations=tolerations)

    def _show(self, claim: Claim, at: NodeName | None, **more: Any) -> None:
        """The Pod of a claim is seen, on a node."""
        uid = claim.pod_uid or f"uid-{claim.id}"
        pod = Pod(
            uid=uid,  # type: ignore[arg-type]
            namespace=claim.owner.namespace,
            name=claim.owner.name,
            node=at,
            ports=claim.ports,
            constraints=claim.constraints,
            priority=claim.priority,
            may_preempt=claim.may_preempt,
            carried_id="" if claim.external else claim.id,
            **more,
        )
        self.desk.observe(pods=[pod])


def _claim_port(port: PortAsk) -> ClaimPort:
    return ClaimPort(
        container=port.container,
        name=port.name,
        protocol=port.protocol,
        container_port=port.container_port,
        host_port=port.host_port,
        host_ip=port.host_ip,
    )


def _fixed(ask: Ask) -> tuple[brute.Port, ...]:
    return tuple((p.host_ip or brute.ANY, p.protocol.value, p.host_port) for p in ask.ports if p.host_port)


def _is_allowed(ask: Ask, claim: Claim, reserved: int) -> bool:
    got = brute.ports_of(claim)
    if ask.policy is not Policy.DYNAMIC:
        return got in set(brute.tuples(ask, 0)) and not (
            ask.policy is Policy.INDEX and any(reserved >> number & 1 for *_, number in got)
        )
    return got in set(brute.tuples(ask, reserved))
