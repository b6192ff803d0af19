"""Leases of consecutive numbers: what is asked, what is told, and an allocator that knows none."""

from __future__ import annotations

import asyncio

import pytest

from hostport.client import Client, InvalidRequestError, LeasedPort, Port, UnavailableError
from hostport.client.lease_request import Grant, LeaseRequest
from hostport.client.lease_state import LeaseState
from hostport.v1 import allocator_pb2 as pb
from hostport_cli.commands.leases import environment
from testing.servicekit import Running

RTP = Port("rtp", "UDP", count=100, alignment=2)
HELD = LeasedPort("rtp", "UDP", 20000, count=100)


def answer(count: int) -> pb.AllocateResponse:
    port = pb.AllocatedPort(name="rtp", protocol=pb.PROTOCOL_UDP, host_port=20000, count=count)
    return pb.AllocateResponse(allocation=pb.Allocation(id="a" * 32, node="n1", ports=[port]))


def test_a_block_is_asked_for_and_one_number_as_before() -> None:
    request = LeaseRequest(owner="Relay/r1", ports=(RTP, Port("ctl"))).request("r")

    assert list(request.ports) == [
        pb.PortRequest(name="rtp", protocol=pb.PROTOCOL_UDP, count=100, alignment=2),
        pb.PortRequest(name="ctl", protocol=pb.PROTOCOL_TCP),
    ]


def test_a_leased_block_has_all_of_its_numbers() -> None:
    [port] = Grant.of(answer(100).allocation).ports

    assert port == HELD
    assert (port.numbers, len(port.numbers)) == (range(20000, 20100), 100)
    assert LeasedPort("ctl", "TCP", 7000).numbers == range(7000, 7001)


@pytest.mark.parametrize(
    ("port", "text"),
    [
        pytest.param(RTP, "rtp any 100/UDP", id="wanted anywhere"),
        pytest.param(Port("", "TCP", 8000, count=2), "8000-8001/TCP", id="wanted here"),
        pytest.param(HELD, "rtp 20000-20099/UDP", id="leased"),
    ],
)
def test_a_block_reads_as_its_first_and_last_number(port: Port | LeasedPort, text: str) -> None:
    assert str(port) == text


def test_a_command_finds_the_first_the_last_and_how_many() -> None:
    assert environment("n1", (HELD, LeasedPort("ctl", "TCP", 7000))) == {
        "HOSTPORT_NODE": "n1",
        "HOSTPORT_PORT": "20000",
        "HOSTPORT_PORT_MIN": "20000",
        "HOSTPORT_PORT_MAX": "20099",
        "HOSTPORT_PORT_COUNT": "100",
        "HOSTPORT_RTP": "20000",
        "HOSTPORT_RTP_MIN": "20000",
        "HOSTPORT_RTP_MAX": "20099",
        "HOSTPORT_RTP_COUNT": "100",
        "HOSTPORT_CTL": "7000",
    }


def test_an_allocator_that_knows_no_blocks_has_given_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(_: Client, method: str, request: object, **__: object) -> object:
        called.append(method)
        return answer(0) if isinstance(request, pb.AllocateRequest) else pb.ReleaseResponse()

    monkeypatch.setattr(Client, "call", call)
    lease = Client("127.0.0.1:1").lease("Relay/r1", RTP)

    with pytest.raises(UnavailableError, match="gave 1 number in place of 100: it is older than blocks of ports"):
        lease.acquire()
    assert called == ["Allocate", "Release"]


def test_a_lease_gives_a_port_by_its_name() -> None:
    lease = LeaseState(LeaseRequest(owner="Relay/r1", ports=(RTP,)), None)
    lease._granted(answer(100))

    assert (lease["rtp"], lease.port("rtp")) == (20000, HELD)
    with pytest.raises(KeyError):
        lease.port("ctl")


async def test_a_block_is_leased_and_free_after_it(service: Running) -> None:
    def use() -> list[LeasedPort]:
        with (
            Client(str(service.address)) as client,
            client.lease("Relay/r1", RTP, range=(20000, 20199)) as one,
            client.lease("Relay/r2", RTP, range=(20000, 20199)) as other,
        ):
            return [one.port("rtp"), other.port("rtp")]

    both = [LeasedPort("rtp", "UDP", 20000, count=100), LeasedPort("rtp", "UDP", 20100, count=100)]
    assert await asyncio.to_thread(use) == both
    assert await asyncio.to_thread(use) == both


async def test_a_range_without_room_for_a_block_is_told(service: Running) -> None:
    def use() -> None:
        with Client(str(service.address)) as client, client.lease("Relay/r1", RTP, range=(20000, 20050)):
            pass

    with pytest.raises(InvalidRequestError, match="range 20000-20050 has no room for 100 numbers"):
        await asyncio.to_thread(use)
