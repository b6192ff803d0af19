"""What can only be a slip in the call is told at once, in words, before anybody is asked."""

from __future__ import annotations

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
    ({"host_ip": "localhost"}, "host_ip 'localhost' is no IP address, such as 192.0.2.1"),
]


@pytest.mark.parametrize(("fields", "words"), PORTS, ids=[words for _, words in PORTS])
def test_a_port_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace(".", r"\.") + "$"):
        Port(**fields)


TERMS: list[tuple[dict[str, Any], str]] = [
    ({"owner": "relay"}, "owner 'relay' is not Kind/name, such as Relay/r1"),
    ({"owner": "Pod/web-0"}, "a lease is not for a Pod: the webhook asks for Pods"),
    ({"ttl": 0}, "ttl 0 is not a number of seconds above 0, such as 300"),
    ({"ttl": -5.0}, "ttl -5.0 is not a number of seconds above 0, such as 300"),
    ({"ttl": float("nan")}, "ttl nan is not a number of seconds above 0, such as 300"),
    ({"ttl": "5m"}, "ttl '5m' is not a number of seconds above 0, such as 300"),
    ({"range": (0, 8000)}, "range 0 is not in 1..65535"),
]


@pytest.mark.parametrize(("terms", "words"), TERMS, ids=[words for _, words in TERMS])
def test_a_lease_that_cannot_be(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace(".", r"\.") + "$"):
        LeaseRequest(**{"owner": "Relay/r1"} | terms)


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
