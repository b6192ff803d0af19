"""Logs: one JSON object a line, on stderr.

`time` (UTC), `level`, `logger` and `message`; then whatever the line carries as `fields`. An admission has one
canonical line on each side, `admission` in the shim and `allocate` in the allocator, with the same `request_id` and
`allocation_id`: grep for either and read a Pod's whole story.

While a program runs, SIGUSR1 turns debug lines on and SIGUSR2 goes back to `--log-level`: signals need no port. Only
our own loggers follow; what libraries say in debugging holds bodies of requests, and is never shown.

Beside an event loop, lines are written together, at most `WRITE_SECONDS` late: a `kill -9` may take the
last ones along.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import nullcontext
from typing import Any, TextIO

import msgspec

OURS = ("allocator", "shim", "agent", "hostport")
WRITE_SECONDS = 0.02

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line of JSON, without the line break."""
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= record.__dict__.get("fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()

    def _time(self, created: float) -> str:
        """RFC 3339 with milliseconds; the seconds are rendered once."""
        second = int(created)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((created - second) * 1000):03d}Z"


class GatheringHandler(logging.StreamHandler[TextIO]):
    """Renders and writes what gathers in a moment at once; where no event loop runs, each line as it comes.

    Between two other things to render a line takes three times as long as after another one. A line that comes after a
    pause is written in the next turn of the loop: to wake up for it later costs more.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._records: list[logging.LogRecord] = []
        self._written = 0.0  # when, by the clock of the loop

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record until the event loop writes what has gathered; without a loop it is written now."""
        try:
            record.msg, record.args = record.getMessage(), None  # what it is about may change
            self._records.append(record)
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        except Exception:  # noqa: BLE001 - as every handler
            self.handleError(record)
        else:
            if len(self._records) == 1:
                self._write_soon(loop)

    def _write_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        due = self._written + WRITE_SECONDS
        self._written = max(now, due)
        if due <= now:
            loop.call_soon(self.flush)
        else:
            loop.call_at(due, self.flush)

    def flush(self) -> None:
        """Writes what has gathered. Called by the loop, and by whoever ends the program."""
        with self.lock or nullcontext():
            records, self._records = self._records, []
            lines = "".join(map(self._line, records))
            if lines:
                self.stream.write(lines)
            super().flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 - as every handler: one that cannot be rendered takes no other along
            self.handleError(record)
            return ""


def set_up(level: str, stream: TextIO = sys.stderr) -> None:
    """Logs from `level` on, and listens to the signals. For the main thread, once."""
    # What no line shows need not be found out for each: see "Optimization" in the manual of `logging`.
    logging._srcfile = None  # noqa: SLF001 - the documented switch
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = GatheringHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=max(logging.INFO, _number(level)))
    set_level(level)
    signal.signal(signal.SIGUSR1, lambda *_: set_level("debug"))
    signal.signal(signal.SIGUSR2, lambda *_: set_level(level))


def set_level(level: str) -> None:
    for name in OURS:
        logging.getLogger(name).setLevel(_number(level))


def log_event(log: logging.Logger, message: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line with fields. Costs nothing where the level is not shown; no field is rendered here."""
    if log.isEnabledFor(level):
        record = logging.LogRecord(log.name, level, "", 0, message, None, None)
        record.__dict__["fields"] = fields
        log.handle(record)


def _number(level: str) -> int:
    number: int = logging.getLevelNamesMapping()[level.upper()]
    return number
