"""What can only be a slip in the call is told at once, in words, before anybody is asked."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from hostport.client import AsyncClient, Client, Port, UnavailableError
from hostport.client.channel import check_address
from hostport.client.lease_request import LeaseRequest

PORTS: list[tuple[dict[str, Any], str]] = [
    ({"protocol": "tcp"}, "protocol 'tcp' is none of TCP, UDP, SCTP"),
    ({"protocol": "HTTP"}, "protocol 'HTTP' is none of TCP, UDP, SCTP"),
    ({"number": 70000}, "number 70000 is not in 1..65535"),
    ({"number": -1}, "number -1 is not in 1..65535"),
    ({"number": "80"}, "number '80' is not in 1..65535"),
    ({"count": 0}, "count 0 is not in 1..1024"),
    ({"count": 1025}, "count 1025 is not in 1..1024"),
    ({"count": "100"}, "count '100' is not in 1..1024"),
    ({"alignment": 0}, "alignment 0 is not in 1..1024"),
    ({"number": True}, "number True is not in 1..65535"),
    ({"count": True}, "count True is not in 1..1024"),
    ({"name": 5}, "name 5 is not a text"),
    ({"host_ip": 5}, "host_ip 5 is not a text"),
    ({"host_ip": "localhost"}, "host_ip 'localhost' is no IP address, such as 192.0.2.1"),
]


@pytest.mark.parametrize(("fields", "words"), PORTS, ids=[words for _, words in PORTS])
def test_a_port_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Port(**fields)


TERMS: list[tuple[dict[str, Any], str]] = [
    ({"owner": "relay"}, "owner 'relay' is not Kind/name, such as Relay/r1"),
    ({"owner": "Pod/web-0"}, "a lease is not for a Pod: the webhook asks for Pods"),
    ({"ttl": 0}, "ttl 0 is not a number of seconds above 0, such as 300"),
    ({"ttl": -5.0}, "ttl -5.0 is not a number of seconds above 0, such as 300"),
    ({"ttl": float("nan")}, "ttl nan is not a number of seconds above 0, such as 300"),
    ({"ttl": "5m"}, "ttl '5m' is not a number of seconds above 0, such as 300"),
    ({"ttl": True}, "ttl True is not a number of seconds above 0, such as 300"),
    ({"ttl": 1e15}, "ttl 1000000000000000.0 is more than 315576000000 seconds, the most that can be asked for"),
    ({"ttl": float("inf")}, "ttl inf is more than 315576000000 seconds, the most that can be asked for"),
    ({"range": (0, 8000)}, "range 0 is not in 1..65535"),
    ({"range": (8000,)}, "range (8000,) is not a pair of numbers, such as (7000, 8000)"),
    ({"range": ()}, "range () is not a pair of numbers, such as (7000, 8000)"),
    ({"range": 7000}, "range 7000 is not a pair of numbers, such as (7000, 8000)"),
    ({"range": (8000, 7000)}, "range (8000, 7000) ends before it begins"),
    ({"node": 5}, "node 5 is not a text"),
    ({"namespace": None}, "namespace None is not a text"),
    ({"owner": 5}, "owner 5 is not a text"),
    ({"node_selector": {"pool": 1}}, "node_selector pool 1 is not a text"),
    ({"node_selector": "pool"}, "node_selector 'pool' is not a mapping of labels"),
    ({"ports": ("media",)}, "port 'media' is no Port, such as Port('media', 'UDP')"),
]


@pytest.mark.parametrize(("terms", "words"), TERMS, ids=[words for _, words in TERMS])
def test_a_lease_that_cannot_be(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        LeaseRequest(**{"owner": "Relay/r1"} | terms)


@pytest.mark.parametrize("which", ["timeout", "connect_timeout"])
@pytest.mark.parametrize("seconds", [-1, 0, "5", True, None], ids=repr)
def test_a_time_that_nobody_can_wait(which: str, seconds: Any) -> None:
    with pytest.raises(ValueError, match=f"^{which} {seconds!r} is not a number of seconds above 0, such as 300$"):
        Client("127.0.0.1:1", **{which: seconds})


def test_an_address_that_is_no_text() -> None:
    with pytest.raises(ValueError, match=r"^address 50051 is not a text$"):
        check_address(50051)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:50051", "[::1]:50051", "hostport-allocator.hostport-system.svc:50051", "dns:///allocator:1", "unix:/x"],
)
def test_an_address_is_host_and_port_or_a_target_of_grpc(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:", ":50051", "localhost:0", "localhost:70000", "a b:1"]
)
def test_any_other_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"is not host:port, such as 127\.0\.0\.1:50051$"):
        Client(address)


def test_an_address_of_the_web_is_told_what_to_leave_away() -> None:
    with pytest.raises(ValueError, match=r"is not host:port, such as 127\.0\.0\.1:50051, without http://$"):
        Client("http://127.0.0.1:50051")


async def test_an_address_where_nobody_answers_is_told_after_the_time_for_connecting() -> None:
    begin = time.monotonic()
    async with AsyncClient("127.0.0.1:1", connect_timeout=0.2) as client:
        with pytest.raises(UnavailableError, match="no answer from the allocator"):
            await client.lease("Relay/r1").acquire()

    assert time.monotonic() - begin < 4, "five seconds by default"


async def test_what_is_shown_of_a_client_and_of_a_lease_says_what_it_is() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        lease = client.lease("Relay/r1", Port("media", "UDP"), Port(number=80))

        assert repr(client) == "<AsyncClient 127.0.0.1:1>"
        assert repr(lease) == "<AsyncLease for Relay/r1, not acquired: media any/UDP, 80/TCP>"
    with Client("127.0.0.1:1") as other:
        assert repr(other) == "<Client 127.0.0.1:1>"
