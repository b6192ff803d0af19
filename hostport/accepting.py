"""Accepting connections, with a pause where the process may open no more files.

A loop that is told that somebody waits, and cannot accept, is told so again at once: it would spin, and write a
traceback each time. Whoever waits is accepted when there is a file again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from socket import socket
from typing import Any

from tornado.ioloop import IOLoop

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Connections that are accepted in one turn of the event loop."""

PAUSE_SECONDS = 0.25
TELL_SECONDS = 1.0
SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Accepting:
    """Accepts on one socket until it is stopped. `make_room` is called where there is no file for whoever waits."""

    def __init__(
        self, sock: socket, take: Callable[[socket, Any], None], make_room: Callable[[], None] = lambda: None
    ) -> None:
        self._sock = sock
        self._take = take
        self._make_room = make_room
        self._loop = IOLoop.current()
        self._told = float("-inf")
        self._is_stopped = False
        self._pause: object | None = None
        self._loop.add_handler(sock, self._ready, IOLoop.READ)

    def stop(self) -> None:
        self._is_stopped = True
        if self._pause is None:
            self._loop.remove_handler(self._sock)
        else:
            self._loop.remove_timeout(self._pause)

    def _ready(self, _sock: socket, _events: int) -> None:
        for _ in range(AT_ONCE):
            if self._is_stopped:
                return
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._wait(error)
                return
            self._take(connection, address)

    def _wait(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            log.warning("connections wait, and cannot be accepted: %s. Raise the limit of open files", error.strerror)
        self._make_room()
        self._loop.remove_handler(self._sock)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_handler(self._sock, self._ready, IOLoop.READ)
