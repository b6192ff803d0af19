"""Given numbers are kept out of outgoing connections; what others wrote stays."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from agent import reserving
from agent.app import Agent, AgentOptions
from agent.netlink import SocketDiagnosis
from agent.ranges import format_list, read_list
from agent.reserving import ReservedPorts, chosen
from agent.search import Endpoint
from agent.stream import KeptNumbers
from hostport.flags import Address
from testing.namespaces import ROOT, in_a_network_namespace, needs_root

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


def test_a_number_of_ours_that_somebody_writes_into_a_list_of_his_own_is_his(files: tuple[Path, Path]) -> None:
    state, kernel = files
    ports = ReservedPorts(state, kernel)
    ports.keep({45000, 45001}, (), RANGE)
    kernel.write_text("45000,50000\n")
    assert ports.others() == {45000, 50000}
    ports.keep({45000, 45001}, (), RANGE)
    assert read_list(kernel) == {45000, 45001, 50000}
    assert ports.own == read_list(state) == {45001}
    ports.keep((), (), RANGE)
    assert read_list(kernel) == {45000, 50000}


def test_a_list_that_was_replaced_while_we_need_nothing_is_left_as_it_is(files: tuple[Path, Path]) -> None:
    state, kernel = files
    ports = ReservedPorts(state, kernel)
    ports.keep({45000, 45001}, (), RANGE)
    kernel.write_text("45000\n")
    ports.keep((), (), RANGE)
    assert read_list(kernel) == {45000}
    assert not read_list(state)


def test_a_restart_that_finds_all_of_ours_knows_later_that_a_list_was_replaced(files: tuple[Path, Path]) -> None:
    ReservedPorts(*files).keep({45000, 45001}, (), RANGE)
    again = ReservedPorts(*files)
    again.keep({45000, 45001}, (), RANGE)
    files[1].write_text("45000\n")
    again.keep((), (), RANGE)
    assert read_list(files[1]) == {45000}


def test_a_list_that_could_not_be_written_is_no_list_of_somebody_else(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = ReservedPorts(*files)
    ports.keep({45000}, (), RANGE)

    def fail(numbers: object, path: Path) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(reserving, "write_list", fail)
        with pytest.raises(OSError, match="no"):
            ports.keep({45000, 45001}, (), RANGE)
    ports.keep({45001}, (), RANGE)
    assert read_list(files[1]) == OTHERS | {45001}


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


class QuietKernel:
    """Stands for `SocketDiagnosis` on a node where no connection has a number."""

    def connections(self, ranges: object) -> frozenset[int]:
        return frozenset()


def fail_to_write(numbers: object, path: Path) -> None:
    raise PermissionError(13, "Permission denied")


def kept(agent: Agent) -> tuple[bool, frozenset[int]]:
    """Whether an agent says that it keeps numbers, and which ones of those that may be given next."""
    return agent._reserve(RANGE), agent._upcoming(cast(SocketDiagnosis, QuietKernel()), {})


def test_an_agent_that_cannot_write_the_list_says_that_it_keeps_nothing_and_tries_again(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, kernel = files
    numbers = {40001, 40002}
    with monkeypatch.context() as patch:
        patch.setattr(reserving, "write_list", fail_to_write)
        agent = wanting(numbers, state, kernel)
        assert [kept(agent) for _ in range(2)] == [(False, frozenset())] * 2
    assert kept(agent) == (True, frozenset(numbers))
    assert read_list(kernel) == OTHERS | numbers
    ReservedPorts(state, kernel).keep((), (), RANGE)
    assert read_list(kernel) == OTHERS


def test_of_what_is_ours_only_that_is_told_which_stands_in_the_list(files: tuple[Path, Path]) -> None:
    state, kernel = files
    agent = wanting({40001, 40002}, state, kernel)
    kernel.write_text("6443,40000,40002\n")
    assert agent._upcoming(cast(SocketDiagnosis, QuietKernel()), {}) == {40002}
    kernel.unlink()
    assert agent._upcoming(cast(SocketDiagnosis, QuietKernel()), {}) == frozenset()


def unreserve(state: Path, kernel: Path) -> None:
    flags = ("--unreserve", f"--reserved-state={state}", f"--reserved-ports-file={kernel}")
    subprocess.run([sys.executable, "-m", "agent", *flags], cwd=ROOT, check=True)


def wanting(numbers: set[int], state: Path, kernel: Path) -> Agent:
    """An agent that was told to keep these numbers, and does."""
    agent = Agent(AgentOptions(node="n1", endpoint=NOWHERE, interval=10.0, reserved=ReservedPorts(state, kernel)))
    agent._wishes.wanted = KeptNumbers(frozenset(numbers), frozenset(numbers))
    agent._reserve(RANGE)
    return agent


def test_an_agent_that_runs_writes_nothing_again_after_unreserve_and_says_so_once(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    state, kernel = files
    agent = wanting({40001, 40002}, state, kernel)
    assert read_list(kernel) == OTHERS | {40001, 40002}

    unreserve(state, kernel)
    assert read_list(kernel) == OTHERS
    with caplog.at_level(logging.INFO, logger="agent"):
        said = [agent._reserve(RANGE) for _ in range(3)]
    assert said == [False] * 3
    assert read_list(kernel) == OTHERS
    assert [record.getMessage() for record in caplog.records].count("nothing is reserved any more") == 1


def test_what_an_agent_wrote_while_it_was_told_to_stop_it_takes_out_itself(files: tuple[Path, Path]) -> None:
    agent = wanting({40001}, *files)
    ReservedPorts(*files).stop()
    assert not agent._reserve(RANGE)
    assert read_list(files[1]) == OTHERS


def test_unreserve_and_an_agent_that_follows_it_at_the_same_time_do_not_disturb_each_other(
    files: tuple[Path, Path],
) -> None:
    agent = wanting({40001}, *files)
    flags = ("--unreserve", f"--reserved-state={files[0]}", f"--reserved-ports-file={files[1]}")
    with subprocess.Popen([sys.executable, "-m", "agent", *flags], cwd=ROOT) as process:
        while process.poll() is None:
            agent._reserve(RANGE)
    assert process.returncode == 0
    assert not agent._reserve(RANGE)
    assert 40001 not in read_list(files[1])  # of a plain file, other than the kernel's, a reader may see a half


def test_an_agent_that_is_started_with_reserve_reserves_again(files: tuple[Path, Path]) -> None:
    unreserve(*files)
    agent = wanting({40001}, *files)
    assert read_list(files[1]) == OTHERS
    agent.stop()
    agent.run()
    assert agent._reserve(RANGE)
    assert read_list(files[1]) == OTHERS | {40001}


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
