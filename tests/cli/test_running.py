"""Commands that run for a while: what becomes of them when something happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from clikit import hostport
from crash.server import Server

from hostport.v1 import allocator_pb2 as pb
from testing.servicekit import Running

LEASE = ("lease", "--owner", "Test/me")


AT_A_TERMINAL = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.executable, sys.orig_argv[3:])",
)
"""Begins a program as a terminal does: these tests may run under nohup, and what that ignores is inherited."""


def program(*arguments: str, under: Sequence[str] = AT_A_TERMINAL) -> subprocess.Popen[str]:
    command = [*under, sys.executable, "-m", "hostport_cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 20)


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended, and what it said on stderr."""
    _, err = await asyncio.to_thread(process.communicate, timeout=20)
    return process.returncode, err


async def held(service: Running) -> list[str]:
    return [claim.id for claim in service.engine.ledger.claims]


async def test_a_watch_goes_on_when_the_allocator_was_killed_and_is_back(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    await server.serving()
    where = f"--server={server.address}"
    first = program(*LEASE, where, "-o", "name")
    assert (await ended(first))[0] == 0
    watch = program("watch", where, "-o", "json")
    try:
        before = [json.loads(await line(watch)), json.loads(await line(watch))]
        await server.kill()
        await server.start()
        after = [json.loads(await line(watch)), json.loads(await line(watch))]
    finally:
        watch.terminate()
        code, err = await ended(watch)
        await server.kill()

    assert [event["type"] for event in before] == ["TYPE_SNAPSHOT", "TYPE_SYNCED"]
    # While nobody answered no lease came nearer to its end.
    ends = [event["allocation"].pop("expireTime") for event in (before[0], after[0])]
    assert (after, ends[1] > ends[0]) == (before, True)
    assert code == 130
    assert err.startswith("watching again: no answer from the allocator: ")


async def test_a_command_is_ended_when_its_lease_is_lost(service: Running) -> None:
    running = asyncio.create_task(hostport(service, *LEASE, "--ttl=1200ms", "--", "sleep", "30"))
    while not await held(service):
        await asyncio.sleep(0.05)

    (allocation,) = await held(service)
    await service.stub.Release(pb.ReleaseRequest(id=allocation))

    done = await running
    assert done.code == 1
    assert done.err.startswith(f"error: sleep was ended: lease {allocation} was ended: ")


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    ids=["Ctrl-C", "SIGTERM", "the terminal is closed"],
)
async def test_an_interruption_ends_the_command_and_gives_the_ports_back(
    service: Running, number: signal.Signals
) -> None:
    process = program(*LEASE, f"--server={service.address}", "--", "sh", "-c", "echo $$; exec sleep 30")
    pid = int(await line(process))
    assert len(await held(service)) == 1

    process.send_signal(number)

    assert await ended(process) == (130, "")
    assert await held(service) == []
    assert not Path(f"/proc/{pid}").exists()


async def test_a_command_under_nohup_outlives_the_terminal(service: Running) -> None:
    process = program(
        *LEASE, f"--server={service.address}", "--", "sh", "-c", "echo; read word; echo $word", under=("nohup",)
    )
    await line(process)

    process.send_signal(signal.SIGHUP)

    out, _ = await asyncio.to_thread(process.communicate, "still here\n", timeout=20)
    assert (process.returncode, out) == (0, "still here\n")


async def test_a_command_that_cannot_be_run_takes_no_ports(service: Running) -> None:
    done = await hostport(service, *LEASE, "--", "/no/such/program")

    assert (done.code, done.err) == (2, "error: /no/such/program cannot be run: No such file or directory\n")
    assert await held(service) == []
