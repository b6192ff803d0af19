"""A small random cluster, made from one number, and what holds after each thing that happens in it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

from msgspec.structs import replace

from allocator.core.asks import Ask, PortAsk, Refused, UndecidedError, WhenFull
from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName, Taint, Toleration
from allocator.core.claims import Claim, ClaimPort, ObservedPod, Owner, State
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.place.policies import DYNAMIC, INDEX, STATIC
from allocator.core.ports import Protocol
from testing.kit import Desk, node, report

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

    def __init__(self, seed: int, findings: Findings, sizes: tuple[int, ...] = (1,)) -> None:
        """sizes: how many numbers a port may stand for."""
        self._random = random.Random(seed)
        self._sizes = sizes
        self._high = HIGH if sizes == (1,) else HIGH + 2
        self._findings = findings
        self._reserved = 1 << 7001 if self._random.random() < 0.2 else 0
        self._nodes: dict[str, Node] = {}
        self._services: dict[str, tuple[str, int]] = {}
        self._sockets: set[tuple[str, str, int]] = set()
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
        steps += [(self._outsider, 1), (self._change_node, 1), (self._come_again, 1), (self._service, 1)]
        steps += [(self._process, 1)]
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
            self._check_refusal(ask, before, {mistake.reason for mistake in refused.mistakes})
            return
        self._check_grant(ask, claim, before)

    def _check_refusal(self, ask: Ask, before: brute.UtilizationSnapshot, reasons: set[str]) -> None:
        self._findings.answers["refused"] += 1
        if reasons & UNPROVEN:
            self._findings.answers["denied"] += 1
            assert not brute.pod_fits(before, ask), f"denied without proof: {reasons}"
        if "HELD_BY_SERVICE" in reasons:
            self._findings.answers["of a Service"] += 1
            assert brute.of_services(before, brute.fixed_ports(ask))
        if "HELD_BY_LEASE" in reasons:
            ports, nodes = brute.fixed_ports(ask), brute.candidates(before, ask.constraints)
            assert brute.leased_on_candidates(before, ports, nodes)
            assert not (ask.can_steer and brute.not_leased(before, ports, nodes)), "refused, and could be steered"

    def _check_grant(self, ask: Ask, claim: Claim, before: brute.UtilizationSnapshot) -> None:
        self._findings.answers["granted"] += 1
        nodes = brute.candidates(before, claim.constraints)
        ports = brute.ports_of(claim)
        allowed = brute.candidates(before, ask.constraints)
        if ask.can_steer:
            allowed = brute.not_leased(before, brute.fixed_ports(ask), allowed)
            waits = claim.node is None and ask.constraints.only_node is None
            allowed = brute.not_beside(before, ports, allowed, waits=waits)
            self._findings.answers["steered"] += claim.constraints != ask.constraints
        assert nodes == allowed, "kept off other nodes than those where its number is leased, or a process has it"
        assert not brute.leased_on_candidates(before, ports, nodes), "given a number that is leased on a candidate"
        assert not brute.of_services(before, ports), "given a number that a Service holds"
        assert _is_allowed(ask, claim, self._reserved), "given numbers that its policy does not allow"
        if claim.node is None and brute.candidates(before, ask.constraints):
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
            policy=STATIC if fixed else DYNAMIC,
            low=LOW,
            high=self._high,
            constraints=self._constraints(),
        )
        before = self._picture()
        try:
            claim = self.desk.grant(ask)
        except UndecidedError:
            self._findings.answers["undecided"] += 1
        except Refused as refused:
            reasons = {mistake.reason for mistake in refused.mistakes}
            assert not (reasons & UNPROVEN and brute.lease_fits(before, ask)), "a lease was denied without proof"
        else:
            self._findings.answers["leased"] += 1
            assert not brute.of_services(before, brute.ports_of(claim)), "leased what a Service holds"
            beside = brute.processes(before, claim.node or "")
            assert not brute.conflict(brute.ports_of(claim), beside), "leased what a process has"
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
                claim.unmanaged
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
        self._close_with(claim)
        if claim.pod_uid is not None:
            self.desk.observe(gone_pods=[claim.pod_uid])
        else:
            self.desk.ledger.end(claim.id, self.desk.now)
            self.desk.ledger.replan()

    def _outsider(self) -> None:
        at = NodeName(self._random.choice([*self._nodes, ""])) or None
        claim_ports = tuple(self._with_number(port) for port in self._ports(1))
        self._serial += 1
        pod = ObservedPod(
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
            self._sockets = {each for each in self._sockets if each[0] != name}
            self.desk.observe(gone_nodes=[NodeName(name)])
        else:
            self._put_node(name)

    def _process(self) -> None:
        """A process opens a number on a node, or closes one; whoever has that."""
        if not self._nodes:
            return
        self._findings.answers["process"] += 1
        name = self._random.choice(sorted(self._nodes))
        protocol, number = (
            self._random.choice((Protocol.TCP, Protocol.TCP, Protocol.UDP)),
            self._random.randint(LOW, HIGH),
        )
        socket = f":{number}/{protocol.value}"
        if (name, protocol.value, number) in self._sockets:
            self._sockets.remove((name, protocol.value, number))
            self.desk.observe(reports=[report(name, closed=(socket,))])
        else:
            self._sockets.add((name, protocol.value, number))
            self.desk.observe(reports=[report(name, socket)])

    def _close_with(self, claim: Claim) -> None:
        """Whoever goes closes its sockets, unless somebody else on the node declares them."""
        others = [other for other in self._claims() if other.node == claim.node and other.id != claim.id]
        declared = {port[1:] for other in others if brute.is_settled(other) for port in brute.ports_of(other)}
        for _, *slot in brute.ports_of(claim):
            if tuple(slot) not in declared and claim.node is not None:
                self._sockets.discard((claim.node, *slot))

    def _service(self) -> None:
        """A Service takes a number, changes it or goes, whoever has that."""
        name, protocol = (
            f"s{self._random.randint(0, 1)}",
            self._random.choice((Protocol.TCP, Protocol.TCP, Protocol.UDP)),
        )
        if self._services.pop(name, None) and self._random.random() < 0.5:
            self.desk.observe(gone_services=[("demo", name)])
            return
        port = NodePort(protocol=protocol, number=self._random.randint(LOW, HIGH))
        self._services[name] = (protocol.value, port.number)
        self.desk.observe(services=[ObservedService(namespace="demo", name=name, ports=(port,))])

    def _come_again(self) -> None:
        """A reinvocation: the Pod's own pending claim is seen again with its numbers."""
        waiting = [c for c in self._claims() if c.state is State.RESERVED and c.pod_uid is None and not c.unmanaged]
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
                    count=p.count,
                )
                for p in claim.ports
            ),
            policy=DYNAMIC,
            constraints=claim.constraints,
            priority=claim.priority,
            may_preempt=claim.may_preempt,
            host_network=True,
            carried_id=claim.id,
            can_steer=self._random.random() < 0.5,
        )
        before = self._picture()
        without = [other for other in before.claims if other.id != claim.id]
        others = brute.UtilizationSnapshot(before.nodes, without, 0, before.services, before.sockets)
        try:
            taken = self.desk.ledger.drafts.readmit(ask, self.desk.now)
        except UndecidedError:
            self._findings.answers["undecided"] += 1
            return
        except Refused:
            body, ports = brute.body_of(others, claim), brute.ports_of(claim)
            if ask.can_steer:
                body = replaced(body, nodes=brute.not_leased(others, ports, body.nodes) or body.nodes)
            is_leased = brute.leased_on_candidates(others, ports, body.nodes) or brute.of_services(others, ports)
            assert is_leased or claim.node is not None, "a Pod that waits for room was refused when it came again"
            assert is_leased or not brute.places(others, body), "refused when it came again, though there is room"
            return
        assert taken is not None, "a Pod's own claim was not recognised"
        assert not brute.of_services(before, brute.ports_of(taken[0])), (
            "a Service holds a number of a Pod that came again"
        )
        self.desk.ledger.replace(taken[0])

    # -- what always holds

    def _check_books(self) -> None:
        picture = self._picture()
        held = sum(brute.of_services(picture, [port]) for claim in picture.claims for port in brute.ports_of(claim))
        assert (self.desk.ledger.claims.tally().node_port_conflicts > 0) is (held > 0)
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
        return list(self.desk.ledger.claims)

    def _picture(self) -> brute.UtilizationSnapshot:
        return brute.UtilizationSnapshot(
            list(self._nodes.values()),
            self._claims(),
            self._reserved,
            frozenset(self._services.values()),
            frozenset(self._sockets),
        )

    def _put_node(self, name: str) -> None:
        taints = (Taint(key="gpu"),) if self._random.random() < 0.15 else ()
        made = node(name, labels={"zone": self._random.choice("ab")}, taints=taints)
        self._nodes[name] = made
        self.desk.observe(nodes=[made])

    def _name(self) -> str:
        return f"p{self._random.randint(0, 7)}"

    def _pod_ask(self) -> Ask:
        policy = self._random.choice((DYNAMIC, DYNAMIC, STATIC, STATIC, INDEX))
        ports = self._ports(1 if self._is_simple else self._random.choice((1, 2, 2, 3, 4)))
        if policy is STATIC:
            ports = tuple(self._with_number(port) for port in ports)
        elif policy is DYNAMIC and self._random.random() < 0.2:
            ports = (self._with_number(ports[0]), *ports[1:])
        name = self._name() if self._random.random() < 0.3 else f"q{self._random.getrandbits(32)}"
        return Ask(
            owner=Owner(namespace="demo", name=name),
            ports=ports,
            policy=policy,
            low=LOW,
            high=self._high - self._random.randint(0, 3),
            stride=1,
            index=self._random.randint(0, 1) if policy is INDEX and len(ports) == 1 else 0,
            constraints=self._constraints(),
            priority=self._random.choice((0, 0, 5, 10)),
            may_preempt=self._random.random() < 0.7,
            when_full=self._random.choice((None, None, WhenFull.PENDING)),
            can_steer=self._random.random() < 0.5,
        )

    def _ports(self, count: int) -> tuple[PortAsk, ...]:
        protocols = self._random.choices((Protocol.TCP, Protocol.UDP), (4, 1), k=count)
        address = self._random.choice(ADDRESSES) if self._random.random() < 0.3 else ""
        return tuple(
            PortAsk(
                container=f"c{at}",
                name=f"x{at}",
                protocol=protocol,
                container_port=8000 + at,
                host_ip=address,
                count=self._random.choice(self._sizes) if len(self._sizes) > 1 else self._sizes[0],
            )
            for at, protocol in enumerate(protocols)
        )

    def _with_number(self, port: PortAsk) -> PortAsk:
        return replace(port, host_port=self._random.randint(LOW, self._high))

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
        pod = ObservedPod(
            uid=uid,  # type: ignore[arg-type]
            namespace=claim.owner.namespace,
            name=claim.owner.name,
            node=at,
            ports=claim.ports,
            constraints=claim.constraints,
            priority=claim.priority,
            may_preempt=claim.may_preempt,
            carried_id="" if claim.unmanaged else claim.id,
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
        count=port.count,
    )


def _is_allowed(ask: Ask, claim: Claim, reserved: int) -> bool:
    got = brute.ports_of(claim)
    if ask.policy is not DYNAMIC:
        return got in set(brute.tuples(ask, 0)) and not (
            ask.policy is INDEX and any(reserved >> number & 1 for *_, number in got)
        )
    return got in set(brute.tuples(ask, reserved))
