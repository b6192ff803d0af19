"""The program as a user starts it: in a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from shimkit import body, container, pod, port
from standin import StandIn, serving
from tornado.httpclient import AsyncHTTPClient

from hostport import logs
from shim.__main__ import SERVE_FLAGS, build_parser, main, serve_options


@asynccontextmanager
async def started(*flags: str) -> AsyncIterator[tuple[Process, str, str]]:
    """The process, the URL of /mutate and that of the side port."""
    arguments = ("serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", *flags)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "shim", *arguments, stderr=PIPE)
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 10)).decode()
        found = re.search(r"listening on (https?://127\.0\.0\.1:[0-9]+) \(http (127\.0\.0\.1:[0-9]+)\)", line)
        assert found, line
        yield process, f"{found[1]}/mutate", f"http://{found[2]}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_says_where_it_listens_serves_and_stops_cleanly() -> None:
    headers = {"Content-Type": "application/json"}
    async with serving(StandIn()) as address, started(f"--allocator={address}") as (process, mutate, side):
        data = body(pod(container("a", port())))
        review = await AsyncHTTPClient().fetch(mutate, method="POST", body=data, headers=headers)
        ready = await AsyncHTTPClient().fetch(f"{side}/readyz")
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 5)

    assert (review.code, ready.code, code) == (200, 200, 0)


async def test_while_one_of_two_on_a_port_is_dead_the_other_takes_every_connection() -> None:
    data, headers = body(pod(container("a", port()))), {"Content-Type": "application/json"}
    async with serving(StandIn()) as address, started(f"--allocator={address}", "--reuse-port") as (first, mutate, _):
        listen = urlsplit(mutate).netloc
        async with started(f"--allocator={address}", "--reuse-port", f"--listen={listen}"):
            first.kill()
            await first.wait()
            answers = [
                await AsyncHTTPClient().fetch(mutate, method="POST", body=data, headers=headers) for _ in range(20)
            ]

    assert [answer.code for answer in answers] == [200] * 20


async def test_the_socket_that_accepts_has_the_highest_descriptor() -> None:
    """Of a process that is killed Linux closes it first, so that nobody new is led there when a connection breaks."""
    async with started("--reuse-port") as (process, mutate, _):
        port = urlsplit(mutate).port
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(20)]
        async with asyncio.timeout(5):
            while len(files := files_of_port(process.pid, port or 0)) <= len(writers):
                await asyncio.sleep(0.01)
        for writer in writers:
            writer.transport.abort()

    assert [state for _, state in sorted(files)] == [CONNECTED] * len(writers) + [LISTENING]


CONNECTED, LISTENING = "01", "0A"  # as Linux has them, proc_pid_net(5)


def files_of_port(pid: int, port: int) -> list[tuple[int, str]]:
    """Descriptor and state of each socket that a process has at this port of IPv4."""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    states = {f"socket:[{line[9]}]": line[3] for line in lines if line[1].endswith(f":{port:04X}")}
    files = {int(each.name): str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return [(number, states[file]) for number, file in files.items() if file in states]


async def test_two_do_not_share_a_port_unasked() -> None:
    async with started("--reuse-port") as (_, mutate, _side):
        arguments = ("serve", f"--listen={urlsplit(mutate).netloc}", "--http=127.0.0.1:0")
        second = await asyncio.create_subprocess_exec(sys.executable, "-m", "shim", *arguments, stderr=PIPE)
        _, said = await asyncio.wait_for(second.communicate(), 30)

    assert second.returncode == 1
    assert "Address already in use" in said.decode()


async def test_a_second_signal_ends_it_at_once() -> None:
    async with started("--shutdown-delay=60s") as (process, _, side):
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            while (await AsyncHTTPClient().fetch(f"{side}/readyz", raise_error=False)).code != 503:
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 30)

    assert code == -signal.SIGTERM


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            ["--listen=0.0.0.0:0"], "without --tls-cert only a loopback address may be served", id="plain text"
        ),
        pytest.param(["--tls-cert=x"], "--tls-cert and --tls-key go together", id="a certificate without its key"),
        pytest.param(["--allocator-key=x"], "--allocator-cert and --allocator-key go together", id="a key alone"),
        pytest.param(["--also-trust=x"], "--also-trust names more authorities than --allocator-ca", id="no first CA"),
        pytest.param(["--listen=8443"], "'8443' is not HOST:PORT", id="no host"),
        pytest.param(["--max-concurrent=0"], "'0' is not a number in 1..1000000", id="nothing at once"),
        pytest.param(["--tls-min-version=1.1"], "'1.1' is none of 1.2, 1.3", id="an old TLS"),
        pytest.param(["--log-level=loud"], "'loud' is none of debug, info, warning, error", id="a log level"),
        pytest.param(["--shutdown-delay=soon"], "'soon' is not a duration", id="a delay"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", *flags])

    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_insecure_allows_plain_text_anywhere() -> None:
    parser = build_parser()

    options = serve_options(parser, parser.parse_args(["serve", "--listen=0.0.0.0:80", "--insecure"]))

    assert (str(options.listen), options.tls_cert) == ("0.0.0.0:80", None)


def test_flags_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTPORT_ALLOCATOR", "10.0.0.1:9")
    monkeypatch.setenv("HOSTPORT_SHUTDOWN_DELAY", "5s")
    parser = build_parser()

    options = serve_options(parser, parser.parse_args(["serve"]))

    assert (str(options.allocator), options.shutdown_delay) == ("10.0.0.1:9", 5.0)


def test_a_certificate_that_is_not_there_ends_the_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "set_up", lambda *_: None)  # it is the whole process's

    code = main(["serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--tls-cert=/no", "--tls-key=/no"])

    assert code == 1
    assert "cannot start: [Errno 2] No such file or directory" in caplog.text


@pytest.mark.parametrize("flag", SERVE_FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_explained_in_one_line(flag: object) -> None:
    explained = getattr(flag, "help", "")

    assert 10 < len(explained) < 100
    assert "\n" not in explained
