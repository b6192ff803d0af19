"""An HTTP server that strangers can reach: what a connection may cost, in number, in time and in files.

Rules:

* So many connections, of which no peer has more than half; `crowd` says which one goes for the next.
* Seconds for the handshake, for headers from their first byte on, and for an answer to be read. A connection that is
  silent between two requests may be so for long: the API server keeps some, and were we first to close one, a review
  could be on its way.
* A client that refuses our certificate says so in an alert, and `refused` is called: nobody else hears of it.
* At the file limit accepting pauses, and some of those who are owed nothing go, whether or not they ever asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from socket import socket
from typing import Any, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream

from hostport.accepting import Accepting
from hostport.crowd import Crowd

FREED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds."""

    handshake: float = 10.0
    headers: float = 10.0  # from their first byte on
    answer: float = 10.0  # in which something of it is unread all the time
    idle: float = 120.0  # the API server closes its own after 90

    @property
    def look(self) -> float:
        """How often it is looked who takes too long."""
        return min(1.0, self.handshake / 4, self.headers / 4, self.answer / 4)


PATIENCE = Patience()


class _Part(Enum):
    """What a connection has not finished, by the field of Patience."""

    HANDSHAKE = "handshake"
    HEADERS = "headers"
    ANSWER = "answer"

    def has_begun(self, stream: IOStream) -> bool:
        if self is _Part.ANSWER:
            return bool(stream.writing())
        return self is _Part.HANDSHAKE or bool(getattr(stream, "_read_buffer_size", 0))  # what has come of headers


@dataclass(slots=True)
class _Slow:
    """What a connection has not finished. `since` when is None until it has begun."""

    part: _Part
    since: float | None = None


class BoundedServer(HTTPServer):
    """See the module. Made inside the event loop. `more` is what HTTPServer takes."""

    def initialize(  # type: ignore[override]
        self,
        callback: Any,
        *,
        most: int,
        patience: Patience = PATIENCE,
        refused: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> None:
        super().initialize(callback, idle_connection_timeout=patience.idle, **more)
        self._patience = patience
        self._refused = refused
        self._crowd: Crowd[IOStream] = Crowd(most)
        self._slow: dict[IOStream, _Slow] = {}
        self._looking = asyncio.get_running_loop().call_later(patience.look, self._look)

    def stop(self) -> None:
        super().stop()
        self._looking.cancel()

    def add_sockets(self, sockets: Iterable[socket]) -> None:
        for sock in sockets:
            self._sockets[sock.fileno()] = sock
            accepting = Accepting(sock, self._handle_connection, self._make_room)
            self._handlers[sock.fileno()] = accepting.stop

    def _make_room(self) -> None:
        """There is no file for whoever waits: those who are owed least have theirs no longer."""
        for stream in self._crowd.to_free(FREED_AT_ONCE):
            self._drop(stream)

    def _drop(self, stream: IOStream | None) -> bool:
        if stream is None:
            return False
        self._left(stream)
        stream.close()
        return True

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        peer = str(address[0]) if address else ""
        if self._crowd.is_full(peer) and not self._drop(self._crowd.to_go(peer)):
            stream.close()
            return
        self._crowd.join(stream, peer)
        if isinstance(stream, SSLIOStream):
            self._slow[stream] = _Slow(_Part.HANDSHAKE, asyncio.get_running_loop().time())
            stream.wait_for_handshake().add_done_callback(lambda done: self._shaken(stream, done))
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self._left(_stream_of(server_conn))

    def _left(self, stream: IOStream) -> None:
        self._crowd.leave(stream)
        self._slow.pop(stream, None)

    def _shaken(self, stream: IOStream, done: asyncio.Future[SSLIOStream]) -> None:
        if is_refusal(stream.error):
            self._refused()
        if not done.cancelled() and done.exception() is None and stream in self._slow:
            self._slow[stream] = _Slow(_Part.HEADERS)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        stream = _stream_of(server_conn)
        slow = self._slow.get(stream)
        if slow is None or slow.part is not _Part.HANDSHAKE:
            self._slow[stream] = _Slow(_Part.HEADERS)
        self._crowd.waits(stream)
        return _Watched(super().start_request(server_conn, request_conn), self, stream)

    def has_headers(self, stream: IOStream) -> None:
        """The headers of a request are whole."""
        self._slow.pop(stream, None)
        self._crowd.heard(stream)

    def heard(self, stream: IOStream) -> None:
        """A piece of a body has come."""
        self._crowd.heard(stream)

    def owed(self, stream: IOStream) -> None:
        """A request is whole."""
        self._crowd.owed(stream)
        self._slow[stream] = _Slow(_Part.ANSWER)

    def _look(self) -> None:
        """Closes whoever takes too long for its handshake or its headers, or to read its answer."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self._patience.look, self._look)
        now = loop.time()
        for stream, slow in list(self._slow.items()):
            if not slow.part.has_begun(stream):
                slow.since = None
            elif slow.since is None:
                slow.since = now
            elif now - slow.since > getattr(self._patience, slow.part.value):
                self._drop(stream)


def is_refusal(error: BaseException | None) -> bool:
    """Whether the other side ended a handshake because it does not accept our certificate.

    OpenSSL has the alerts as `TLSV1_ALERT_UNKNOWN_CA`, `SSLV3_ALERT_BAD_CERTIFICATE` and the like.
    """
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    return "_ALERT_" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


class _Watched(HTTPMessageDelegate):
    """Tells the server how far a request is."""

    def __init__(self, request: HTTPMessageDelegate, server: BoundedServer, stream: IOStream) -> None:
        self._request = request
        self._server = server
        self._stream = stream

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._server.has_headers(self._stream)
        return self._request.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._server.heard(self._stream)
        return self._request.data_received(chunk)

    def finish(self) -> None:
        self._server.owed(self._stream)
        self._request.finish()

    def on_connection_close(self) -> None:
        self._request.on_connection_close()


def _stream_of(server_conn: object) -> IOStream:
    return cast("HTTP1ServerConnection", server_conn).stream
