"""The lines of a log, written together beside an event loop, and encoded by a library that is fast.

They come at most `WRITE_SECONDS` late: a `kill -9` may take the last ones along.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import Any, TextIO

import msgspec

from hostport.logs import JsonFormatter

WRITE_SECONDS = 0.02

_encoder = msgspec.json.Encoder(enc_hook=str)


def _encode(line: dict[str, Any]) -> str:
    return _encoder.encode(line).decode()


class GatheringHandler(logging.StreamHandler[TextIO]):
    """Renders and writes what gathers in a moment at once; where no event loop runs, each line as it comes.

    Between two other things to render a line takes three times as long as after another one. A line that comes after a
    pause is written in the next turn of the loop: to wake up for it later costs more.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonFormatter(_encode))
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
