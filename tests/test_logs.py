"""Log lines as machines read them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
from typing import Any

import pytest

from hostport.gathered_logs import WRITE_SECONDS, GatheringHandler
from hostport.logs import JsonFormatter, log_event


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def plain(stream: io.StringIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    return handler


@pytest.fixture(params=[plain, GatheringHandler], ids=["the agent's", "the others'"])
def log(request: pytest.FixtureRequest, stream: io.StringIO) -> logging.Logger:
    log = logging.Logger("allocator.test", logging.INFO)  # noqa: LOG001 - of this test alone
    log.addHandler(request.param(stream))
    return log


def line(stream: io.StringIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.count("\n") == 1
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_is_one_json_object_whatever_stands_in_it(log: logging.Logger, stream: io.StringIO) -> None:
    log_event(log, "allocate", request_id="u-1", name='we"b\n\u2028é', numbers=(1, 2), ms=0.5)

    found = line(stream)

    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "info",
        "logger": "allocator.test",
        "message": "allocate",
        "request_id": "u-1",
        "name": 'we"b\n\u2028é',
        "numbers": [1, 2],
        "ms": 0.5,
    }


def test_an_exception_stays_in_its_line(log: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        log.exception("broken %s", "thing")

    found = line(stream)

    assert found["message"] == "broken thing"
    assert "RuntimeError: a bug" in found["exception"]


def test_the_time_is_that_of_the_record() -> None:
    record = logging.makeLogRecord({"name": "x", "msg": "m", "levelname": "INFO", "created": 1_700_000_000.0625})

    assert json.loads(JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.062Z"


def test_what_is_not_shown_is_not_rendered(log: logging.Logger, stream: io.StringIO) -> None:
    log_event(log, "quiet", logging.DEBUG, a=1)

    assert stream.getvalue() == ""


async def test_beside_an_event_loop_lines_are_written_together_as_they_were_told(stream: io.StringIO) -> None:
    log = logging.Logger("allocator.test", logging.INFO)  # noqa: LOG001 - of this test alone
    handler = GatheringHandler(stream)
    log.addHandler(handler)
    names = ["a"]
    log.info("100%% of %s", names)
    names.append("b")
    log_event(log, "second", unencodable={1: 2, "a": Unprintable()})
    log_event(log, "third")

    assert stream.getvalue() == ""
    await asyncio.sleep(2 * WRITE_SECONDS)
    assert [json.loads(each)["message"] for each in stream.getvalue().splitlines()] == ["100% of ['a']", "third"]


async def test_a_line_after_a_pause_needs_no_turn_of_its_own_later(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows at once waits, so that lines under load are written together."""
    log = logging.Logger("allocator.test", logging.INFO)  # noqa: LOG001 - of this test alone
    handler = GatheringHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)

    log.info("a")
    await asyncio.sleep(0)
    assert stream.getvalue() == "a\n"
    log.info("b")
    await asyncio.sleep(0)
    log.info("c")
    await asyncio.sleep(0)
    assert stream.getvalue() == "a\n"
    now += 2 * WRITE_SECONDS
    await asyncio.sleep(0)  # the loop sees the time
    await asyncio.sleep(0)  # and writes
    assert stream.getvalue() == "a\nb\nc\n"


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")


PROGRAM = """
import logging, sys
from hostport import logs
logs.set_up("warning")
ours, library = logging.getLogger("allocator.x"), logging.getLogger("kubernetes.rest")
print("ready", flush=True)
for line in sys.stdin:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        ours.log(level, "ours"); library.log(level, "theirs")
    print("done", flush=True)
"""


def test_signals_change_the_level_of_our_own_lines_while_the_program_runs() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout and program.stderr  # noqa: PT018
        assert program.stdout.readline() == "ready\n"
        for change in (None, signal.SIGUSR1, signal.SIGUSR2):
            if change:
                program.send_signal(change)
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
        program.stdin.close()
        lines = [json.loads(text) for text in program.stderr]

    warned = ["ours warning", "theirs warning"]
    assert [f"{each['message']} {each['level']}" for each in lines] == [
        *warned,
        "ours debug", "ours info", *warned,
        *warned,
    ]  # fmt: skip
