"""A small language for tests: asks, Pods and nodes in one line each.

Ports are written `[container/]name:number[/PROTOCOL][=hostPort][*count[%alignment]][@ip]`, for example `web:8080`,
`c2/dns:53/UDP`, `web:80=18080@10.0.0.1`, `media:5004/UDP*100%2`. The container is `c` unless named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, PortAsk, Refused
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, ClusterChange, ObservedPod, Owner, PodUid, State
from allocator.core.ledger import Ledger
from allocator.core.place.policies import POLICIES
from allocator.core.ports import Protocol, canonical_ip, slot_of
from allocator.core.sockets import NodeFacts, SocketChange, listener

_PORT = re.compile(
    r"(?:(?P<container>[\w-]+)/)?(?P<name>[\w-]*):(?P<number>\d+)(?:/(?P<protocol>[A-Z]+))?"
    r"(?:=(?P<host>\d+))?(?:\*(?P<count>\d+)(?:%(?P<alignment>\d+))?)?(?:@(?P<ip>\S+))?"
)


def port(text: str) -> PortAsk:
    match = _PORT.fullmatch(text)
    assert match, text
    return PortAsk(
        container=match["container"] or "c",
        name=match["name"],
        protocol=Protocol(match["protocol"] or "TCP"),
        container_port=int(match["number"]),
        host_port=int(match["host"] or 0),
        host_ip=match["ip"] or "",
        count=int(match["count"] or 1),
        alignment=int(match["alignment"] or 1),
    )


def ask(name: str, *ports: str, namespace: str = "demo", policy: str = "Dynamic", **more: Any) -> Ask:
    """An ask for a Pod; `more` are fields of Ask. A name that ends in `-` is a generateName."""
    owner = Owner(
        namespace=namespace,
        name="" if name.endswith("-") else name,
        generate_name=name if name.endswith("-") else "",
        controller_uid=more.pop("controller", ""),
    )
    return Ask(owner=owner, ports=tuple(map(port, ports)), policy=POLICIES[policy], **more)


def lease(text: str, *ports: str, policy: str = "Dynamic", **more: Any) -> Ask:
    owner = Owner(kind="Service", namespace="lessee", name=text)
    return Ask(owner=owner, ports=tuple(map(port, ports)), policy=POLICIES[policy], **more)


def on(node: str) -> Constraints:
    return Constraints(node_name=NodeName(node))


def node(name: str, **more: Any) -> Node:
    return Node(name=NodeName(name), **more)


def pod(
    name: str, *ports: str, namespace: str = "demo", uid: str = "", at: str | None = None, **more: Any
) -> ObservedPod:
    """A Pod that exists, with host ports as `name:containerPort=hostPort`."""
    return ObservedPod(
        uid=PodUid(uid or f"uid-{namespace}-{name}"),
        namespace=namespace,
        name=name,
        node=NodeName(at) if at else None,
        ports=tuple(claim_port(text) for text in ports),
        **more,
    )


def claim_port(text: str) -> ClaimPort:
    asked = port(text)
    return ClaimPort(
        container=asked.container,
        name=asked.name,
        protocol=asked.protocol,
        container_port=asked.container_port,
        host_port=asked.host_port or asked.container_port,
        host_ip=asked.host_ip,
        count=asked.count,
    )


def claim_on(name: str, node: str | None) -> Claim:
    """A claim without ports of a Pod that was admitted, planned on a node or nowhere."""
    return Claim(
        id=ClaimId(name),
        owner=Owner(namespace="demo", name=name),
        state=State.RESERVED,
        ports=(),
        created=0.0,
        node=NodeName(node) if node else None,
    )


def report(at: str, *opened: str, closed: tuple[str, ...] = (), **facts: Any) -> SocketChange:
    """A whole report of a node; sockets are written `[process]:number[/PROTOCOL][@ip]`."""
    return SocketChange(
        node=NodeName(at),
        closed=[(slot_of(p.protocol, p.container_port), canonical_ip(p.host_ip)) for p in map(port, closed)],
        opened=[
            (slot_of(p.protocol, p.container_port), listener(canonical_ip(p.host_ip), p.name, 0))
            for p in map(port, opened)
        ],
        facts=NodeFacts(**facts),
    )


PAIRS = ((500, 501), (501, 502), (500, 502))
"""Any two of these meet in one number, and no number is in all of them."""


def fill_with_pairs(ledger: Ledger, now: float) -> None:
    """Fourteen nodes, each with the plan of one pair: none takes another pair, and only trying it all out shows that."""
    ledger.observe(ClusterChange(nodes=[node(f"pair-{n:02}") for n in range(14)]), now=now)
    for n in range(len(ledger.nodes.names())):
        one, other = PAIRS[n % 3]
        claim_id = ClaimId(f"pair-{n:02}")
        ledger.reserve(ask(f"pair-{n:02}", f"x:1={one}", f"y:2={other}", policy="Static"), claim_id, now)
        ledger.publish(claim_id)


class Desk:
    """A ledger with a clock and ids of its own: `grant` says what a caller would see."""

    def __init__(self, *nodes: str | Node, **rules: Any) -> None:
        self.ledger = Ledger(LedgerRules(**rules))
        self.now = 1000.0
        self._ids = count(1)
        self.observe(nodes=[n if isinstance(n, Node) else node(n) for n in nodes])

    def observe(self, **changes: Any) -> None:
        """Takes the fields of a `ClusterChange`."""
        self.ledger.observe(ClusterChange(**changes), now=self.now)

    def grant(self, asked: Ask) -> Claim:
        """Reserves and publishes.

        Raises:
            Refused: as the ledger does.

        """
        claim, self.warnings = self.ledger.reserve(asked, ClaimId(f"{next(self._ids):032x}"), self.now)
        self.ledger.publish(claim.id)
        return claim

    def numbers(self, asked: Ask) -> list[int]:
        return [p.host_port for p in self.grant(asked).ports]

    def refusal(self, asked: Ask) -> Mapping[str, str]:
        """Why an ask is refused, by reason; empty when it is granted. Asserts that a refusal changes nothing."""
        before = self.state()
        try:
            self.grant(asked)
        except Refused as refused:
            assert self.state() == before
            return {mistake.reason: mistake.message for mistake in refused.mistakes}
        return {}

    def state(self) -> object:
        """Everything that a caller can see."""
        return (
            list(self.ledger.claims),
            {name: self.ledger.nodes.port_map(name) for name in self.ledger.nodes.names()},
        )


class Grounds(Desk):
    """A desk where Pods run and go, and numbers cool down for a minute."""

    def __init__(self, *nodes: str | Node, **rules: Any) -> None:
        super().__init__(*nodes, **{"cool_down": 60.0, **rules})

    def run(self, asked: Ask, at: str = "") -> Claim:
        """Grants an ask; its Pod runs on a node, where the plan is unless one is named."""
        claim = self.grant(asked)
        return self.bind(claim, at or claim.node or "")

    def bind(self, claim: Claim, at: str, **more: Any) -> Claim:
        name = claim.owner.name or f"{claim.owner.generate_name}{claim.id[-4:]}"
        ports = [f"{p.name}:{p.container_port}/{p.protocol.value}={p.host_port}" for p in claim.ports]
        ports += [f":{number}/{p.protocol.value}" for p in claim.ports for number in p.key.numbers[1:]]
        seen = pod(
            name,
            *ports,
            at=at,
            uid=claim.id,
            carried_id=claim.id,
            generate_name=claim.owner.generate_name,
            controller_uid=claim.owner.controller_uid,
            constraints=claim.constraints,
            **more,
        )
        self.observe(pods=[seen])
        return claim

    def goes(self, claim: Claim) -> None:
        """Its Pod is deleted, and gone."""
        self.observe(gone_pods=[PodUid(claim.id)])

    def runs_and_goes(self, asked: Ask, at: str = "") -> Claim:
        claim = self.run(asked, at)
        self.goes(claim)
        return claim
