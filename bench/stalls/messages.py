"""The requests that rows send, and a stream of them that is measured.

The next number of `serial` stands in whatever has to be new: an owner, a value, a toleration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import grpc

from bench.turns import CALL_SECONDS, Place, reason_of
from hostport.v1 import allocator_pb2 as pb

serial = count()


def ask(name: str, constraints: pb.NodeConstraints | None = None, **more: Any) -> pb.AllocateRequest:
    """A small one: one port under Dynamic."""
    given: dict[str, Any] = {
        "owner": pb.Owner(kind="Pod", namespace="caller", name=f"{name}-{next(serial)}"),
        "policy": pb.POLICY_DYNAMIC,
        "range": pb.PortRange(min=30_000, max=40_000),
        "ports": [pb.PortRequest(container="c", container_port=80)],
        "constraints": constraints,
    }
    return pb.AllocateRequest(**(given | more))


def keep_sets(place: Place, number: int, *, high: int = 60_000, **selector: str) -> None:
    """Has so many candidate sets kept, each with the numbers from 40,000 to `high` counted."""
    for _ in range(number):
        tolerations = [pb.Toleration(key=f"kept-{next(serial)}")]
        within = pb.NodeConstraints(node_selector=selector, tolerations=tolerations)
        place.ask(ask("kept", within, dry_run=True, range=pb.PortRange(min=40_000, max=high)))


def expressions(number: int, operator: str = "In", values: int = 1) -> pb.NodeTerm:
    """A term of so many requirements, none of which was seen before."""
    return pb.NodeTerm(
        match_expressions=[
            pb.NodeRequirement(
                key="zone" if operator == "In" else "none",
                operator=operator,
                values=[f"{at}" if operator == "In" and at < 10 else f"x{next(serial):x}" for at in range(values)],
            )
            for _ in range(number)
        ]
    )


def affinity(terms: Iterable[pb.NodeTerm]) -> pb.NodeConstraints:
    return pb.NodeConstraints(required_affinity=terms)


def stream(place: Place, asks: Sequence[pb.AllocateStreamRequest.Ask]) -> None:
    message = pb.AllocateStreamRequest(asks=asks)
    answers = 0
    with place.measured():
        try:
            for answer in place.stub.AllocateStream(iter([message]), timeout=CALL_SECONDS):
                answers += len(answer.answers)
        except grpc.RpcError as error:
            place.remark(f"ended: {reason_of(error)}")
    place.remark(f"{message.ByteSize():,} B, {answers:,} answers")
