"""Given numbers are kept out of outgoing connections; what others wrote stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.app import Agent, AgentOptions
from agent.ranges import format_list, read_list
from agent.reserving import ReservedPorts, chosen
from agent.search import Endpoint
from agent.stream import KeptNumbers
from hostport.flags import Address
from testing.namespaces import in_a_network_namespace, needs_root

RANGE = (32768, 60999)
OTHERS = frozenset({6443, 40000})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Where our part is written down, and a list as the kernel's."""
    kernel = tmp_path / "list"
    kernel.write_text(format_list(OTHERS) + "\n")
    return tmp_path / "reserved", kernel


def test_our_part_comes_and_goes_and_the_others_stay(files: tuple[Path, Path]) -> None:
    ports = ReservedPorts(*files)
    ports.keep({40001, 40002}, (), RANGE)
    assert read_list(files[1]) == OTHERS | {40001, 40002}
    assert ports.others() == OTHERS
    ports.keep({40002}, (), RANGE)
    assert read_list(files[1]) == OTHERS | {40002}
    ports.keep((), (), RANGE)
    assert read_list(files[1]) == OTHERS


def test_what_others_reserve_under_way_stays_too(files: tuple[Path, Path]) -> None:
    ports = ReservedPorts(*files)
    ports.keep({40001}, (), RANGE)
    files[1].write_text("6443,40000-40001,50000\n")
    ports.keep({40002}, (), RANGE)
    assert read_list(files[1]) == OTHERS | {40002, 50000}


def test_a_restart_knows_what_is_ours(files: tuple[Path, Path]) -> None:
    ReservedPorts(*files).keep({40001}, (), RANGE)
    again = ReservedPorts(*files)
    assert again.others() == OTHERS
    again.keep((), (), RANGE)
    assert read_list(files[1]) == OTHERS


def test_an_end_between_the_file_and_the_list_loses_nothing_of_the_others(files: tuple[Path, Path]) -> None:
    state, kernel = files
    ReservedPorts(state, kernel).keep({40001}, (), RANGE)
    state.write_text("40001-40002\n")  # written down, and the list is not yet changed
    ReservedPorts(state, kernel).keep({40002}, (), RANGE)
    assert read_list(kernel) == OTHERS | {40002}


NOWHERE = Endpoint(target=Address("", 1), name=Address("", 1))


@pytest.mark.parametrize("text", [None, "what"])
def test_where_our_file_is_gone_all_of_the_list_is_somebody_elses(files: tuple[Path, Path], text: str | None) -> None:
    state, kernel = files
    ReservedPorts(state, kernel).keep({40001}, (), RANGE)
    state.unlink() if text is None else state.write_text(text)
    ports = ReservedPorts(state, kernel)
    ports.keep((), (), RANGE)
    assert read_list(kernel) == OTHERS | {40001}


def test_what_somebody_wiped_is_reserved_again_with_the_next_look(files: tuple[Path, Path]) -> None:
    state, kernel = files
    agent = Agent(AgentOptions(node="n1", endpoint=NOWHERE, interval=10.0, reserved=ReservedPorts(state, kernel)))
    agent._reserve(RANGE)
    agent._wishes.wanted = KeptNumbers(frozenset({40001}))
    agent._reserve(RANGE)
    kernel.write_text("50000\n")

    agent._reserve(None)
    assert read_list(kernel) == {50000}, "a range that cannot be read says nothing"
    agent._reserve(RANGE)
    assert read_list(kernel) == {40001, 50000}


def test_a_list_that_is_not_understood_is_left_alone(files: tuple[Path, Path]) -> None:
    files[1].write_text("something new\n")
    with pytest.raises(ValueError, match="no number"):
        ReservedPorts(*files).keep({40001}, (), RANGE)
    assert files[1].read_text() == "something new\n"


NONE = frozenset[int]()
CHOICES = {
    "numbers outside the range need nothing": ({7000, 40000}, NONE, NONE, {40000}, 0),
    "what others reserve is not ours": ({40000, 40001}, NONE, frozenset({40000}), {40001}, 0),
    "half of the range is left": (set(range(40000, 40010)), NONE, NONE, set(range(40000, 40005)), 5),
    "those of others count": (set(range(40000, 40005)), NONE, frozenset({40007, 40008, 40009}), {40000, 40001}, 3),
    "those that may be given next are kept too": ({40001}, frozenset({40000, 40001, 7000}), NONE, {40000, 40001}, 0),
    "given ones come first": (
        {40008, 40009},
        frozenset(range(40000, 40006)),
        NONE,
        {40000, 40001, 40002, 40008, 40009},
        3,
    ),
}


@pytest.mark.parametrize(("given", "upcoming", "others", "wanted", "left_out"), CHOICES.values(), ids=CHOICES)
def test_what_is_reserved(
    given: set[int], upcoming: frozenset[int], others: frozenset[int], wanted: set[int], left_out: int
) -> None:
    assert chosen(given, upcoming, (40000, 40009), others) == (frozenset(wanted), left_out)


def test_where_the_range_is_not_known_nothing_is_reserved() -> None:
    assert chosen({40000}, {40001}, None, frozenset()) == (frozenset(), 0)


@needs_root
def test_the_kernel_gives_no_reserved_number_to_a_connection_and_lets_a_program_listen_on_it(tmp_path: Path) -> None:
    said = in_a_network_namespace(f"""
        import socket
        from pathlib import Path
        from agent.ranges import read_range
        from agent.reserving import ReservedPorts
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40009")
        ports = ReservedPorts(Path({str(tmp_path / "reserved")!r}))
        ports.keep({{40000, 40001, 40002, 40003, 40004}}, (), read_range())
        server = socket.create_server(("127.0.0.1", 80))
        kept = [socket.create_connection(("127.0.0.1", 80)) for _ in range(5)]
        print(sorted(each.getsockname()[1] for each in kept))
        listener = socket.create_server(("127.0.0.1", 40002))
        print(listener.getsockname()[1])
    """)
    assert said == ["[40005, 40006, 40007, 40008, 40009]", "40002"]


@needs_root
def test_of_the_numbers_that_may_be_given_next_those_are_told_that_no_connection_has_or_gets(tmp_path: Path) -> None:
    """What a connection had before it keeps. Whatever connects later, a program can listen on each that was told."""
    said = in_a_network_namespace(f"""
        import errno, socket
        from pathlib import Path
        from agent.app import Agent, AgentOptions
        from agent.netlink import SocketDiagnosis
        from agent.ranges import read_range
        from agent.reserving import ReservedPorts
        from agent.search import Endpoint
        from agent.stream import KeptNumbers
        from hostport.flags import Address

        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40039")
        server = socket.create_server(("127.0.0.1", 80))
        before = [socket.create_connection(("127.0.0.1", 80)) for _ in range(16)]
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("", 40001))

        reserved = ReservedPorts(Path({str(tmp_path / "reserved")!r}))
        nowhere = Endpoint(target=Address("", 1), name=Address("", 1))
        agent = Agent(AgentOptions(node="n1", endpoint=nowhere, interval=10.0, reserved=reserved))
        agent._wishes.wanted = KeptNumbers(frozenset({{40018}}), frozenset(range(40000, 40020)))
        agent._reserve(read_range())
        with SocketDiagnosis() as diagnosis:
            told = agent._upcoming(diagnosis, diagnosis.sockets())
        after = []
        try:
            while True:
                after.append(socket.create_connection(("127.0.0.1", 80)))
        except OSError as error:
            print(errno.errorcode[error.errno], "in the end")

        def is_taken(number):
            try:
                with socket.create_server(("127.0.0.1", number)):
                    return False
            except OSError as error:
                return error.errno == errno.EADDRINUSE

        held = {{each.getsockname()[1] for each in before}}
        print(len(held & set(range(40000, 40020))) >= 5, 40001 in told, any(map(is_taken, told - {{40018}})))
        print(told | (held & set(range(40000, 40020))) | {{40001, 40018}} == set(range(40000, 40020)))
    """)
    assert said == ["EADDRNOTAVAIL in the end", "True False False", "True"]
