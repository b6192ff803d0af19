"""The kernel of this machine tells of sockets that a test opens, in a network namespace where there are no others."""

from __future__ import annotations

import errno

import pytest

from agent.netlink import Ask, SocketDiagnosis
from agent.sockets import AF_INET, AF_INET6, SCTP, TCP, UDP, DumpError, OpenSocket, SocketKey
from testing.namespaces import in_a_network_namespace, needs_root


@needs_root
def test_every_socket_that_takes_what_is_sent_to_it_is_told_and_no_other() -> None:
    said = in_a_network_namespace("""
        import socket
        from agent.netlink import SocketDiagnosis

        def opened(kind, address, port, family=socket.AF_INET):
            one = socket.socket(family, kind)
            one.bind((address, port))
            if kind == socket.SOCK_STREAM:
                one.listen()
            return one

        kept = [
            opened(socket.SOCK_STREAM, "0.0.0.0", 8080),
            opened(socket.SOCK_STREAM, "127.0.0.1", 8081),
            opened(socket.SOCK_STREAM, "::", 8082, socket.AF_INET6),
            opened(socket.SOCK_DGRAM, "0.0.0.0", 5353),
        ]
        kept.append(socket.create_connection(("127.0.0.1", 8080)))  # connections do not count, on either side
        kept.append(kept[0].accept()[0])
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("127.0.0.1", 5353))  # a UDP client does not either
        with SocketDiagnosis() as diagnosis:
            for key in sorted(diagnosis.sockets()):
                print(*key)
            kept[0].close()
            print(len(diagnosis.sockets()))
    """)
    assert said == ["6 8080 ", "6 8081 127.0.0.1", "6 8082 ", "17 5353 ", "3"]


@needs_root
def test_a_thousand_sockets_come_in_several_parts() -> None:
    said = in_a_network_namespace("""
        import socket
        from agent.netlink import SocketDiagnosis
        kept = []
        for port in range(20000, 21000):
            one = socket.socket()
            one.bind(("127.0.0.1", port))
            one.listen(1)
            kept.append(one)
        with SocketDiagnosis() as diagnosis:
            found = diagnosis.sockets()
        print(len(found), {key.port for key in found} == set(range(20000, 21000)))
    """)
    assert said == ["1000 True"]


@needs_root
def test_the_connections_that_have_some_numbers_are_told_and_no_listener() -> None:
    said = in_a_network_namespace("""
        import socket
        from agent.netlink import SocketDiagnosis

        def connected(kind, port, family=socket.AF_INET, host="127.0.0.1"):
            one = socket.socket(family, kind)
            one.bind((host, port))
            one.connect((host, 45003))
            return one

        servers = [
            socket.create_server(("127.0.0.1", 45003)),
            socket.create_server(("::1", 45003), family=socket.AF_INET6),
        ]
        kept = [
            connected(socket.SOCK_STREAM, 44999),
            connected(socket.SOCK_STREAM, 45000),
            connected(socket.SOCK_STREAM, 45001, socket.AF_INET6, "::1"),
            connected(socket.SOCK_DGRAM, 45002),
            connected(socket.SOCK_STREAM, 45010),
        ]
        with SocketDiagnosis() as diagnosis:
            print(*sorted(diagnosis.connections([(45000, 45009)])))
            for server in servers:
                kept.append(server.accept()[0])
            print(*sorted(diagnosis.connections([(45000, 45009)])))
            print(*sorted(diagnosis.connections([(45004, 45009)])))
            print(len(diagnosis.sockets()))
    """)
    assert said == ["45000 45001 45002 45003", "45000 45001 45002 45003", "", "2"]


@needs_root
def test_of_numbers_that_lie_far_apart_the_kernel_tells_what_lies_between_them_to_nobody() -> None:
    said = in_a_network_namespace("""
        import socket
        from agent.netlink import SocketDiagnosis
        from agent.sockets import Dump

        told = []
        note = Dump._note
        Dump._note = lambda self, body: (told.append(body), note(self, body))
        server = socket.create_server(("127.0.0.1", 80), backlog=1000)
        kept = []
        for port in range(45000, 45400):
            one = socket.socket()
            one.bind(("127.0.0.1", port))
            one.connect(("127.0.0.1", 80))
            kept.append(one)
        with SocketDiagnosis() as diagnosis:
            ends = [(100, 200), (45000, 45001), (45100, 45100), (45150, 45152), (45398, 50000), (65535, 65535)]
            print(*sorted(diagnosis.connections(ends)), len(told))
            for most in (2, 3):
                told.clear()
                print(len(diagnosis.connections(ends[:most])), len(told))
            alternate = [(number, number) for number in range(45001, 45400, 2)]
            print(diagnosis.connections(alternate) == set(range(45001, 45400, 2)))
    """)
    assert said == ["45000 45001 45100 45150 45151 45152 45398 45399 8", "2 2", "3 3", "True"]


@needs_root
def test_a_udp_server_whose_sockets_share_a_number_is_told_whichever_of_them_comes_and_goes() -> None:
    said = in_a_network_namespace("""
        import socket
        from agent.netlink import SocketDiagnosis
        from agent.report import Settling

        def opened(family=socket.AF_INET, address=""):
            one = socket.socket(family, socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((address, 40000))
            return one

        settling, now = Settling(), 0.0
        with SocketDiagnosis() as diagnosis:
            def told():
                return list(settling.settled(diagnosis.sockets(), (32768, 60999), now).values())

            told()
            first = opened()
            print(told())
            now = 60.0
            before = told()
            print(len(before))
            second = opened()
            third = opened(socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else opened()
            print(told() == before)
            first.close()
            print(len(told()))
            second.close()
            print(len(told()))
    """)
    assert said == ["[]", "1", "True", "1", "1"]


class Lacking(SocketDiagnosis):
    """A kernel that does not tell of a family and a protocol, and has no other sockets."""

    def __init__(self, *lacks: tuple[int, int]) -> None:
        super().__init__()
        self._lacks = lacks

    def _dump(self, ask: Ask, family: int, protocol: int, states: int) -> dict[SocketKey, OpenSocket]:
        if (family, protocol) in self._lacks:
            raise DumpError(errno.ENOENT, "the kernel does not tell of its sockets")
        return {}


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_kernel_that_does_not_tell_of_tcp_or_udp_is_no_node_without_sockets(protocol: int) -> None:
    with Lacking((AF_INET, protocol)) as diagnosis:
        with pytest.raises(DumpError):
            diagnosis.sockets()
        with pytest.raises(DumpError):
            diagnosis.connections([(45000, 45009)])


def test_a_kernel_without_sctp_and_ipv6_has_no_such_sockets() -> None:
    with Lacking((AF_INET6, TCP), (AF_INET6, UDP), (AF_INET, SCTP), (AF_INET6, SCTP)) as diagnosis:
        assert diagnosis.sockets() == {}
        assert diagnosis.connections([(45000, 45009)]) == set()
