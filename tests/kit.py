"""A small language for tests: asks, Pods and nodes in one line each.

Ports are written `[container/]name:number[/PROTOCOL][=hostPort][@ip]`, for example `web:8080`, `c2/dns:53/UDP`,
`web:80=18080@10.0.0.1`. The container is `c` unless named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from allocator.core.asks import Ask, Policy, PortAsk, Refused
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, PodUid
from allocator.core.ledger import Ledger, Rules
from allocator.core.pods import Pod
from allocator.core.ports import Protocol

_PORT = re.compile(
    r"(?:(?P<container>[\w-]+)/)?(?P<name>[\w-]*):(?P<number>\d+)(?:/(?P<protocol>[A-Z]+))?"
    r"(?:=(?P<host>\d+))?(?:@(?P<ip>\S+))?"
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
    )


def ask(name: str, *ports: str, namespace: str = "demo", policy: str = "Dynamic", **more: Any) -> Ask:
    """An ask for a Pod; `more` are fields of Ask. A name that ends in `-` is a generateName."""
    owner = Owner(
        namespace=namespace,
        name="" if name.endswith("-") else name,
        generate_name=name if name.endswith("-") else "",
        controller_uid=more.pop("controller", ""),
    )
    return Ask(owner=owner, ports=tuple(map(port, ports)), policy=Policy(policy), **more)


def lease(text: str, *ports: str, policy: str = "Dynamic", **more: Any) -> Ask:
    owner = Owner(kind="Service", namespace="lessee", name=text)
    return Ask(owner=owner, ports=tuple(map(port, ports)), policy=Policy(policy), **more)


def on(node: str) -> Constraints:
    return Constraints(node_name=NodeName(node))


def node(name: str, **more: Any) -> Node:
    return Node(name=NodeName(name), **more)


def pod(name: str, *ports: str, namespace: str = "demo", uid: str = "", at: str | None = None, **more: Any) -> Pod:
    """A Pod that exists, with host ports as `name:containerPort=hostPort`."""
    return Pod(
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
    )


PAIRS = ((500, 501), (501, 502), (500, 502))
"""Any two of these meet in one number, and no number is in all of them."""


def fill_with_pairs(ledger: Ledger, now: float) -> None:
    """Fourteen nodes, each with the plan of one pair: none takes another pair, and only trying it all out shows that."""
    ledger.observe(nodes=[node(f"pair-{n:02}") for n in range(14)], now=now)
    for n in range(len(ledger.node_names())):
        one, other = PAIRS[n % 3]
        claim_id = ClaimId(f"pair-{n:02}")
        ledger.reserve(ask(f"pair-{n:02}", f"x:1={one}", f"y:2={other}", policy="Static"), claim_id, now)
        ledger.publish(claim_id)


class Desk:
    """A ledger with a clock and ids of its own: `grant` says what a caller would see."""

    def __init__(self, *nodes: str | Node, **rules: Any) -> None:
        self.ledger = Ledger(Rules(**rules))
        self.now = 1000.0
        self._ids = count(1)
        self.observe(nodes=[n if isinstance(n, Node) else node(n) for n in nodes])

    def observe(self, **changes: Any) -> None:
        self.ledger.observe(**changes, now=self.now)

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
            return {mistake.reason.name: mistake.message for mistake in refused.mistakes}
        return {}

    def state(self) -> object:
        """Everything that a caller can see."""
        return (
            list(self.ledger.claims()),
            {name: self.ledger.port_map(name) for name in self.ledger.node_names()},
        )
