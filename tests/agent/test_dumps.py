"""What the kernel says of its sockets, as bytes, and what is made of it."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from agent.sockets import (
    AF_INET,
    AF_INET6,
    CLOSE,
    LISTEN,
    NLMSG_DONE,
    NLMSG_ERROR,
    SCTP,
    SOCK_DIAG_BY_FAMILY,
    TCP,
    UDP,
    WAS_INTERRUPTED,
    Dump,
    DumpError,
    InterruptedDumpError,
    OpenSocket,
    SocketKey,
    request,
)

ESTABLISHED = 1
SEQUENCE = 7


def message(kind: int, body: bytes, *, flags: int = 0, sequence: int = SEQUENCE) -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, flags, sequence, 0) + body + bytes(-length % 4)


def told(address: str, port: int, *, state: int = LISTEN, uid: int = 0, inode: int = 1, more: bytes = b"") -> bytes:
    """struct inet_diag_msg of a socket, and attributes after it."""
    ip = ipaddress.ip_address(address)
    family = AF_INET if ip.version == 4 else AF_INET6
    identity = struct.pack("!HH", port, 0) + ip.packed.ljust(16, b"\0") + bytes(16) + bytes(12)
    body = struct.pack("=BBBB", family, state, 0, 0) + identity + bytes(12) + struct.pack("=II", uid, inode)
    return message(SOCK_DIAG_BY_FAMILY, body + more)


DONE = message(NLMSG_DONE, struct.pack("=i", 0))


def found(*parts: bytes, protocol: int = TCP) -> dict[SocketKey, OpenSocket]:
    dump = Dump(protocol, SEQUENCE)
    ends = [dump.take(part) for part in parts]
    assert ends == [False] * (len(parts) - 1) + [True]
    return dump.found


ADDRESSES = {
    "every IPv4 address": ("0.0.0.0", ""),
    "every IPv6 address": ("::", ""),
    "loopback": ("127.0.0.1", "127.0.0.1"),
    "an address of the node": ("fd00::7", "fd00::7"),
    "an IPv4 address in IPv6 form": ("::ffff:10.0.0.7", "10.0.0.7"),
    "every IPv4 address in IPv6 form": ("::ffff:0.0.0.0", ""),
}


@pytest.mark.parametrize(("told_as", "address"), ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_is_told_as_kubernetes_writes_it(told_as: str, address: str) -> None:
    assert found(told(told_as, 8080, uid=1000, inode=42) + DONE) == {
        SocketKey(TCP, 8080, address): OpenSocket(1000, 42)
    }


def test_a_dump_has_as_many_parts_as_it_has() -> None:
    first, second = told("0.0.0.0", 80), told("0.0.0.0", 443, inode=2, more=b"\x05\0\x0b\0\x01")
    assert found(first, second + DONE) == found(first + second, DONE)
    assert [key.port for key in found(first, second, DONE)] == [80, 443]


def test_several_sockets_on_one_number_are_one() -> None:
    shared = [told("0.0.0.0", 80, inode=inode) for inode in (1, 2)] + [told("::", 80, inode=3)]
    assert found(*shared, DONE) == {SocketKey(TCP, 80, ""): OpenSocket(0, 1)}


@pytest.mark.parametrize("inodes", [(3, 1, 2), (1, 2, 3)])
def test_of_udp_sockets_on_one_number_the_oldest_is_told_and_the_others_are_named(inodes: tuple[int, ...]) -> None:
    shared = [told("0.0.0.0", 5353, state=CLOSE, uid=inode, inode=inode) for inode in inodes]
    assert found(*shared, DONE, protocol=UDP) == {SocketKey(UDP, 5353, ""): OpenSocket(1, 1, frozenset({2, 3}))}


def test_of_tcp_sockets_on_one_number_the_oldest_is_told_whatever_opens_later() -> None:
    shared = [told("0.0.0.0", 80, uid=inode, inode=inode) for inode in (3, 1, 2)]
    assert found(*shared, DONE) == {SocketKey(TCP, 80, ""): OpenSocket(1, 1)}


STATES = {
    "a connection": (TCP, ESTABLISHED, 0),
    "a listener": (TCP, LISTEN, 1),
    "a UDP socket that is connected": (UDP, ESTABLISHED, 0),
    "a UDP socket that is not": (UDP, CLOSE, 1),
    "an SCTP listener": (SCTP, LISTEN, 1),
}


@pytest.mark.parametrize(("protocol", "state", "count"), STATES.values(), ids=STATES)
def test_a_socket_counts_that_takes_what_is_sent_to_it(protocol: int, state: int, count: int) -> None:
    assert len(found(told("0.0.0.0", 5000, state=state), DONE, protocol=protocol)) == count


def test_a_socket_that_is_bound_to_nothing_does_not_count() -> None:
    assert found(told("0.0.0.0", 0, state=CLOSE), DONE, protocol=UDP) == {}


def test_the_kernel_is_asked_for_nothing_but_what_counts() -> None:
    asked = request(AF_INET6, UDP, 3)
    assert struct.unpack_from("=IHHII", asked) == (len(asked), SOCK_DIAG_BY_FAMILY, 0x301, 3, 0)
    assert struct.unpack_from("=BBBxI", asked, 16) == (AF_INET6, UDP, 0, 1 << CLOSE)
    assert len(asked) == 16 + 56


def test_a_dump_that_was_interrupted_is_not_believed() -> None:
    dump = Dump(TCP, SEQUENCE)
    dump.take(message(SOCK_DIAG_BY_FAMILY, told("0.0.0.0", 80)[16:], flags=WAS_INTERRUPTED))
    with pytest.raises(InterruptedDumpError):
        dump.take(DONE)


@pytest.mark.parametrize("kind", [NLMSG_ERROR, NLMSG_DONE])
def test_an_error_of_the_kernel_is_told_with_its_number(kind: int) -> None:
    with pytest.raises(DumpError) as caught:
        Dump(SCTP, SEQUENCE).take(message(kind, struct.pack("=i", -2)))
    assert caught.value.errno == 2


def test_what_is_left_of_an_earlier_request_is_passed_over() -> None:
    body = told("0.0.0.0", 80)[16:]
    assert found(message(SOCK_DIAG_BY_FAMILY, body, sequence=SEQUENCE - 1), DONE) == {}


@pytest.mark.parametrize("length", [0, 15, 4096])
def test_a_message_that_claims_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Dump(TCP, SEQUENCE).take(struct.pack("=IHHII", length, SOCK_DIAG_BY_FAMILY, 0, SEQUENCE, 0))
