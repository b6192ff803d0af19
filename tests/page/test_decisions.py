"""The ring of decisions: bounded in number and in size."""

from __future__ import annotations

import contextlib

import grpc

from allocator.decisions import MOST_DECISIONS, MOST_DETAIL, MOST_NUMBERS, Decision, Decisions
from hostport.contract.limits import LONGEST_NAME, MOST_PORTS
from hostport.v1 import allocator_pb2 as pb
from testing.servicekit import Running
from testing.waiting import until

LONG = "x" * 10_000


def test_the_newest_come_first_and_the_oldest_go() -> None:
    decisions = Decisions()
    for number in range(1, MOST_DECISIONS + 6):
        decisions.total += 1
        result = "granted" if number % 2 else "refused"
        decisions.ring.append(
            Decision(number, 1.0, "Pod", "demo", "web-0", "DYNAMIC", result, "", "", (7000,), 1, "n1", "a", 0.001)
        )

    assert decisions.total == MOST_DECISIONS + 5
    assert [one.number for one in decisions.latest(3)] == [505, 504, 503]
    assert [one.number for one in decisions.latest(2, results=frozenset({"refused"}))] == [504, 502]
    assert [one.number for one in decisions.latest(9999)][-1] == 6


async def test_nothing_that_a_caller_sends_makes_an_entry_large(service: Running) -> None:
    """Asked by a caller that means harm (refused), then by one with as many ports as there may be."""
    owner = pb.Owner(kind=LONG, namespace=LONG, name=LONG, generate_name=LONG)
    ports = [pb.PortRequest(name=f"p{at}", container_port=at + 1) for at in range(MOST_PORTS)]
    asks = [
        pb.AllocateRequest(owner=owner, allocation_id=LONG, request_id=LONG, policy=99),  # type: ignore[arg-type]
        pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", generate_name=LONG), policy=pb.POLICY_DYNAMIC, ports=ports
        ),
        pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"), policy=pb.POLICY_DYNAMIC, ports=ports
        ),
    ]
    for ask in asks:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await service.stub.Allocate(ask)
    await until(lambda: service.decisions.total == len(asks))

    granted, *refused = service.decisions.latest(len(asks))
    assert (granted.result, len(granted.numbers), granted.ports) == ("granted", MOST_NUMBERS, MOST_PORTS)
    assert [one.result for one in refused] == ["refused", "refused"]
    longest = max(len(text) for one in refused for text in one if isinstance(text, str))
    assert LONGEST_NAME <= longest <= MOST_DETAIL
