"""The agent as a process of its own, in front of an allocator that a test plays: a real gRPC server on loopback."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agent.app import until_next_look
from agent.ranges import read_list, read_range
from agent.stream import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_REFUSED_PAUSE, STEADY_SECONDS, KeptNumbers, Pauses, Wishes
from hostport.v1 import allocator_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15.0
SERVICE = "hostport.v1.AllocatorService"
PROXY = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}


class Played:
    """Keeps what is reported, and answers what a test puts into `answers`. None ends a stream."""

    def __init__(self) -> None:
        self.reports: queue.Queue[pb.ReportNodeRequest] = queue.Queue()
        self.answers: queue.Queue[pb.ReportNodeResponse | None] = queue.Queue()
        self.programs: list[str] = []

    def report_node(
        self, requests: Iterator[pb.ReportNodeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ReportNodeResponse]:
        self.programs.append(str(dict(context.invocation_metadata())["user-agent"]))
        Thread(target=self._read, args=(requests,), daemon=True).start()
        while (answer := self.answers.get()) is not None:
            yield answer
        context.abort(grpc.StatusCode.UNAVAILABLE, "the allocator stops")

    def _read(self, requests: Iterator[pb.ReportNodeRequest]) -> None:
        with contextlib.suppress(grpc.RpcError):
            for each in requests:
                self.reports.put(each)

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        method = grpc.stream_stream_rpc_method_handler(
            self.report_node, pb.ReportNodeRequest.FromString, pb.ReportNodeResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"ReportNode": method})

    def is_told_anew(self, seconds: float) -> bool:
        """Whether a snapshot comes within so many seconds."""
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while not self.reports.get(timeout=max(0.0, until - time.monotonic())).snapshot:
                pass
            return True
        return False

    def next(self) -> pb.ReportNodeRequest:
        return self.reports.get(timeout=SECONDS)


@pytest.fixture
def played() -> Iterator[tuple[Played, str, health.HealthServicer]]:
    """What is reported, where, and the health that the agent goes by."""
    server, played, told = grpc.server(ThreadPoolExecutor(8)), Played(), health.HealthServicer()
    server.add_generic_rpc_handlers((played.handler,))
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    told.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield played, f"127.0.0.1:{port}", told
    for _ in range(3):
        played.answers.put(None)
    server.stop(None).wait()


@contextlib.contextmanager
def agent_with(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """An agent that has these flags, in an environment that names a proxy for other programs."""
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *flags], cwd=ROOT, env=os.environ | PROXY, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def running(played: tuple[Played, str, Any], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    flags = ("--node=n1", f"--allocator={played[1]}", "--interval=1s", f"--alive-file={tmp_path / 'alive'}")
    with agent_with(*flags) as process:
        yield process


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def is_open(report: pb.ReportNodeRequest, port: int) -> bool:
    return any(each.port == port and each.address == "127.0.0.1" for each in report.opened)


def test_it_tells_of_its_node_at_once_what_opens_later_and_what_closes(
    listener: socket.socket, played: tuple[Played, str, Any], running: subprocess.Popen[str], tmp_path: Path
) -> None:
    allocator = played[0]
    first = allocator.next()
    assert (first.node, first.snapshot, first.more) == ("n1", True, False)
    assert is_open(first, port_of(listener))
    assert first.HasField("ephemeral_range")

    with socket.create_server(("127.0.0.1", 0)) as other:
        allocator.answers.put(pb.ReportNodeResponse(report_now=True))
        report = allocator.next()
        while not is_open(report, port_of(other)):  # others of this machine come and go
            assert not report.snapshot
            report = allocator.next()
        port = port_of(other)
    report = allocator.next()
    while not any(each.port == port for each in report.closed):
        report = allocator.next()
    assert (tmp_path / "alive").exists()
    assert allocator.programs[0].startswith("hostport-agent/")


def test_an_allocator_that_comes_back_is_told_all_of_it_anew(
    listener: socket.socket, played: tuple[Played, str, Any], running: subprocess.Popen[str]
) -> None:
    allocator = played[0]
    assert allocator.next().snapshot
    allocator.answers.put(None)
    report = allocator.next()
    while not report.snapshot:
        report = allocator.next()
    assert is_open(report, port_of(listener))
    running.send_signal(signal.SIGTERM)
    assert running.wait(SECONDS) == 0
    assert running.stderr is not None
    assert '"why":"UNAVAILABLE: the allocator stops"' in running.stderr.read()


def test_after_unreserve_a_running_agent_keeps_nothing_and_says_so_until_it_is_started_anew(
    played: tuple[Played, str, Any], tmp_path: Path
) -> None:
    allocator, address, _ = played
    kernel, ephemeral = tmp_path / "list", read_range()
    assert ephemeral is not None
    given = ephemeral[0] + 1
    kernel.write_text("6443\n")
    files = (f"--reserved-state={tmp_path / 'reserved'}", f"--reserved-ports-file={kernel}")
    reserve = ("--reserve", "--node=n1", f"--allocator={address}", "--interval=1s", *files)
    wish = pb.ReportNodeResponse(report_now=True, has_given=True, given=[pb.PortRange(min=given, max=given)])

    def wait_until_kept() -> None:
        allocator.answers.put(wish)
        until = time.monotonic() + SECONDS
        while given not in read_list(kernel):
            assert time.monotonic() < until
            time.sleep(0.05)

    with agent_with(*reserve):
        assert allocator.next().reserves
        wait_until_kept()
        subprocess.run([sys.executable, "-m", "agent", "--unreserve", *files], cwd=ROOT, check=True)
        while allocator.next().reserves:
            pass
        allocator.answers.put(wish)
        assert not allocator.next().reserves
        assert read_list(kernel) == {6443}
    allocator.answers.put(None)

    with agent_with(*reserve):
        assert allocator.is_told_anew(SECONDS)
        wait_until_kept()


def test_who_stands_by_is_told_nothing(
    played: tuple[Played, str, health.HealthServicer], running: subprocess.Popen[str]
) -> None:
    allocator, _, told = played
    assert allocator.next().snapshot
    told.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    allocator.answers.put(None)
    assert not allocator.is_told_anew(seconds=2.5), "though the first pause is shorter"
    told.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    assert allocator.is_told_anew(SECONDS)


def test_what_the_allocator_wants_stands_until_it_wants_something_else() -> None:
    wishes, ranges = Wishes(), [pb.PortRange(min=45000, max=45001), pb.PortRange(min=45003, max=45003)]
    wishes.hear(pb.ReportNodeResponse(has_given=True, given=ranges[:1], upcoming=ranges))

    assert not wishes.is_asked
    assert wishes.hear(pb.ReportNodeResponse(report_now=True))
    assert wishes.is_asked
    assert wishes.wanted == KeptNumbers(frozenset({45000, 45001}), frozenset({45000, 45001, 45003}))
    assert not wishes.hear(pb.ReportNodeResponse())


def test_a_look_that_failed_is_repeated_soon_and_one_that_keeps_failing_at_the_usual_interval() -> None:
    assert [until_next_look(10.0, failed) for failed in (0, 1, 2, 3, 4, 5, 100_000)] == [10, 1, 2, 4, 8, 10, 10]
    assert [until_next_look(0.5, failed) for failed in (0, 1)] == [0.5, 0.5]


def test_the_pause_between_streams_grows_and_is_short_again_after_a_steady_one() -> None:
    pauses = Pauses(chance=lambda: 0.5)
    assert [pauses.after(0.0) for _ in range(5)] == [1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE]
    assert [pauses.after(STEADY_SECONDS), pauses.after(0.0)] == [FIRST_PAUSE, 2.0]
    assert Pauses(chance=lambda: 0.0).after(0.0) == 0.5
    assert Pauses(chance=lambda: 1.0).after(0.0) == 1.5


def test_who_is_refused_comes_back_ever_more_seldom_until_the_allocator_is_away_for_another_reason() -> None:
    pauses = Pauses(chance=lambda: 0.5)
    refused = [pauses.after(0.0, is_refused=True) for _ in range(8)]
    assert refused == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_REFUSED_PAUSE, LONGEST_REFUSED_PAUSE]
    assert pauses.after(0.0) == LONGEST_PAUSE


MISTAKES = {
    "no node": (["--node="], "--node is missing"),
    "a token without a CA": (["--node=n1", "--token-file=/t"], "--token-file needs --allocator-ca"),
    "an interval that is too short": (["--node=n1", "--interval=10ms"], "is not in 1s..60s"),
    "no address": (["--node=n1", "--allocator=here"], "is not HOST:PORT"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_flags_that_do_not_go_together_are_told(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from agent.__main__ import main

    with pytest.raises(SystemExit):
        main(flags)
    assert message in capsys.readouterr().err


def test_an_allocator_that_does_not_listen_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "--node=n1", "--allocator=127.0.0.1:9", f"--alive-file={tmp_path / 'alive'}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + SECONDS
        assert process.stderr is not None
        assert '"message":"not connected"' in process.stderr.readline()
        assert time.monotonic() < until
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
