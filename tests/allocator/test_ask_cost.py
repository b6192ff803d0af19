"""What the largest asks that are let in cost: the CPU of one turn of the event loop, at 5,000 nodes, without the wire.

The rest of a decision (how full the numbers are, who waits) is measured by `make bench BENCH=stalls`.
"""

from __future__ import annotations

import pytest

from allocator.core.asks import Refused
from allocator.core.candidates import Taint
from allocator.wire import digest, encode_response, parse_allocate
from hostport.contract.limits import LONGEST_NAME, MOST_PORTS, Bound
from hostport.contract.status import to_status
from hostport.v1 import allocator_pb2 as pb
from testing.costing import milliseconds
from testing.kit import Desk, node

MOST_MILLISECONDS = 50
VALUES, TERMS, EXPRESSIONS = Bound.VALUES.most, Bound.TERMS.most, Bound.EXPRESSIONS.most


@pytest.fixture(scope="module")
def desk() -> Desk:
    """5,000 nodes with 22 labels each, two of them different on each, and a taint on each."""
    return Desk(
        *[
            node(
                f"n{at}",
                labels={f"label-{n}": f"value-{at % (n + 2)}" for n in range(20)}
                | {"kubernetes.io/hostname": f"n{at}", "number": str(at)},
                taints=(Taint(key="dedicated", value=f"team-{at}"),),
            )
            for at in range(5000)
        ]
    )


def asking(*terms: pb.NodeTerm, ports: list[pb.PortRequest] | None = None, **fields: object) -> pb.AllocateRequest:
    tolerations = fields.pop("tolerations", [pb.Toleration(operator="Exists")])
    constraints = pb.NodeConstraints(required_affinity=terms, tolerations=tolerations)  # type: ignore[arg-type]
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"),
        ports=ports or [pb.PortRequest(container="c", container_port=8080)],
        **{"policy": pb.POLICY_DYNAMIC, "dry_run": True, "constraints": constraints, **fields},  # type: ignore[arg-type]
    )


def many_terms(operator: str, key: str = "label-{}") -> list[pb.NodeTerm]:
    """As many terms, expressions and values as there may be, none of them the same."""
    each, values = EXPRESSIONS // TERMS, VALUES // EXPRESSIONS
    return [
        pb.NodeTerm(
            match_expressions=[
                pb.NodeRequirement(
                    key=key.format((term + at) % 20),
                    operator=operator,
                    values=[str(term * 16 + at * values + value) for value in range(values)],
                )
                for at in range(each)
            ]
        )
        for term in range(TERMS)
    ]


def ports(count: int, **fields: object) -> list[pb.PortRequest]:
    return [pb.PortRequest(container="c", name=f"p{at}", container_port=at + 1, **fields) for at in range(count)]  # type: ignore[arg-type]


def one_label(operator: str, key: str, prefix: str) -> pb.NodeTerm:
    values = [f"{prefix}{at}" for at in range(VALUES)]
    return pb.NodeTerm(match_expressions=[pb.NodeRequirement(key=key, operator=operator, values=values)])


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(asking(*many_terms("NotIn")), id="as many terms, expressions and values as may be"),
        pytest.param(asking(*many_terms("NotIn", "kubernetes.io/hostname")), id="all on the label of each node's own"),
        pytest.param(asking(*many_terms("Gt", "number")), id="as many comparisons as may be"),
        pytest.param(asking(one_label("NotIn", "kubernetes.io/hostname", "n")), id="values that exist"),
        pytest.param(asking(one_label("NotIn", "kubernetes.io/hostname", "x")), id="values that do not exist"),
        pytest.param(
            asking(tolerations=[pb.Toleration(key="dedicated", value=f"team-{at}") for at in range(256)]),
            id="as many tolerations as may be, against 5,000 taints",
        ),
        pytest.param(asking(ports=ports(MOST_PORTS), range={"min": 1, "max": 65535}), id="as many ports as may be"),
        pytest.param(
            asking(*many_terms("NotIn"), ports=[
                pb.PortRequest(container="c" * LONGEST_NAME, name=f"{at:0{LONGEST_NAME}}", container_port=at + 1)
                for at in range(MOST_PORTS)
            ], range={"min": 1, "max": 65535}),
            id="as many ports as may be, with long names, and as many terms",
        ),
        pytest.param(
            asking(ports=[
                pb.PortRequest(container="c", container_port=1, host_port=9, host_ip=f"10.0.{at // 250}.{at % 250}")
                for at in range(MOST_PORTS)
            ], policy=pb.POLICY_STATIC),
            id="one number on as many addresses as may be",
        ),
        pytest.param(asking(ports=ports(MOST_PORTS, host_port=9), policy=pb.POLICY_STATIC), id="as many mistakes as may be"),
        pytest.param(asking(*[pb.NodeTerm()] * 500_000), id="refused: terms of nothing"),
        pytest.param(asking(pb.NodeTerm(match_expressions=[pb.NodeRequirement()] * 500_000)), id="refused: expressions"),
        pytest.param(asking(ports=[pb.PortRequest()] * 500_000), id="refused: ports"),
    ],
)  # fmt: skip
def test_the_largest_asks_cost_less_than_a_turn_may(desk: Desk, request_: pb.AllocateRequest) -> None:
    sent = request_.SerializeToString()

    def answered() -> None:
        try:
            request = pb.AllocateRequest.FromString(sent)
            ask = parse_allocate(request)
            digest(request)
            encode_response(*desk.ledger.preview(ask, desk.now))
        except Refused as refused:
            to_status(refused.mistakes).SerializeToString()

    assert milliseconds(answered) < MOST_MILLISECONDS
