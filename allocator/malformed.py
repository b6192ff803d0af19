"""Bytes that are no message: gRPC itself refuses them (UNKNOWN), and would write a traceback for each.

Anybody who passed TLS can send them, so that one line has to do, and what the bytes were is not told.
"""

from __future__ import annotations

import logging

from google.protobuf.message import DecodeError

_GRPC = "grpc._cython.cygrpc"


class Brief(logging.Filter):
    """Lets a line of gRPC's pass without the traceback of a DecodeError."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], DecodeError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "a caller sent bytes that are no message: %s", (str(record.exc_info[1])[:200],)
            record.exc_info = record.exc_text = None
        return True


def tell_briefly() -> None:
    """For the whole process, once."""
    logger = logging.getLogger(_GRPC)
    if not any(isinstance(each, Brief) for each in logger.filters):
        logger.addFilter(Brief())
