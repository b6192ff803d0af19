"""Logs: one JSON object a line, on stderr.

`time` (UTC), `level`, `logger` and `message`; then whatever the line carries as `fields`. An admission has one
canonical line on each side, `admission` in the shim and `allocate` in the allocator, with the same `request_id` and
`allocation_id`: grep for either and read a Pod's whole story.

While a program runs, SIGUSR1 turns debug lines on and SIGUSR2 goes back to `--log-level`: signals need no port. Only
our own loggers follow; what libraries say in debugging holds bodies of requests, and is never shown.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

OURS = ("allocator", "shim", "agent", "hostport")

Encode = Callable[[dict[str, Any]], str]
"""An object as JSON in one line; what JSON has no word for, as text."""

encode_plainly: Encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, encode: Encode = encode_plainly) -> None:
        super().__init__()
        self._encode = encode
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
        return self._encode(line)

    def _time(self, created: float) -> str:
        """RFC 3339 with milliseconds; the seconds are rendered once."""
        second = int(created)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((created - second) * 1000):03d}Z"


def set_up(level: str, handler: logging.Handler | None = None) -> None:
    """Logs from `level` on, and listens to the signals. For the main thread, once. handler: by default on stderr."""
    # What no line shows need not be found out for each: see "Optimization" in the manual of `logging`.
    logging._srcfile = None  # noqa: SLF001 - the documented switch
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=max(logging.INFO, _level_number(level)))
    set_level(level)
    signal.signal(signal.SIGUSR1, lambda *_: set_level("debug"))
    signal.signal(signal.SIGUSR2, lambda *_: set_level(level))


def set_level(level: str) -> None:
    for name in OURS:
        logging.getLogger(name).setLevel(_level_number(level))


def log_event(log: logging.Logger, message: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line with fields. Costs nothing where the level is not shown; no field is rendered here."""
    log_fields(log, message, fields, level)


def log_fields(log: logging.Logger, message: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
    """As `log_event`, for fields that stand in a map already."""
    if log.isEnabledFor(level):
        record = logging.LogRecord(log.name, level, "", 0, message, None, None)
        record.__dict__["fields"] = fields
        log.handle(record)


def _level_number(level: str) -> int:
    number: int = logging.getLevelNamesMapping()[level.upper()]
    return number
