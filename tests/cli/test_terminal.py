"""On a terminal: colours, and a question before something is ended. A real one, of 80 columns."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from clikit import inhabited

from allocator.core.admission import LedgerRules
from testing.servicekit import Running, Start

LEASE = f"{2:032x}"


@pytest.fixture
async def demo(start: Start) -> Running:
    return await inhabited(await start(rules=LedgerRules()))


def on_terminal(*arguments: str, typed: str = "", **more: str) -> tuple[int, str]:
    """Exit status, and all that was shown. `more` is of the environment."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    environ |= more
    process = subprocess.Popen(
        [sys.executable, "-m", "hostport_cli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


async def test_a_table_is_coloured_and_as_wide_as_it_is(demo: Running) -> None:
    code, shown = await asyncio.to_thread(on_terminal, "list", f"--server={demo.address}", "-o", "wide")

    assert code == 0
    assert "\x1b[32mBOUND" in shown
    plain = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert len(plain) == 5
    assert plain[-1].endswith(f"of the EU lobby  {LEASE}")


@pytest.mark.parametrize("said", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
async def test_whoever_wants_no_colours_gets_none(demo: Running, said: dict[str, str]) -> None:
    code, shown = await asyncio.to_thread(on_terminal, "list", f"--server={demo.address}", **said)

    assert (code, "BOUND" in shown, "\x1b" in shown) == (0, True, False)


@pytest.mark.parametrize(("typed", "code", "is_gone"), [("y\n", 0, True), ("n\n", 130, False)], ids=["yes", "no"])
async def test_a_release_is_asked_for(demo: Running, typed: str, code: int, is_gone: bool) -> None:
    ended, shown = await asyncio.to_thread(on_terminal, "release", LEASE, f"--server={demo.address}", typed=typed)

    assert ended == code
    assert f"Release {LEASE}? [y/N]: " in shown
    assert (LEASE not in {claim.id for claim in demo.engine.ledger.claims}) is is_gone
